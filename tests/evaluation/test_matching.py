"""Checks that every evaluator of detections should pass, on synthetic data, and equality with pycocotools."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from evaluation.oracles import pycocotools_figures
from evaluation.random_sets import random_coco
from evaluation.sets import dataset, perfect, result

from openglip.evaluation.coco import FIGURES, Scores, score_coco
from openglip.evaluation.lvis import score_lvis
from openglip.evaluation.read import iterate_results, read_annotations, read_results

BOXES = [[(0, 0, 20, 20), (100, 0, 50, 50)], [(0, 0, 200, 200)], [(10, 10, 60, 40), (200, 200, 120, 100)]]


def judge(truth, found) -> Scores:
    annotations = read_annotations(truth)
    return score_coco(annotations, read_results(found, annotations))


def judge_lvis(truth, found, **caps) -> Scores:
    annotations = read_annotations(truth, federated=True)
    return score_lvis(annotations, iterate_results(found, annotations), **caps)


def test_1_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    for federated, by in ((False, judge), (True, judge_lvis)):
        truth, found = random_coco(3, federated=federated)
        for i, row in enumerate(found):
            row["score"] = float(0.1 + i / 10_000)
        before = by(truth, found)
        shuffled = copy.deepcopy(truth)
        for key in ("images", "annotations", "categories"):
            shuffled[key] = [shuffled[key][i] for i in rng.permutation(len(shuffled[key]))]
        after = by(shuffled, [found[i] for i in rng.permutation(len(found))])
        assert after.figures == before.figures
        assert after.per_category == before.per_category


def test_2_perfect_is_one_everywhere() -> None:
    truth = dataset(BOXES)
    scores = judge(truth, perfect(truth))
    assert all(scores.figures[name] == pytest.approx(1.0) for name in FIGURES if name not in ("AR1",))
    assert scores.per_category["class 2"] == {"AP": -1.0, "AP50": -1.0}
    fake = copy.deepcopy(truth)
    fake["categories"] += [{"id": k, "name": f"fake {k}"} for k in range(50, 60)]
    assert judge(fake, perfect(truth)).figures == scores.figures
    shift = 26 / 174  # of the width: IoU 0.74
    moved = [r | {"bbox": [r["bbox"][0] + shift * r["bbox"][2], *r["bbox"][1:]]} for r in perfect(truth)]
    figures = judge(truth, moved).figures
    assert figures["AP50"] == pytest.approx(1.0)
    assert figures["AP75"] == 0.0


def test_3_duplicates_and_noise() -> None:
    truth = dataset(BOXES)
    whole = perfect(truth, score=lambda i: 0.9 - i / 10)
    doubles = whole + [r | {"score": r["score"] - 0.01} for r in whole]
    assert judge(truth, doubles).figures["AP"] < judge(truth, whole).figures["AP"]
    noise = [result(i, (300, 400, 30, 30), 0.01 - i / 1000) for i in range(3)]
    assert judge(truth, whole + noise).figures["AP"] == judge(truth, whole).figures["AP"]
    for i in range(len(whole)):  # objects are apart and have one box each, so that each box lost is AP lost
        assert judge(truth, whole[:i] + whole[i + 1 :]).figures["AP50"] < 1.0


def test_5_area_ranges_include_both_ends() -> None:
    areas = [1023, 1024, 9215, 9216, 9217]
    boxes = [[(10 * i, 10 * i, 50 + i, 50 + i)] for i in range(5)]
    truth = dataset(boxes, areas=areas)  # areas of masks: not those of the boxes
    found = perfect(truth)
    figures = judge(truth, found).figures
    reference, _ = pycocotools_figures(truth, found)
    assert figures == pytest.approx(reference, abs=1e-9)
    counts = {name: sum(low <= a <= high for a in areas) for name, low, high in (("s", 0, 1024), ("m", 1024, 9216))}
    assert counts == {"s": 2, "m": 3}
    large = [result(0, (200, 200, 200, 200), 0.99)]  # above everything, matches nothing: false only among the large
    with_noise = judge(truth, large + found).figures
    assert with_noise["APs"] == figures["APs"]
    assert with_noise["APl"] < figures["APl"]


def test_6_ties_keep_the_order_of_the_file() -> None:
    truth = dataset([[(0, 0, 100, 100)], [(0, 0, 100, 100)]])
    right, wrong = result(0, (0, 0, 100, 100), 0.5), result(0, (300, 300, 50, 50), 0.5)
    for found in ([right, wrong], [wrong, right]):
        assert judge(truth, found).figures == pytest.approx(pycocotools_figures(truth, found)[0], abs=1e-9)
    assert judge(truth, [right, wrong]).figures["AP"] > judge(truth, [wrong, right]).figures["AP"]


def test_7_crowds_and_ignored() -> None:
    truth = dataset([[(0, 0, 200, 200), (300, 300, 50, 50)]], crowd=(0,))
    inside = [result(0, (10, 10, 40, 40), 0.9), result(0, (60, 60, 40, 40), 0.8)]
    figures = judge(truth, [*inside, result(0, (300, 300, 50, 50), 0.7)]).figures
    assert figures["AP"] == pytest.approx(1.0)
    assert figures["AR100"] == pytest.approx(1.0)  # the crowd does not count in recall
    both = dataset([[(0, 0, 200, 200), (0, 0, 100, 100)]], crowd=(0,))
    assert judge(both, [result(0, (0, 0, 100, 100), 0.9)]).figures["AP"] == pytest.approx(1.0)
    ignored = copy.deepcopy(truth)
    ignored["annotations"][1]["ignore"] = 1  # COCO: overwritten by iscrowd
    assert judge(ignored, inside).figures == judge(truth, inside).figures
    federated = dataset([[(0, 0, 100, 100), (300, 300, 50, 50)]], neg_category_ids=[], not_exhaustive_category_ids=[])
    federated["annotations"][0]["ignore"] = 1
    scores = judge_lvis(federated, [result(0, (0, 0, 100, 100), 0.9), result(0, (300, 300, 50, 50), 0.8)])
    assert scores.figures["AP"] == scores.figures["AP_fixed"] == pytest.approx(1.0)


def check_coco(seed: int) -> None:
    truth, found = random_coco(seed)
    annotations = read_annotations(truth)
    if not found:
        return
    scores = score_coco(annotations, read_results(found, annotations))
    figures, per_class = pycocotools_figures(truth, found)
    assert scores.figures == pytest.approx(figures, abs=1e-9), seed
    assert {k: v["AP"] for k, v in scores.per_category.items()} == pytest.approx(per_class, abs=1e-9), seed


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_sets_equal_pycocotools(first: int) -> None:
    for seed in range(first, first + 10):
        check_coco(seed)


@pytest.mark.slow
def test_a_thousand_random_sets() -> None:
    for seed in range(1000, 2000):
        check_coco(seed)
