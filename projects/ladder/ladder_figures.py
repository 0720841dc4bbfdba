"""Figures of the ladder's runs with their sampling error: photos drawn with replacement, the same for every run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openglip.data.files import read_json
from openglip.evaluation.coco import MAX_DETECTIONS
from openglip.evaluation.flickr import IOU, Sentence
from openglip.evaluation.matching import RECALL_POINTS, match, sort_predictions
from openglip.evaluation.read import Annotations, read_results
from openglip.structures import boxes as bx

DRAWS = 2000
PAIRS = (
    *(("A", "closed"), ("B", "A"), ("C", "B"), ("C", "A"), ("T", "C"), ("Upper", "C"), ("Upper", "T")),
    *(("T05", "C"), ("Upper", "T05")),
)
Figure = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Recall:
    """Phrases found at rank 1, and phrases, of each photo."""

    hits: np.ndarray
    phrases: np.ndarray

    def __call__(self, weights: np.ndarray) -> float:
        """weights: how often each photo counts."""
        return float(weights @ self.hits / (weights @ self.phrases))


def recall(sentences: Sequence[Sentence], predictions: Path) -> Recall:
    """Any-box Recall@1 by photo; as `openglip.evaluation.flickr` when every photo counts once."""
    photos = {image: i for i, image in enumerate(sorted({str(s.image_id) for s in sentences}))}
    hits, phrases = np.zeros(len(photos)), np.zeros(len(photos))
    rows = read_json(predictions)
    assert isinstance(rows, list)
    found = {(str(row["image_id"]), row["sentence_id"]): row["boxes"] for row in rows}
    for s in sentences:
        photo = photos[str(s.image_id)]
        for phrase, boxes in zip(s.phrases, found[str(s.image_id), s.number], strict=True):
            best = np.array(boxes[:1], float).reshape(-1, 4)
            hits[photo] += bool((bx.iou(best, phrase.boxes) >= IOU).any())
            phrases[photo] += 1
    return Recall(hits, phrases)


@dataclass(frozen=True)
class AP50:
    """By class: photo and rightness of each box found, by falling score; photos of the boxes to find."""

    classes: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    photos: int

    def __call__(self, weights: np.ndarray) -> float:
        """weights: how often each photo counts. A class that no counted photo has is left out of the mean."""
        values = []
        for photo, right, true in self.classes:
            total = weights[true].sum()
            if not total:
                continue
            counted = weights[photo]
            good, all_ = np.cumsum(counted * right), np.cumsum(counted)
            precision = np.divide(good, all_, out=np.zeros(len(good)), where=all_ > 0)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            place = np.searchsorted(good / total, RECALL_POINTS, side="left")
            values.append(np.append(envelope, 0.0)[np.minimum(place, len(envelope))].mean())
        return float(np.mean(values))


def ap50(annotations: Annotations, predictions: Path) -> AP50:
    """COCO's AP at IoU 0.5; as `openglip.evaluation.coco` when every photo counts once."""
    truth = annotations.truth.take(np.lexsort((annotations.truth.image, annotations.truth.category)))
    found = read_results(predictions, annotations)
    found = found.take(sort_predictions(found, MAX_DETECTIONS)[0])
    real = ~truth.ignore
    partner = match(truth, found, np.array([0.5]), real[:, None])[:, 0, 0]
    right = (partner >= 0) & real[partner]
    counted = (partner < 0) | right  # one that meets a group's box counts neither way
    classes = []
    for k in range(len(annotations.names)):
        mine = np.flatnonzero((found.category == k) & counted)
        mine = mine[np.argsort(-found.scores[mine], kind="stable")]
        classes.append((found.image[mine], right[mine], truth.image[(truth.category == k) & real]))
    return AP50(classes, len(annotations.images))


def draws_of(photos: int) -> list[np.ndarray]:
    """How often each photo counts, in each draw with replacement."""
    rng = np.random.default_rng(0)
    return [np.bincount(rng.integers(0, photos, photos), minlength=photos).astype(float) for _ in range(DRAWS)]


def differences(runs: Mapping[str, Sequence[Figure]], photos: int) -> dict[str, dict[str, object]]:
    """Of each pair of rungs, the difference of the means over seeds, and 95 % of its values over draws of photos.

    runs: by rung, a figure for each seed.
    """
    draws, once = draws_of(photos), np.ones(photos)
    drawn = {rung: np.array([[figure(w) for w in draws] for figure in own]) for rung, own in runs.items()}
    plain = {rung: np.array([figure(once) for figure in own]) for rung, own in runs.items()}
    found: dict[str, dict[str, object]] = {}
    for better, base in PAIRS:
        if better in runs and base in runs:
            spread = drawn[better].mean(0) - drawn[base].mean(0)
            low, high = np.percentile(spread, [2.5, 97.5])
            found[f"{better} - {base}"] = {
                "difference": float(plain[better].mean() - plain[base].mean()),
                "low": float(low),
                "high": float(high),
                "by_seed": (plain[better] - plain[base]).tolist() if len(plain[better]) == len(plain[base]) else None,
            }
    return found
