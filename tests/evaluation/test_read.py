"""What can't be evaluated is refused by file and id; what is odd but clear is evaluated as documented."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
from evaluation.random_sets import random_coco

import openglip
from openglip.errors import DataError
from openglip.evaluation import read as read_module
from openglip.evaluation.read import json_items, read_annotations, read_results
from openglip.evaluation.report import EvaluationReport

TRUTH, FOUND = random_coco(1, federated=True)


def judge(tmp_path: Path, benchmark: str, truth, found) -> EvaluationReport:
    paths = []
    for name, content in (("truth.json", truth), ("found.json", found)):
        paths.append(tmp_path / name)
        paths[-1].write_text(content if isinstance(content, str) else json.dumps(content))
    return openglip.evaluate(benchmark, paths[0], predictions=paths[1])


def changed(rows, index, **values):
    rows = copy.deepcopy(rows)
    rows[index] |= values
    return rows


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (changed(FOUND, 4, image_id=987654), r"found\.json: entry 4 \(image_id 987654\): no such image"),
        (changed(FOUND, 4, image_id="a"), r"found\.json: entry 4 \(image_id 'a'\)"),
        (changed(FOUND, 4, image_id=[1]), r"found\.json: entry 4"),
        (changed(FOUND, 5, category_id=1234), r"found\.json: entry 5 .*no category with id 1234"),
        (changed(FOUND, 6, score=float("nan")), r"found\.json: entry 6 .*not a finite number: nan"),
        (changed(FOUND, 6, score=float("inf")), r"found\.json: entry 6 .*not a finite number: inf"),
        (changed(FOUND, 6, score="0.5"), r"found\.json: entry 6 .*not a finite number: '0.5'"),
        (changed(FOUND, 6, score=None), r"found\.json: entry 6"),
        (changed(FOUND, 7, bbox=[1, 2, -3, 4]), r"found\.json: entry 7 .*negative size: \[1, 2, -3, 4\]"),
        (changed(FOUND, 7, bbox=[1, 2, 3]), r"found\.json: entry 7 .*not four numbers"),
        (changed(FOUND, 7, bbox=[1, 2, 3, float("nan")]), r"found\.json: entry 7 .*not finite"),
        ([*FOUND, 5], rf"found\.json: entry {len(FOUND)} is not an object"),
        ([{"image_id": FOUND[0]["image_id"]}], r"found\.json: entry 0"),
        (json.dumps(FOUND)[:-20], rf"found\.json: .*wrong after {len(FOUND) - 1} entries"),
        (json.dumps(FOUND).replace("}, {", "} {", 1), r"found\.json: not a valid JSON list of results: wrong after 1"),
        (json.dumps(FOUND) + "x", r"found\.json: more text after the list"),
        ("", r"found\.json: not a valid JSON list"),
        ({"a": 1}, r"found\.json: not a valid JSON list"),
    ],
)
@pytest.mark.parametrize("benchmark", ["coco", "lvis", "custom"])
def test_predictions(tmp_path: Path, benchmark: str, found, message: str) -> None:
    with pytest.raises(DataError, match=message):
        judge(tmp_path, benchmark, TRUTH, found)


def without(key):
    return {k: v for k, v in TRUTH.items() if k != key}


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (without("categories"), "truth.json: no list of 'categories'"),
        (TRUTH | {"categories": []}, "truth.json: the list of categories is empty"),
        (
            TRUTH | {"images": [*TRUTH["images"], TRUTH["images"][2]]},
            f"image id {TRUTH['images'][2]['id']} occurs twice",
        ),
        (TRUTH | {"annotations": changed(TRUTH["annotations"], 3, image_id=-5)}, "annotation 4: no such image_id: -5"),
        (
            TRUTH | {"annotations": changed(TRUTH["annotations"], 3, category_id=-5)},
            "annotation 4: no such category_id",
        ),
        (TRUTH | {"annotations": changed(TRUTH["annotations"], 3, bbox=[0, 0, -1, 1])}, "annotation 4 .*negative size"),
        (TRUTH | {"annotations": changed(TRUTH["annotations"], 3, bbox=None)}, "annotation 4 .*not four numbers"),
        (TRUTH | {"annotations": changed(TRUTH["annotations"], 3, area="x")}, "annotation 4 .*area is not"),
        (json.dumps(TRUTH)[:-9], "truth.json: not json at line 1"),
        ([], "truth.json: a COCO file is an object"),
    ],
)
def test_annotations(tmp_path: Path, truth, message: str) -> None:
    with pytest.raises(DataError, match=message):
        judge(tmp_path, "coco", truth, FOUND)


@pytest.mark.parametrize("benchmark", ["coco", "lvis", "custom"])
def test_no_results_give_zeros(tmp_path: Path, benchmark: str) -> None:
    figures = judge(tmp_path, benchmark, TRUTH, []).figures
    assert figures["AP"] == 0.0
    assert all(value <= 0.0 for name, value in figures.items() if name[:2] in ("AP", "AR"))


def test_images_without_results_are_empty_and_ids_select_images() -> None:
    some = [r for r in FOUND if r["image_id"] == FOUND[0]["image_id"]]
    ids = [FOUND[0]["image_id"]]
    chosen = openglip.evaluate("coco", TRUTH, predictions=FOUND, ids=ids)
    selected = TRUTH | {
        "images": [i for i in TRUTH["images"] if i["id"] in ids],
        "annotations": [a for a in TRUTH["annotations"] if a["image_id"] in ids],
    }
    assert chosen.figures == openglip.evaluate("coco", selected, predictions=some).figures
    assert openglip.evaluate("coco", TRUTH, predictions=some).figures["AR100"] < chosen.figures["AR100"]
    with pytest.raises(DataError, match="no image with id 77777"):
        openglip.evaluate("coco", TRUTH, predictions=FOUND, ids=["77777"])


def test_areas_and_crowds_may_be_left_out() -> None:
    plain = copy.deepcopy(TRUTH)
    for row in plain["annotations"]:
        row |= {"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
    bare = copy.deepcopy(plain)
    for row in bare["annotations"]:
        del row["area"], row["iscrowd"]
    figures = [openglip.evaluate("coco", t, predictions=FOUND).figures for t in (plain, bare)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("block", [1, 3, 64, 1 << 20])
def test_blocks_may_end_anywhere(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_module, "BLOCK", block)
    path = tmp_path / "rows.json"
    rows = [{"text": 'a "quoted, } ] é"', "n": [1.5e-3, -20]}, {}, {"a": {"b": []}}]
    for text in (json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False) + "\n", "[]", " [ ] "):
        path.write_text(text, encoding="utf-8")
        assert list(json_items(path)) == json.loads(text)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = read_annotations(TRUTH)
    whole = read_results(FOUND, annotations)
    monkeypatch.setattr(read_module, "BATCH", 5)
    parts = read_results(FOUND, annotations)
    assert all(np.array_equal(getattr(whole, n), getattr(parts, n)) for n in ("image", "category", "boxes", "scores"))


def test_names_that_occur_twice_stay_apart() -> None:
    truth = copy.deepcopy(TRUTH)
    for category in truth["categories"][:2]:
        category["name"] = "thing"
    names = openglip.evaluate("coco", truth, predictions=FOUND).per_category
    assert len(names) == len(truth["categories"])
    assert sum(bool(re.fullmatch(r"thing \(id \d+\)", name)) for name in names) == 2
