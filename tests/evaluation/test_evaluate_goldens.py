"""The committed outputs of the reference evaluators (tests/goldens/eval_*), to 1e-9."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openglip.evaluation.coco import FIGURES, coco
from openglip.evaluation.flickr import flickr, read_sentences
from openglip.evaluation.lvis import lvis
from openglip.evaluation.read import read_annotations, read_results, results

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


def load(name: str):
    return json.loads((GOLDENS / name).read_text())


def test_coco_equals_pycocotools() -> None:
    rows = load("eval_coco/detections.json")["rows"]
    found = [{"image_id": r[0], "category_id": r[1], "bbox": r[2:6], "score": r[6]} for r in rows]
    annotations = read_annotations(GOLDENS / "eval_coco/ground_truth.json")
    scores = coco(annotations, read_results(found, annotations))
    expected = load("eval_coco/expected.json")
    assert [scores.figures[name] for name in FIGURES] == pytest.approx(list(expected["stats"].values()), abs=1e-9)
    for category, values in expected["ap_per_category"].items():
        assert scores.per_category[f"cat_{category}"]["AP"] == pytest.approx(values["mean_over_valid"], abs=1e-9)


@pytest.mark.parametrize(
    ("protocol", "suffix", "per_class"),
    [
        ("fixed_10000_per_class", "_fixed", 10_000),
        ("original_300_per_image", "", 10_000),
        ("fixed_with_cap_30_per_class", "_fixed", 30),
    ],
)
def test_lvis_equals_both_protocols(protocol: str, suffix: str, per_class: int) -> None:
    found = [
        {"image_id": image["image_id"], "category_id": k, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image in load("eval_lvis_fixed/detections.json")
        for k, (x1, y1, x2, y2), score in zip(image["category_ids"], image["boxes_xyxy"], image["scores"], strict=True)
    ]
    annotations = read_annotations(GOLDENS / "eval_lvis_fixed/ground_truth.json", federated=True)
    scores = lvis(annotations, results(found, annotations), per_class=per_class)
    expected = load("eval_lvis_fixed/expected.json")[protocol]
    for name, value in expected["results"].items():
        assert scores.figures[name.split("@")[0] + suffix] == pytest.approx(value, abs=1e-9), name
    for category, value in expected["ap_per_category"].items():
        assert scores.per_category[f"class_{category}"]["AP" + suffix] == pytest.approx(value, abs=1e-9), category


def write_entities(root: Path) -> None:
    """The golden's ground truth as Flickr30k Entities is distributed."""
    for folder in ("Sentences", "Annotations"):
        (root / folder).mkdir()
    golden = load("eval_flickr/ground_truth.json")
    for image, record in golden["images"].items():
        (root / "Sentences" / f"{image}.txt").write_text("\n".join(golden["sentence_files"][image]) + "\n")
        size = f"<size><width>{record['width']}</width><height>{record['height']}</height></size>"
        corners = ("xmin", "ymin", "xmax", "ymax")
        objects = [
            f"<object><name>{chain}</name><bndbox>"
            + "".join(f"<{c}>{v}</{c}>" for c, v in zip(corners, box, strict=True))
            + "</bndbox></object>"
            for chain, boxes in record["boxes"].items()
            for box in boxes
        ]
        objects += [f"<object><name>{c}</name><nobndbox>1</nobndbox></object>" for c in record["nobox"]]
        objects += [f"<object><name>{c}</name><scene>1</scene></object>" for c in record["scene"]]
        xml = f"<annotation>{size}{''.join(objects)}</annotation>"
        (root / "Annotations" / f"{image}.xml").write_text(xml)


def test_flickr_recalls(tmp_path: Path) -> None:
    write_entities(tmp_path)
    sentences, known = read_sentences(tmp_path)
    assert len(sentences) == len(load("eval_flickr/ground_truth.json")["phrases_evaluated"])
    scores = flickr(sentences, known, GOLDENS / "eval_flickr/predictions.json")
    expected = load("eval_flickr/expected.json")
    names = {"Recall@1": "R@1", "Recall@5": "R@5", "Recall@10": "R@10", "Upper_bound": "R@all"}
    for table, target in (("separate", "any_box"), ("merged", "merged_box")):
        for name, value in expected[table].items():
            measure, group = name.rsplit("_", 1)
            own = f"{target}/{names[measure]}" + ("" if group == "all" else f"/{group}")
            assert scores.figures[own] == pytest.approx(value, abs=1e-9), own
