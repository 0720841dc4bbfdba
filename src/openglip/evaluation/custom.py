"""Any data set: COCO figures, and the thresholds that maximise F1, false alarms, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openglip.evaluation.coco import MAX_DETECTIONS, Figures, Scores, score_coco
from openglip.evaluation.matching import (
    Bools,
    Floats,
    GroundTruth,
    Ints,
    Predictions,
    match,
    mean_defined,
    sort_predictions,
)
from openglip.evaluation.read import Annotations

IOU, BINS = 0.5, 10


@dataclass(frozen=True)
class Outcomes:
    """What became of every predicted box at an IoU of 0.5.

    Attributes:
        predictions: N boxes, sorted by class, image and falling score.
        truth: M boxes, sorted by class and image.
        matches: Row of the true box that each predicted box matched, -1 for none, N.
        correct: Whether the box matched a true box that counts, N.
        counted: Whether the box counts at all, N; a box that matched a crowd does not.
    """

    predictions: Predictions
    truth: GroundTruth
    matches: Ints
    correct: Bools
    counted: Bools


def match_all(truth: GroundTruth, predictions: Predictions) -> Outcomes:
    """Match at an IoU of 0.5, over all box sizes."""
    truth = truth.take(np.lexsort((truth.image, truth.category)))
    predictions = predictions.take(sort_predictions(predictions, MAX_DETECTIONS)[0])
    matches = match(truth, predictions, np.array([IOU]), ~truth.ignore[:, None])[:, 0, 0].astype(np.int64)
    counted = (matches < 0) | ~truth.ignore[matches] if len(truth) else np.ones(len(predictions), bool)
    return Outcomes(predictions, truth, matches, (matches >= 0) & counted, counted)


def score_custom(annotations: Annotations, predictions: Predictions) -> Scores:
    """COCO's twelve figures, F1 at the best threshold per class, false alarms, calibration.

    `false_alarm_rate` is the share of the images without an object of a class on which the class is reported above its
    threshold, averaged over the classes that some image lacks. `calibration_error` is that of `calibration_error`.

    Returns:
        The scores; their protocol holds the thresholds.
    """
    predictions = judged_predictions(annotations, predictions)
    base = score_coco(annotations, predictions)
    outcomes = match_all(annotations.truth, predictions)
    every_row = np.ones(len(outcomes.predictions), bool)
    fallback, _ = _best_threshold(outcomes, every_row, int((~outcomes.truth.ignore).sum()))
    thresholds: dict[str, float] = {}
    per_category: dict[str, Figures] = {}
    for k, name in enumerate(annotations.names):
        rows, objects = outcomes.predictions.category == k, outcomes.truth.category == k
        positives = int((objects & ~outcomes.truth.ignore).sum())
        threshold, best = _best_threshold(outcomes, rows, positives)
        thresholds[name] = threshold if positives and best["F1"] > 0 else fallback
        absent = np.ones(len(annotations.images), bool)
        if annotations.judged is not None:
            absent = annotations.judged[:, k].copy()
        absent[outcomes.truth.image[objects]] = False
        alarms = np.unique(outcomes.predictions.image[rows & (outcomes.predictions.scores > thresholds[name])])
        rate = float(absent[alarms].sum() / absent.sum()) if absent.any() else -1.0
        values = {**best, "threshold": thresholds[name], "false_alarm_rate": rate}
        per_category[name] = base.per_category[name] | values
    scores, correct = outcomes.predictions.scores[outcomes.counted], outcomes.correct[outcomes.counted]
    figures = base.figures | {
        "F1": mean_defined(np.array([figures["F1"] for figures in per_category.values()])),
        "false_alarm_rate": mean_defined(np.array([figures["false_alarm_rate"] for figures in per_category.values()])),
        "calibration_error": calibration_error(scores, correct),
    }
    protocol = {
        **base.protocol,
        "category_ids": {name: c["id"] for name, c in zip(annotations.names, annotations.categories, strict=True)},
        "labelled": "every class on every picture"
        if annotations.judged is None
        else "some classes on some pictures; elsewhere they are not judged",
        "F1": f"at IoU {IOU}, per class at the threshold that maximises it on these same images; mean over classes",
        "thresholds": thresholds,
        "thresholds_without_evidence": f"without objects or hits a class gets the cut best over all: {fallback:g}",
    }
    return Scores(figures, per_category, protocol)


def judged_predictions(annotations: Annotations, predictions: Predictions) -> Predictions:
    """The predicted boxes of classes that are labelled on their image."""
    if annotations.judged is None:
        return predictions
    return predictions.take(annotations.judged[predictions.image, predictions.category])


def _best_threshold(outcomes: Outcomes, rows: Bools, positives: int) -> tuple[float, Figures]:
    """The threshold that gives the highest F1 (of equal ones the highest), and the figures there.

    Args:
        outcomes: Matched boxes.
        rows: The predicted boxes to look at; those above the threshold are kept.
        positives: Number of true boxes.
    """
    if not positives:
        return 0.5, {"F1": -1.0, "precision": -1.0, "recall": -1.0}
    rows = rows & outcomes.counted
    order = np.argsort(-outcomes.predictions.scores[rows], kind="stable")
    scores, correct = outcomes.predictions.scores[rows][order], outcomes.correct[rows][order]
    last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # a threshold never separates equal scores
    if not correct.any():
        return 0.5, {"F1": 0.0, "precision": 0.0, "recall": 0.0}
    hits, counts = np.cumsum(correct)[last], np.flatnonzero(last) + 1
    f1 = 2 * hits / (counts + positives)
    at = int(np.argmax(f1))
    high = scores[last][at]
    low = scores[last][at + 1] if at + 1 < len(f1) else min(0.0, high - 1)
    middle = float((high + low) / 2)
    figures = {"F1": f1[at], "precision": hits[at] / counts[at], "recall": hits[at] / positives}
    return middle if middle < high else float(low), {name: float(value) for name, value in figures.items()}


def calibration_error(scores: Floats, correct: Bools) -> float:
    """Expected calibration error of detections.

    Args:
        scores: N.
        correct: Whether each detection is right, N.

    Returns:
        The mean distance between score and precision in ten equal bins of the score, weighted by the number of
        detections; -1 without detections and for scores outside 0 to 1.
    """
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return -1.0
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, weights, BINS) for weights in (scores, correct.astype(float))]
    return float(np.abs(sums[0] - sums[1]).sum() / len(scores))
