"""Greedy matching of predicted with ground-truth boxes, and precision and recall: the matcher behind every AP figure.

The rules are those of cocodataset/cocoapi (with `lenient` and without crowds, those of lvis-dataset/lvis-api), exact to
the last bit of each intersection over union. Loops over images, classes and thresholds are array operations here: one
round handles the next detection of every (image, class) group, for all thresholds and area ranges at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALL_POINTS: Floats = np.linspace(0.0, 1.0, 101)
# All, small, medium, large; both ends belong to a range.
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
# These bound the memory of one block of classes.
BLOCK_BOXES, BLOCK_PAIRS = 200_000, 2_000_000


@dataclass(frozen=True)
class _Boxes:
    image: Ints
    category: Ints
    boxes: Floats

    def take(self, rows: Ints | Bools | slice) -> Self:
        """The boxes of some rows."""
        return type(self)(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class GroundTruth(_Boxes):
    """The annotated boxes of a set of images, one row per box.

    Attributes:
        image: Index of the image, N.
        category: Index of the category, N.
        boxes: N x 4, x, y, width, height in pixels.
        area: Area that the area ranges refer to, N; of the mask where there is one.
        crowd: Whether the box is a crowd, which any number of detections may match, N.
        ignore: Whether the box counts neither as hit nor as miss, N.
    """

    area: Floats
    crowd: Bools
    ignore: Bools


@dataclass(frozen=True)
class Predictions(_Boxes):
    """The predicted boxes of a set of images, one row per box, in the order of their file.

    Attributes:
        image: Index of the image, N.
        category: Index of the category, N.
        boxes: N x 4, x, y, width, height in pixels.
        scores: N.
    """

    scores: Floats


@dataclass(frozen=True)
class Curves:
    """Precision and recall; -1 where a class has no boxes in an area range.

    Attributes:
        precision: IoU thresholds x recall points x classes x area ranges.
        recall: IoU thresholds x classes x area ranges x numbers of detections.
    """

    precision: Floats
    recall: Floats

    def ap(self, iou: float | None = None, area: int = 0, categories: Ints | slice = slice(None)) -> float:
        """Average precision.

        Args:
            iou: One of the IoU thresholds; None averages over all of them.
            area: Index of the area range.
            categories: Indices of the categories to average over.

        Returns:
            The mean of the entries that are defined, -1 when none is.
        """
        at = slice(None) if iou is None else np.isclose(IOU_THRESHOLDS, iou)
        return mean_defined(self.precision[at][:, :, categories, area])

    def ar(self, top: int = -1, area: int = 0) -> float:
        """Average recall; `top` is an index into the numbers of detections, `area` into the area ranges."""
        return mean_defined(self.recall[:, :, area, top])


def mean_defined(values: Floats) -> float:
    """Mean of the entries above -1; -1 when there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def sort_predictions(predictions: Predictions, cap: int | None = None) -> tuple[Ints, Ints]:
    """Sort by class, then image, then falling score; equal scores stay in their order.

    Args:
        predictions: N boxes.
        cap: The number of boxes per class and image to keep, best first; None keeps all.

    Returns:
        The row numbers that remain, in the new order, and the rank of each (from 0) within its class and image.
    """
    order = np.lexsort((-predictions.scores, predictions.image, predictions.category))
    image, category = predictions.image[order], predictions.category[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (image[1:] != image[:-1]) | (category[1:] != category[:-1])
    rank = rank_in_runs(np.cumsum(starts))
    remaining = slice(None) if cap is None else rank < cap
    return order[remaining], rank[remaining]


def pair_iou(predicted: Floats, truth: Floats, crowd: Bools) -> Floats:
    """IoU of N pairs of boxes; the overlap relative to the predicted box alone where the true box is a crowd.

    Unlike `structures.boxes.iou` it computes areas as width x height as given: from corners the last bit would change,
    which decides at a threshold.

    Args:
        predicted: N x 4, x, y, width, height.
        truth: N x 4, x, y, width, height.
        crowd: Whether the true box is a crowd, N.
    """
    low = np.maximum(predicted[:, :2], truth[:, :2])
    high = np.minimum(predicted[:, :2] + predicted[:, 2:], truth[:, :2] + truth[:, 2:])
    intersection = np.where((high > low).all(1), np.prod(np.maximum(high - low, 0), axis=1), 0)
    area = predicted[:, 2] * predicted[:, 3]
    union = np.where(crowd, area, area + truth[:, 2] * truth[:, 3] - intersection)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)


def match(truth: GroundTruth, predictions: Predictions, thresholds: Floats, counted: Bools) -> NDArray[np.int32]:
    """Match each predicted box with at most one true box, greedily by falling score.

    A predicted box takes the free true box that it overlaps most (of equal ones the last). A true box that counts is
    preferred to one that does not, and a crowd stays free.

    Args:
        truth: M boxes, sorted by class and image.
        predictions: N boxes, sorted by class, image and falling score.
        thresholds: T IoU thresholds.
        counted: Which true boxes count in which area range, M x areas.

    Returns:
        The row of the true box that each predicted box matches, -1 for none; N x T x areas.
    """
    matches = np.full((len(predictions), len(thresholds), counted.shape[1]), -1, np.int32)
    limits = np.minimum(thresholds, 1 - 1e-10)
    images = 1 + max(truth.image.max(initial=0), predictions.image.max(initial=0))
    group = predictions.category * images + predictions.image
    pairs = list(_pairs(truth, truth.category * images + truth.image, predictions, group, float(limits.min())))
    row, true, iou = (np.concatenate(column) for column in zip(*pairs, strict=True))
    if not len(row):
        return matches
    starts = np.append(True, row[1:] != row[:-1])
    # A box is handled in round n when it is the nth of its group that overlaps anything.
    rounds = rank_in_runs(group[row[starts]])[np.cumsum(starts) - 1]
    order = np.lexsort((iou, row, rounds))
    row, true, iou, rounds = row[order], true[order], iou[order], rounds[order]
    overlap_rank = rank_in_runs(row) + 1
    bonus = int(overlap_rank.max()) + 1  # lifts every true box that counts above all that do not
    preference = (overlap_rank[:, None] + bonus * counted[true]).astype(np.int32)  # pairs x areas
    taken = np.zeros((len(counted), *matches.shape[1:]), bool)
    bounds = np.append(np.flatnonzero(np.append(True, rounds[1:] != rounds[:-1])), len(rounds))
    for begin, end in pairwise(bounds):
        candidates = true[begin:end]
        free = (iou[begin:end, None] >= limits)[:, :, None] & ~taken[candidates]  # pairs x thresholds x areas
        firsts = np.flatnonzero(overlap_rank[begin:end] == 1)
        best = np.maximum.reduceat(np.where(free, preference[begin:end, None], 0), firsts, axis=0)
        box, threshold, area = np.nonzero(best)
        chosen = candidates[firsts[box] + best[box, threshold, area] % bonus - 1]
        matches[row[begin + firsts[box]], threshold, area] = chosen
        taken[chosen, threshold, area] = ~truth.crowd[chosen]
    return matches


def rank_in_runs(sorted_keys: Ints) -> Ints:
    """Position of each entry within its run of equal keys."""
    begins = np.flatnonzero(np.append(True, sorted_keys[1:] != sorted_keys[:-1]))
    return np.arange(len(sorted_keys)) - np.repeat(begins, np.diff(np.append(begins, len(sorted_keys))))


def _pairs(
    truth: GroundTruth, truth_group: Ints, predictions: Predictions, group: Ints, least_iou: float
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Pairs within a group that overlap by at least `least_iou`: predicted row, true row, IoU; sorted by the rows."""
    first = np.searchsorted(truth_group, group, "left")
    counts = np.searchsorted(truth_group, group, "right") - first
    totals = np.cumsum(counts)
    begin = 0
    while begin < len(predictions) or begin == 0:
        done = totals[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(totals, done + BLOCK_PAIRS, "right")))
        count = counts[begin:end]
        row = np.repeat(np.arange(begin, begin + len(count)), count)
        true = np.repeat(first[begin:end] - (np.cumsum(count) - count), count) + np.arange(len(row))
        iou = pair_iou(predictions.boxes[row], truth.boxes[true], truth.crowd[true])
        near = iou >= least_iou
        yield row[near], true[near], iou[near]
        begin = end


def precision_recall(
    truth: GroundTruth,
    predictions: Predictions,
    categories: int,
    *,
    cap: int | None = 100,
    tops: Sequence[int | None] = (1, 10, 100),
    lenient: Bools | None = None,
) -> Curves:
    """Precision and recall per IoU threshold, class and area range.

    Args:
        truth: M boxes in any order.
        predictions: N boxes; of equal scores the first ranks higher.
        categories: Number of categories.
        cap: Number of detections per image and class that count; None counts all.
        tops: Numbers of detections per image and class at which recall is measured; None stands for all.
        lenient: Predicted boxes that are ignored, and no false positives, when nothing matches them, N. LVIS needs it
            for classes that are not labelled exhaustively in an image.
    """
    shape = len(IOU_THRESHOLDS), len(RECALL_POINTS), categories, len(AREA_RANGES)
    precision = np.full(shape, -1.0)
    recall = np.full((shape[0], *shape[2:], len(tops)), -1.0)
    truth = truth.take(np.lexsort((truth.image, truth.category)))
    order, rank = sort_predictions(predictions, cap)
    predictions = predictions.take(order)
    lenient = np.zeros(len(predictions), bool) if lenient is None else lenient[order]
    for begin, end in _blocks(truth, predictions, categories):
        block = slice(*np.searchsorted(predictions.category, [begin, end]))
        true = truth.take(slice(*np.searchsorted(truth.category, [begin, end])))
        boxes, ranks = predictions.take(block), rank[block]
        positive, hits, counted = _judge(true, boxes, lenient[block])
        for k in range(begin, end):
            positives = positive[true.category == k].sum(0)
            rows = slice(*np.searchsorted(boxes.category, [k, k + 1]))
            by_score = np.argsort(-boxes.scores[rows], kind="stable")
            number = np.cumsum(counted[rows][by_score], axis=0, dtype=np.int32)
            for a in np.flatnonzero(positives):
                class_hits = hits[rows, :, a][by_score]
                precision[:, :, k, a] = _precision(class_hits, number[:, :, a], int(positives[a]))
                class_ranks = ranks[rows][by_score]
                for m, top in enumerate(tops):
                    hits_of_top = class_hits if top is None else class_hits[class_ranks < top]
                    recall[:, k, a, m] = hits_of_top.sum(0) / positives[a]
    return Curves(precision, recall)


def _judge(truth: GroundTruth, predictions: Predictions, lenient: Bools) -> tuple[Bools, Bools, Bools]:
    """Match the boxes of a block of classes.

    Returns:
        Which true boxes count, M x areas; which predicted boxes match one of them, and which predicted boxes count at
        all, both N x thresholds x areas.
    """
    low, high = np.array(AREA_RANGES).T
    positive = ~truth.ignore[:, None] & (truth.area[:, None] >= low) & (truth.area[:, None] <= high)
    area = (predictions.boxes[:, 2] * predictions.boxes[:, 3])[:, None]
    ignored = (area < low) | (area > high) | lenient[:, None]  # unless they match
    matches = match(truth, predictions, IOU_THRESHOLDS, positive)
    hits = np.zeros(matches.shape, bool)
    counted = np.broadcast_to(~ignored[:, None], matches.shape).copy()
    row, threshold, size = np.nonzero(matches >= 0)
    hits[row, threshold, size] = counted[row, threshold, size] = positive[matches[row, threshold, size], size]
    return positive, hits, counted


def _blocks(truth: GroundTruth, predictions: Predictions, categories: int) -> Iterator[tuple[int, int]]:
    """Ranges of classes that are handled together, so that memory stays bounded."""
    sizes = np.bincount(predictions.category, minlength=categories) + np.bincount(truth.category, minlength=categories)
    begin = total = 0
    for k, size in enumerate(sizes.tolist()):
        if total and total + size > BLOCK_BOXES:
            yield begin, k
            begin, total = k, 0
        total += size
    if begin < categories:
        yield begin, categories


def _precision(hits: Bools, number: NDArray[np.int32], positives: int) -> Floats:
    """Precision at each recall point, thresholds x points.

    The highest precision at or beyond a recall is always reached at a hit, so only hits are looked at.

    Args:
        hits: True positives by falling score, N x thresholds.
        number: Number of boxes that count, up to and including each box, N x thresholds.
        positives: Number of true boxes.
    """
    # How many hits come before the one that reaches a recall.
    needed = np.searchsorted(np.arange(1, positives + 1) / positives, RECALL_POINTS)
    values = np.zeros((hits.shape[1], len(RECALL_POINTS)))
    for t in range(hits.shape[1]):
        at = number[hits[:, t], t]
        if len(at):
            exact = np.arange(1, len(at) + 1) / (at + np.spacing(1))
            best = np.maximum.accumulate(exact[::-1])[::-1]
            reached = needed < len(at)
            values[t, reached] = best[needed[reached]]
    return values
