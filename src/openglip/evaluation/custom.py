"""Any data set of one's own: COCO figures, thresholds that maximise F1, false alarms, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openglip.evaluation.coco import Figures, Scores, coco
from openglip.evaluation.matching import Bools, Floats, Found, Ints, Truth, match, sort_found
from openglip.evaluation.read import Annotations

IOU, BINS, CAP = 0.5, 10, 100


@dataclass(frozen=True)
class Outcomes:
    """Every found box with what became of it at one IoU threshold, sorted by class, image and falling score.

    found: the boxes; partner: row of `truth` that it matched, -1 for none; right: it matched a box that counts;
    counted: it counts at all (what matched a crowd does not). truth: sorted by class and image.
    """

    found: Found
    truth: Truth
    partner: Ints
    right: Bools
    counted: Bools


def outcomes(truth: Truth, found: Found, iou: float = IOU) -> Outcomes:
    """Match at one threshold, over all sizes."""
    truth = truth.take(np.lexsort((truth.image, truth.category)))
    found = found.take(sort_found(found, CAP)[0])
    partner = match(truth, found, np.array([iou]), ~truth.ignore[:, None])[:, 0, 0].astype(np.int64)
    counted = (partner < 0) | ~truth.ignore[partner] if len(truth.image) else np.ones(len(found), bool)
    return Outcomes(found, truth, partner, (partner >= 0) & counted, counted)


def custom(annotations: Annotations, found: Found) -> Scores:
    """COCO's twelve figures, F1 at the best threshold per class, false alarms, calibration.

    The thresholds stand in the protocol.

    false_alarm_rate: of the images without an object of a class, the share on which it is reported above its threshold;
    mean over the classes that some image lacks. calibration_error: mean distance between score and precision at IoU
    0.5 in ten bins of the score, weighted by their sizes; -1 when a score lies outside 0 to 1 or nothing was found.
    """
    found = judged_rows(annotations, found)
    base = coco(annotations, found)
    result = outcomes(annotations.truth, found)
    everything = np.ones(len(result.found), bool)
    fallback = _best_cut(result, everything, int((~result.truth.ignore).sum()))[0]
    thresholds: dict[str, float] = {}
    per_category: dict[str, Figures] = {}
    for k, name in enumerate(annotations.names):
        mine, objects = result.found.category == k, (result.truth.category == k)
        positives = int((objects & ~result.truth.ignore).sum())
        cut, best = _best_cut(result, mine, positives)
        thresholds[name] = cut if positives and best["F1"] > 0 else fallback
        absent = (
            np.ones(len(annotations.images), bool) if annotations.judged is None else annotations.judged[:, k].copy()
        )
        absent[result.truth.image[objects]] = False
        alarmed = np.unique(result.found.image[mine & (result.found.scores > thresholds[name])])
        rate = float(absent[alarmed].sum() / absent.sum()) if absent.any() else -1.0
        own: Figures = {**best, "threshold": thresholds[name], "false_alarm_rate": rate}
        per_category[name] = base.per_category[name] | own
    figures = base.figures | {
        "F1": _mean([c["F1"] for c in per_category.values()]),
        "false_alarm_rate": _mean([c["false_alarm_rate"] for c in per_category.values()]),
        "calibration_error": calibration_error(result.found.scores[result.counted], result.right[result.counted]),
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


def judged_rows(annotations: Annotations, found: Found) -> Found:
    """Found boxes of classes that are labelled on their picture."""
    return found if annotations.judged is None else found.take(annotations.judged[found.image, found.category])


def _mean(values: list[float]) -> float:
    defined = [v for v in values if v > -1]
    return float(np.mean(defined)) if defined else -1.0


def _best_cut(result: Outcomes, rows: Bools, positives: int) -> tuple[float, Figures]:
    """The threshold (results above it are kept) with the highest F1, of equal ones the highest, and what it gives."""
    if not positives:
        return 0.5, {"F1": -1.0, "precision": -1.0, "recall": -1.0}
    rows = rows & result.counted
    order = np.argsort(-result.found.scores[rows], kind="stable")
    scores, right = result.found.scores[rows][order], result.right[rows][order]
    last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # a cut never parts equal scores
    if not right.any():
        return 0.5, {"F1": 0.0, "precision": 0.0, "recall": 0.0}
    hits, kept = np.cumsum(right)[last], np.flatnonzero(last) + 1
    f1 = 2 * hits / (kept + positives)
    at = int(np.argmax(f1))
    high = scores[last][at]
    low = scores[last][at + 1] if at + 1 < len(f1) else min(0.0, high - 1)
    middle = float((high + low) / 2)
    threshold = middle if middle < high else float(low)
    return threshold, {
        "F1": float(f1[at]),
        "precision": float(hits[at] / kept[at]),
        "recall": float(hits[at] / positives),
    }


def calibration_error(scores: Floats, right: Bools) -> float:
    """Expected calibration error of detections over ten equal bins of the score."""
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return -1.0
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, weights, BINS) for weights in (scores, right.astype(float))]
    return float(np.abs(sums[0] - sums[1]).sum() / len(scores))
