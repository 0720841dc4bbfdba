from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation.sets import GOLDENS, load_golden, write, write_entities

import openglip
from openglip.errors import DataError
from openglip.evaluation.flickr import read_sentences, score_flickr


def test_flickr_recalls(tmp_path: Path) -> None:
    write_entities(tmp_path)
    sentences, all_ids = read_sentences(tmp_path)
    assert len(sentences) == len(load_golden("eval_flickr/ground_truth.json")["phrases_evaluated"])
    scores = score_flickr(sentences, all_ids, GOLDENS / "eval_flickr/predictions.json")
    expected = load_golden("eval_flickr/expected.json")
    names = {"Recall@1": "R@1", "Recall@5": "R@5", "Recall@10": "R@10", "Upper_bound": "R@all"}
    for table, target in (("separate", "any_box"), ("merged", "merged_box")):
        for name, value in expected[table].items():
            measure, group = name.rsplit("_", 1)
            figure = f"{target}/{names[measure]}" + ("" if group == "all" else f"/{group}")
            assert scores.figures[figure] == pytest.approx(value, abs=1e-9), figure


def test_root_and_mdetr_file_agree(tmp_path: Path) -> None:
    write_entities(tmp_path)
    golden = json.loads((GOLDENS / "eval_flickr/ground_truth.json").read_text())
    images, rows = [], []
    for stem, record in golden["images"].items():
        for number, phrases in ((n, golden["phrases_evaluated"].get(f"{stem}_{n}")) for n in range(9)):
            if phrases is None:
                continue
            spans = [[[10 * i, 10 * i + 5]] for i in range(len(phrases))]
            key = len(images)
            images.append({"id": key, "file_name": f"{stem}.jpg", "height": 1, "width": 1, "caption": "x" * 99})
            images[-1] |= {"sentence_id": number, "original_img_id": int(stem), "tokens_positive_eval": spans}
            for span, phrase in zip(spans, phrases, strict=True):
                for x1, y1, x2, y2 in record["boxes"][phrase["phrase_id"]]:
                    rows.append({"image_id": key, "bbox": [x1, y1, x2 - x1, y2 - y1], "tokens_positive": span})
    mdetr = write(tmp_path / "mdetr.json", {"images": images, "annotations": rows})
    predictions = GOLDENS / "eval_flickr/predictions.json"
    reports = [openglip.evaluate("flickr30k", source, predictions=predictions) for source in (tmp_path, mdetr)]
    for name in ("any_box/R@1", "any_box/R@10", "merged_box/R@5", "merged_box/R@all"):
        assert reports[0].figures[name] == reports[1].figures[name]
    assert reports[1].figures["any_box/R@1/people"] == -1.0  # the file knows no types


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "sentence 0 of image 1000 is missing"),
        (lambda rows: [*rows, rows[0]], r"entry 24 \(image 1000, sentence 0\): the sentence is there twice"),
        (lambda rows: [{**rows[0], "image_id": 5}, *rows[1:]], r"entry 0 \(image 5, sentence 0\): no such image"),
        (lambda rows: [{**rows[0], "boxes": rows[0]["boxes"][1:]}, *rows[1:]], "2 lists of boxes for 3 phrases"),
        (lambda rows: [{**rows[0], "boxes": [[[0, 0, 1, float("nan")]], [], []]}, *rows[1:]], "not finite"),
        (lambda rows: [{"image_id": 1000}, *rows[1:]], "entry 0 is not a sentence with boxes"),
    ],
)
def test_predictions_are_checked(tmp_path: Path, change, message: str) -> None:
    write_entities(tmp_path)
    rows = json.loads((GOLDENS / "eval_flickr/predictions.json").read_text())
    found = write(tmp_path / "found.json", change(rows))
    with pytest.raises(DataError, match=rf"found\.json: .*{message}"):
        openglip.evaluate("flickr30k", tmp_path, predictions=found)


def test_empty_lists_are_misses_and_ids_select_images(tmp_path: Path) -> None:
    write_entities(tmp_path)
    rows = json.loads((GOLDENS / "eval_flickr/predictions.json").read_text())
    empty = [{**row, "boxes": [[] for _ in row["boxes"]]} for row in rows]
    figures = openglip.evaluate("flickr30k", tmp_path, predictions=empty).figures
    assert {v for k, v in figures.items() if k.count("/") == 1} == {0.0}
    one = openglip.evaluate("flickr30k", tmp_path, predictions=rows, ids=["1000"])
    assert one.protocol["sentences"] == 2
    with pytest.raises(DataError, match="no image with id 31"):
        openglip.evaluate("flickr30k", tmp_path, predictions=rows, ids=["31"])
