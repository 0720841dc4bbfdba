"""Filters before and after the teacher: small functions, each counted under its name in the manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openglip.structures import boxes as bx

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class PhraseBoxes:
    """Scored boxes for the phrases of one image, best first.

    Attributes:
        boxes: N x 4 float64, xyxy in pixels of the upright image.
        scores: N float64.
        phrases: Index of the phrase that each box shows, N int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    phrases: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: np.ndarray) -> PhraseBoxes:
        """The boxes of a mask or of row numbers."""
        return PhraseBoxes(self.boxes[rows], self.scores[rows], self.phrases[rows])


NO_BOXES = PhraseBoxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
PairFilter = Callable[[str, Size], bool]
"""Whether to keep a pair, from its caption and the (height, width) of its image."""
BoxFilter = Callable[[PhraseBoxes, Size], np.ndarray]
"""A mask of the boxes to keep, from the boxes and the (height, width) of their image."""


def at_least_words(count: int) -> PairFilter:
    """Keep captions of at least `count` words."""
    return lambda caption, size: len(caption.split()) >= count


def at_least_side(pixels: int) -> PairFilter:
    """Keep images whose short side has at least `pixels`."""
    return lambda caption, size: min(size) >= pixels


def at_most_share(share: float) -> BoxFilter:
    """Keep boxes that cover at most this share of the image."""
    return lambda boxes, size: bx.area(boxes.boxes) <= share * size[0] * size[1]


def best_per_phrase(count: int) -> BoxFilter:
    """Keep the `count` best boxes of each phrase."""

    def keep(boxes: PhraseBoxes, size: Size) -> np.ndarray:
        order = np.argsort(boxes.phrases, kind="stable")
        phrases = boxes.phrases[order]
        mask = np.zeros(len(boxes), bool)
        mask[order] = np.arange(len(order)) - np.searchsorted(phrases, phrases) < count
        return mask

    return keep


def one_phrase_per_box(iou: float) -> BoxFilter:
    """Of boxes that overlap by more than `iou`, whatever their phrases, keep the best."""

    def keep(boxes: PhraseBoxes, size: Size) -> np.ndarray:
        mask = np.zeros(len(boxes), bool)
        for i in range(len(boxes)):
            better = boxes.boxes[:i][mask[:i]]
            mask[i] = not len(better) or bx.iou(boxes.boxes[i : i + 1], better).max() <= iou
        return mask

    return keep


def confirmed(boxes: PhraseBoxes, second_view: PhraseBoxes) -> np.ndarray:
    """Which boxes a second view of the image confirms by a box of the same phrase with an IoU of at least 0.5.

    Args:
        boxes: N boxes.
        second_view: Boxes of the mirrored or shifted image, in pixels of the original image.

    Returns:
        A mask, N.
    """
    if not len(second_view):
        return np.zeros(len(boxes), bool)
    same_phrase = boxes.phrases[:, None] == second_view.phrases
    return ((bx.iou(boxes.boxes, second_view.boxes) >= 0.5) & same_phrase).any(1)
