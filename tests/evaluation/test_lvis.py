from __future__ import annotations

import copy
from pathlib import Path

import pytest
from evaluation.oracles import lvis_figures
from evaluation.random_sets import random_coco
from evaluation.sets import GOLDENS, dataset, load_golden, result

import openglip
from openglip.errors import DataError
from openglip.evaluation import lvis as lvis_module
from openglip.evaluation.coco import Scores
from openglip.evaluation.lvis import score_lvis
from openglip.evaluation.read import iterate_results, read_annotations


def judge_lvis(truth, found, **caps) -> Scores:
    annotations = read_annotations(truth, federated=True)
    return score_lvis(annotations, iterate_results(found, annotations), **caps)


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
        for image in load_golden("eval_lvis_fixed/detections.json")
        for k, (x1, y1, x2, y2), score in zip(image["category_ids"], image["boxes_xyxy"], image["scores"], strict=True)
    ]
    annotations = read_annotations(GOLDENS / "eval_lvis_fixed/ground_truth.json", federated=True)
    scores = score_lvis(annotations, iterate_results(found, annotations), per_class=per_class)
    expected = load_golden("eval_lvis_fixed/expected.json")[protocol]
    for name, value in expected["results"].items():
        assert scores.figures[name.split("@")[0] + suffix] == pytest.approx(value, abs=1e-9), name
    for category, value in expected["ap_per_category"].items():
        assert scores.per_category[f"class_{category}"]["AP" + suffix] == pytest.approx(value, abs=1e-9), category


def test_minival_is_recognised_by_the_urls() -> None:
    truth, found = random_coco(2, federated=True)
    for image in truth["images"][:5]:
        image["coco_url"] = image["coco_url"].replace("val2017", "train2017")
    whole = openglip.evaluate("lvis", truth, predictions=found)
    mini = openglip.evaluate("lvis", truth, predictions=found, split="minival")
    assert (whole.protocol["images"], mini.protocol["images"]) == (12, 7)
    assert {"AP_fixed", "APr_fixed", "APc_fixed", "APf_fixed", "AP", "APr", "APc", "APf"} <= set(mini.figures)
    assert "10000" in str(mini.protocol["AP_fixed"])
    assert "300" in str(mini.protocol["AP"])


def test_federated_negatives() -> None:
    def truth(**lists):
        data = dataset([[(0, 0, 100, 100)], [(0, 0, 100, 100)]], neg_category_ids=[], not_exhaustive_category_ids=[])
        data["annotations"].append({"id": 9, "image_id": 1, "category_id": 2, "bbox": [200, 200, 50, 50], "area": 2500})
        data["images"][0] |= lists
        return data

    stray = result(0, (300, 300, 50, 50), 0.99, category=2)
    found = [result(0, (0, 0, 100, 100), 0.9), result(1, (0, 0, 100, 100), 0.9), result(1, (200, 200, 50, 50), 0.8, 2)]
    assert judge_lvis(truth(), [*found, stray]).figures["AP_fixed"] == pytest.approx(1.0)
    negative = judge_lvis(truth(neg_category_ids=[2]), [*found, stray]).per_category["class 2"]
    assert negative["AP_fixed"] == pytest.approx(0.5)
    both = truth(neg_category_ids=[2], not_exhaustive_category_ids=[2])
    assert judge_lvis(both, [*found, stray]).figures["AP_fixed"] == pytest.approx(1.0)
    open_one = truth(not_exhaustive_category_ids=[1])  # a matched one counts, an unmatched one is ignored
    extra = result(0, (300, 300, 50, 50), 0.99)
    assert judge_lvis(open_one, [*found, extra]).figures["AP_fixed"] == pytest.approx(1.0)
    assert judge_lvis(open_one, found[1:]).figures["AP_fixed"] < 1.0


def test_fixed_ap_limits_a_class_over_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lvis_module, "SLACK", 7)  # the surplus is dropped several times on the way
    truth = dataset([[(0, 0, 100, 100)], [(0, 0, 100, 100)]], neg_category_ids=[1], not_exhaustive_category_ids=[])
    noise = [result(0, (300, 300, 20, 20), 0.5) for _ in range(400)]
    late = [result(1, (0, 0, 100, 100), 0.4)]
    scores = judge_lvis(truth, noise + late)
    assert scores.per_category["class 1"]["AP50_fixed"] > 0  # 400 boxes on one image survive, and so does the 401st
    assert judge_lvis(truth, noise + late, per_class=400).per_category["class 1"]["AP50_fixed"] == 0.0
    first = [result(0, (0, 0, 100, 100), 0.5)]  # of equal scores the first in the file stays
    assert judge_lvis(truth, first + noise, per_class=1).per_category["class 1"]["AP50_fixed"] > 0
    assert judge_lvis(truth, noise + first, per_class=1).per_category["class 1"]["AP50_fixed"] == 0.0


def test_lvis_needs_its_lists() -> None:
    whole, found = random_coco(1, federated=True)
    truth = copy.deepcopy(whole)
    del truth["images"][1]["neg_category_ids"]
    with pytest.raises(DataError, match=f"image {truth['images'][1]['id']} has no list 'neg_category_ids'"):
        openglip.evaluate("lvis", truth, predictions=found)
    truth = copy.deepcopy(whole)
    del truth["categories"][0]["frequency"]
    with pytest.raises(DataError, match=f"category {truth['categories'][0]['id']} has no frequency"):
        openglip.evaluate("lvis", truth, predictions=found)


def check_lvis(seed: int, path: Path) -> None:
    truth, found = random_coco(seed, federated=True, per_image=30)
    annotations = read_annotations(truth, federated=True)
    if not found:
        return
    for per_image in (5, 300):
        scores = score_lvis(annotations, iterate_results(found, annotations), per_image=per_image)
        for name, value in lvis_figures(truth, found, path, per_image=per_image).items():
            assert scores.figures[name.split("@")[0]] == pytest.approx(value, abs=1e-9), (seed, name)
    fixed = lvis_figures(truth, found, path, per_image=-1)  # the package without its cap is fixed AP below 10,000
    assert scores.figures["AP_fixed"] == pytest.approx(fixed["AP"], abs=1e-9), seed


@pytest.mark.filterwarnings("ignore:The 'warn' method")
def test_random_sets_equal_the_lvis_package(tmp_path: Path) -> None:
    for seed in range(20):
        check_lvis(seed, tmp_path / "truth.json")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The 'warn' method")
def test_a_thousand_random_sets(tmp_path: Path) -> None:
    for seed in range(1000, 2000):
        check_lvis(seed, tmp_path / "truth.json")
