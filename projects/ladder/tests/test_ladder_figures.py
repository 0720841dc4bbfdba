"""The ladder's figures by photo are the evaluation's own, and a photo that is drawn twice is two photos."""

from __future__ import annotations

import json
from pathlib import Path

import ladder_figures
import numpy as np
import pytest
from evaluation.random_sets import random_coco

from openglip.evaluation.coco import score_coco
from openglip.evaluation.flickr import Phrase, Sentence, score_flickr
from openglip.evaluation.read import read_annotations, read_results


@pytest.mark.parametrize("seed", range(8))
def test_average_precision(seed: int, tmp_path: Path) -> None:
    truth, found = random_coco(seed)
    (tmp_path / "found.json").write_text(json.dumps(found))
    annotations = read_annotations(truth)
    figure = ladder_figures.ap50(annotations, tmp_path / "found.json")
    once = np.ones(len(annotations.images))
    assert figure(once) == pytest.approx(
        score_coco(annotations, read_results(found, annotations)).figures["AP50"], abs=1e-9
    )
    only = (np.arange(len(once)) % 2).astype(float)
    kept = [image["id"] for image, weight in zip(annotations.images, only, strict=True) if weight]
    part = read_annotations(truth, kept)
    expected = score_coco(part, read_results([f for f in found if f["image_id"] in kept], part)).figures["AP50"]
    assert figure(only) == pytest.approx(expected, abs=1e-9)


def test_recall(tmp_path: Path) -> None:
    box = np.array([[0.0, 0, 10, 10]])
    sentences = [
        Sentence(1, 0, "a dog", (50, 50), (Phrase(((0, 5),), (), box),)),
        Sentence(2, 0, "a cat and a dog", (50, 50), (Phrase(((0, 5),), (), box), Phrase(((10, 15),), (), box + 20))),
    ]
    found = [
        {"image_id": 1, "sentence_id": 0, "boxes": [[[30, 30, 40, 40], [0, 0, 10, 10]]]},
        {"image_id": 2, "sentence_id": 0, "boxes": [[[0, 0, 10, 9]], []]},
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    figure = ladder_figures.recall(sentences, tmp_path / "found.json")
    assert figure(np.ones(2)) == pytest.approx(score_flickr(sentences, {"1", "2"}, found).figures["any_box/R@1"])
    assert figure(np.array([1.0, 0.0])) == 0
    assert figure(np.array([5.0, 1.0])) == pytest.approx(1 / 7)
