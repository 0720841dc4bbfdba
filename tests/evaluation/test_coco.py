from __future__ import annotations

import pytest
from evaluation.random_sets import random_coco
from evaluation.sets import GOLDENS, coco_file, hit, load_golden, square

import openglip
from openglip.errors import DataError
from openglip.evaluation.coco import FIGURES, score_coco
from openglip.evaluation.read import read_annotations, read_results
from openglip.prompts.tables import coco_ov_split, read_table


def test_coco_equals_pycocotools() -> None:
    rows = load_golden("eval_coco/detections.json")["rows"]
    found = [{"image_id": r[0], "category_id": r[1], "bbox": r[2:6], "score": r[6]} for r in rows]
    annotations = read_annotations(GOLDENS / "eval_coco/ground_truth.json")
    scores = score_coco(annotations, read_results(found, annotations))
    expected = load_golden("eval_coco/expected.json")
    assert [scores.figures[name] for name in FIGURES] == pytest.approx(list(expected["stats"].values()), abs=1e-9)
    for category, values in expected["ap_per_category"].items():
        assert scores.per_category[f"cat_{category}"]["AP"] == pytest.approx(values["mean_over_valid"], abs=1e-9)


def test_plus_one_is_the_official_width() -> None:
    truth = coco_file([square(1, 0, box=(10, 10, 11, 11))])
    found = [hit(0, 0.5, box=(10, 10, 10, 10))]
    assert openglip.evaluate("coco", truth, predictions=found).figures["AP75"] == pytest.approx(1.0)
    assert openglip.evaluate("coco", truth, predictions=found).figures["AP"] < 1.0
    report = openglip.evaluate("coco", truth, predictions=found, plus_one=True)
    assert report.figures["AP"] == pytest.approx(1.0)
    assert report.protocol["widths"] == "x2 - x1 + 1"


def test_every_figure_is_present() -> None:
    truth, found = random_coco(1)
    report = openglip.evaluate("coco", truth, predictions=found)
    assert list(report.figures) == list(FIGURES)
    assert all(set(values) == {"AP", "AP50"} for values in report.per_category.values())


def test_split_is_the_published_one() -> None:
    split = coco_ov_split()
    assert (len(split["base"]), len(split["novel"])) == (48, 17)
    assert len({*split["base"], *split["novel"]}) == 65
    assert {*split["base"], *split["novel"]} <= set(read_table("coco"))


def test_generalized_figures_and_both_conventions() -> None:
    truth = coco_file(
        [square(1, 0, 1), square(2, 1, 2), square(3, 2, 3)], names=("person", "cat", "stop sign"), images=5
    )
    found = [hit(0, 0.9, 1), hit(1, 0.9, 2), hit(1, 0.8, 1), hit(2, 0.9, 3), hit(4, 0.95, 2)]
    every = openglip.evaluate("coco-ov", truth, predictions=found)
    assert set(every.figures) == {"AP50_novel", "AP50_base", "AP50_all"}
    assert every.figures["AP50_base"] == pytest.approx(1.0)
    assert every.figures["AP50_novel"] == pytest.approx(0.5)  # image 4 has none of the classes: a false alarm
    assert every.figures["AP50_all"] == pytest.approx(0.75)
    assert set(every.per_category) == {"person", "cat"}
    labelled = openglip.evaluate("coco-ov", truth, predictions=found, labelled_only=True)
    assert labelled.figures["AP50_novel"] == pytest.approx(1.0)
    assert labelled.protocol["images_judged"] == 2
    assert "4,836" in str(labelled.protocol["convention"])
    with pytest.raises(DataError, match="none of the 65"):
        openglip.evaluate("coco-ov", coco_file([], names=("dragon",)), predictions=[])
