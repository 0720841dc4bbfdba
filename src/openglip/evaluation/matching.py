"""Greedy matching of found boxes with true ones, and the curves that follow: the one matcher behind every AP figure.

The rules are those of cocodataset/cocoapi (with `lenient`, and no crowds, those of lvis-dataset/lvis-api), down to the
last bit of each intersection over union. Loops over images, classes and thresholds are array operations here: a round
gives every (image, class) group its next detection at once, for all thresholds and area ranges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALL_POINTS: Floats = np.linspace(0.0, 1.0, 101)
AREAS = ("all", "small", "medium", "large")
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # both ends belong to the range
BLOCK_FOUND, BLOCK_PAIRS = 200_000, 2_000_000  # bound the memory of one block of classes


@dataclass(frozen=True)
class Truth:
    """The boxes to find, one row each.

    image, category: indices N. boxes: N x 4 float64, x, y, width, height in pixels. area: N, what area ranges look at
    (of the mask where there is one). crowd: N, takes any number of detections. ignore: N, counts neither way.
    """

    image: Ints
    category: Ints
    boxes: Floats
    area: Floats
    crowd: Bools
    ignore: Bools

    def take(self, rows: Ints | Bools | slice) -> Truth:
        return Truth(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Found:
    """The boxes found, one row each, in the order of the file. Fields as in `Truth`; scores: N float64."""

    image: Ints
    category: Ints
    boxes: Floats
    scores: Floats

    def take(self, rows: Ints | Bools | slice) -> Found:
        return Found(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Curves:
    """precision: thresholds x recalls x classes x areas. recall: thresholds x classes x areas x tops. -1: undefined."""

    precision: Floats
    recall: Floats

    def ap(self, iou: float | None = None, area: int = 0, categories: Ints | slice = slice(None)) -> float:
        """Average precision over what is defined, -1 when nothing is."""
        at = slice(None) if iou is None else np.isclose(IOU_THRESHOLDS, iou)
        return mean_defined(self.precision[at][:, :, categories, area])

    def ar(self, top: int = -1, area: int = 0) -> float:
        """Average recall for the given index into `tops`."""
        return mean_defined(self.recall[:, :, area, top])


def mean_defined(values: Floats) -> float:
    """Mean of the entries above -1; -1 when there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


def sort_found(found: Found, cap: int | None = None) -> tuple[Ints, Ints]:
    """Rows by class, image and falling score (equal scores as they came), `cap` at most of a class in an image.

    Returns the row numbers and each one's rank (from 0) within its class and image.
    """
    order = np.lexsort((-found.scores, found.image, found.category))
    image, category = found.image[order], found.category[order]
    new = np.ones(len(order), bool)
    new[1:] = (image[1:] != image[:-1]) | (category[1:] != category[:-1])
    rank = rank_in_runs(np.cumsum(new))
    kept = slice(None) if cap is None else rank < cap
    return order[kept], rank[kept]


def pair_iou(found: Floats, truth: Floats, crowd: Bools) -> Floats:
    """IoU of N pairs of x, y, width, height boxes; over the found box's own area where the true one is a crowd.

    Not `structures.boxes.iou`: areas are width x height as given, since corners would change the last bit, which
    decides at a threshold.
    """
    low = np.maximum(found[:, :2], truth[:, :2])
    high = np.minimum(found[:, :2] + found[:, 2:], truth[:, :2] + truth[:, 2:])
    both = np.where((high > low).all(1), np.prod(np.maximum(high - low, 0), axis=1), 0)
    area = found[:, 2] * found[:, 3]
    union = np.where(crowd, area, area + truth[:, 2] * truth[:, 3] - both)
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def match(truth: Truth, found: Found, thresholds: Floats, real: Bools) -> NDArray[np.int32]:
    """Partner of each found box: row of `truth`, -1 for none; N x thresholds x areas.

    truth, found: sorted by class and image, found also by falling score. real: M x areas, which true boxes count in an
    area range. Each found box takes the free one that it overlaps most (of equal ones the last), one that counts before
    one that does not.
    """
    partner = np.full((len(found), len(thresholds), real.shape[1]), -1, np.int32)
    limits = np.minimum(thresholds, 1 - 1e-10)
    images = 1 + max(truth.image.max(initial=0), found.image.max(initial=0))
    group = found.category * images + found.image
    pairs = [p for p in _pairs(truth, truth.category * images + truth.image, found, group, float(limits.min()))]
    row, true, iou = (np.concatenate(part) for part in zip(*pairs, strict=True))
    if not len(row):
        return partner
    new = np.append(True, row[1:] != row[:-1])
    owner = np.cumsum(new) - 1
    turn = rank_in_runs(group[row[new]])[owner]  # the how manieth with a pair in its group
    order = np.lexsort((iou, row, turn))
    row, true, iou, turn = row[order], true[order], iou[order], turn[order]
    place = rank_in_runs(row) + 1  # falling preference among true boxes of one kind
    large = int(place.max()) + 1
    worth = (place[:, None] + large * real[true]).astype(np.int32)  # pairs x areas
    taken = np.zeros((len(real), *partner.shape[1:]), bool)
    bounds = np.append(np.flatnonzero(np.append(True, turn[1:] != turn[:-1])), len(turn))
    for begin, end in pairwise(bounds):
        here = true[begin:end]
        free = (iou[begin:end, None] >= limits)[:, :, None] & ~taken[here]  # pairs x thresholds x areas
        starts = np.flatnonzero(place[begin:end] == 1)
        best = np.maximum.reduceat(np.where(free, worth[begin:end, None], 0), starts, axis=0)
        one, threshold, area = np.nonzero(best)
        chosen = here[starts[one] + best[one, threshold, area] % large - 1]
        partner[row[begin + starts[one]], threshold, area] = chosen
        taken[chosen, threshold, area] = ~truth.crowd[chosen]
    return partner


def rank_in_runs(sorted_keys: Ints) -> Ints:
    """Position of each entry within its run of equal keys."""
    begins = np.flatnonzero(np.append(True, sorted_keys[1:] != sorted_keys[:-1]))
    return np.arange(len(sorted_keys)) - np.repeat(begins, np.diff(np.append(begins, len(sorted_keys))))


def _pairs(
    truth: Truth, truth_group: Ints, found: Found, group: Ints, floor: float
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Pairs of one group whose IoU reaches the floor, by found row, then true row."""
    first = np.searchsorted(truth_group, group, "left")
    counts = np.searchsorted(truth_group, group, "right") - first
    totals = np.cumsum(counts)
    begin = 0
    while begin < len(found) or begin == 0:
        done = totals[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(totals, done + BLOCK_PAIRS, "right")))
        count = counts[begin:end]
        row = np.repeat(np.arange(begin, begin + len(count)), count)
        true = np.repeat(first[begin:end] - (np.cumsum(count) - count), count) + np.arange(len(row))
        iou = pair_iou(found.boxes[row], truth.boxes[true], truth.crowd[true])
        near = iou >= floor
        yield row[near], true[near], iou[near]
        begin = end


def curves(
    truth: Truth,
    found: Found,
    categories: int,
    *,
    cap: int | None = 100,
    tops: Sequence[int | None] = (1, 10, 100),
    lenient: Bools | None = None,
    ranges: Sequence[tuple[float, float]] = AREA_RANGES,
) -> Curves:
    """Precision and recall per IoU threshold, class and area range.

    categories: their number. cap: detections of a class that count in an image. tops: ranks at which recall is read.
    lenient: per found box, whether it is left out when nothing matches (LVIS: class not labelled exhaustively there).
    """
    shape = len(IOU_THRESHOLDS), len(RECALL_POINTS), categories, len(ranges)
    precision = np.full(shape, -1.0)
    recall = np.full((shape[0], *shape[2:], len(tops)), -1.0)
    truth = truth.take(np.lexsort((truth.image, truth.category)))
    order, rank = sort_found(found, cap)
    found = found.take(order)
    lenient = np.zeros(len(found), bool) if lenient is None else lenient[order]
    low, high = np.array(ranges).T
    for begin, end in _blocks(truth, found, categories):
        own = slice(*np.searchsorted(truth.category, [begin, end]))
        hits = slice(*np.searchsorted(found.category, [begin, end]))
        true, here = truth.take(own), found.take(hits)
        real = ~true.ignore[:, None] & (true.area[:, None] >= low) & (true.area[:, None] <= high)
        area = (here.boxes[:, 2] * here.boxes[:, 3])[:, None]
        outside = (area < low) | (area > high) | lenient[hits, None]
        partner = match(true, here, IOU_THRESHOLDS, real)
        good = np.zeros(partner.shape, bool)
        counts = np.broadcast_to(~outside[:, None], partner.shape).copy()
        one, at, part = np.nonzero(partner >= 0)
        good[one, at, part] = counts[one, at, part] = real[partner[one, at, part], part]
        for k in range(begin, end):
            positives = real[true.category == k].sum(0)
            mine = slice(*np.searchsorted(here.category, [k, k + 1]))
            by_score = np.argsort(-here.scores[mine], kind="stable")
            place = np.cumsum(counts[mine][by_score], axis=0, dtype=np.int32)
            for a in np.flatnonzero(positives):
                won = good[mine, :, a][by_score]
                precision[:, :, k, a] = _precision(won, place[:, :, a], int(positives[a]))
                ranked = rank[hits][mine][by_score]
                for m, top in enumerate(tops):
                    recall[:, k, a, m] = (won if top is None else won[ranked < top]).sum(0) / positives[a]
    return Curves(precision, recall)


def _blocks(truth: Truth, found: Found, categories: int) -> Iterator[tuple[int, int]]:
    """Ranges of classes that are worked on together, so that memory stays bounded."""
    sizes = np.bincount(found.category, minlength=categories) + np.bincount(truth.category, minlength=categories)
    begin = total = 0
    for k, size in enumerate(sizes.tolist()):
        if total and total + size > BLOCK_FOUND:
            yield begin, k
            begin, total = k, 0
        total += size
    if begin < categories:
        yield begin, categories


def _precision(won: Bools, place: NDArray[np.int32], positives: int) -> Floats:
    """Precision at each recall point, thresholds x points.

    won: N x thresholds, true positives by falling score. place: N x thresholds, how many counted boxes up to there.
    The highest precision at or beyond a recall always stands at a true positive, so that only these are looked at.
    """
    wanted = np.searchsorted(np.arange(1, positives + 1) / positives, RECALL_POINTS)
    values = np.zeros((won.shape[1], len(RECALL_POINTS)))
    for t in range(won.shape[1]):
        at = place[won[:, t], t]
        if len(at):
            exact = np.arange(1, len(at) + 1) / (at + np.spacing(1))
            best = np.maximum.accumulate(exact[::-1])[::-1]
            reached = wanted < len(at)
            values[t, reached] = best[wanted[reached]]
    return values
