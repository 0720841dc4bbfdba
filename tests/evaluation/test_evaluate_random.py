"""Equality with pycocotools and the lvis package on random sets, to 1e-9."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation.oracles import lvis_figures, pycocotools_figures
from evaluation.random_sets import random_coco

from openglip.evaluation.coco import coco
from openglip.evaluation.lvis import lvis
from openglip.evaluation.read import read_annotations, read_results, results


def check_coco(seed: int) -> None:
    truth, found = random_coco(seed)
    annotations = read_annotations(truth)
    if not found:
        return
    scores = coco(annotations, read_results(found, annotations))
    figures, per_class = pycocotools_figures(truth, found)
    assert scores.figures == pytest.approx(figures, abs=1e-9), seed
    assert {k: v["AP"] for k, v in scores.per_category.items()} == pytest.approx(per_class, abs=1e-9), seed


def check_lvis(seed: int, path: Path) -> None:
    truth, found = random_coco(seed, federated=True, per_image=30)
    annotations = read_annotations(truth, federated=True)
    if not found:
        return
    for per_image in (5, 300):
        scores = lvis(annotations, results(found, annotations), per_image=per_image)
        for name, value in lvis_figures(truth, found, path, per_image=per_image).items():
            assert scores.figures[name.split("@")[0]] == pytest.approx(value, abs=1e-9), (seed, name)
    fixed = lvis_figures(truth, found, path, per_image=-1)  # the package without its cap is fixed AP below 10,000
    assert scores.figures["AP_fixed"] == pytest.approx(fixed["AP"], abs=1e-9), seed


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_coco(first: int) -> None:
    for seed in range(first, first + 10):
        check_coco(seed)


@pytest.mark.filterwarnings("ignore:The 'warn' method")
def test_lvis(tmp_path: Path) -> None:
    for seed in range(20):
        check_lvis(seed, tmp_path / "truth.json")


@pytest.mark.slow
def test_a_thousand_sets(tmp_path: Path) -> None:
    for seed in range(1000, 2000):
        check_coco(seed)
        check_lvis(seed, tmp_path / "truth.json")
