"""What is left out before and after the teacher: small functions, each with a name under which its cuts are counted."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from openglip.structures import boxes as bx

Span = tuple[int, int]


@dataclass(frozen=True)
class Candidate:
    """A picture with its caption before the teacher saw it. size: (height, width)."""

    caption: str
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Regions:
    """The teacher's boxes, best first: boxes N x 4 float64 xyxy pixels, scores N float64, phrases N int64 (which)."""

    boxes: np.ndarray
    scores: np.ndarray
    phrases: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: np.ndarray) -> Regions:
        """Those of a mask or of places."""
        return Regions(self.boxes[rows], self.scores[rows], self.phrases[rows])


NO_REGIONS = Regions(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
PairFilter = Callable[[Candidate], bool]
RegionFilter = Callable[[Regions, tuple[int, int]], np.ndarray]  # a mask of what stays


def at_least_words(count: int) -> PairFilter:
    """Captions of at least so many words."""
    return lambda candidate: len(candidate.caption.split()) >= count


def at_least_side(pixels: int) -> PairFilter:
    """Pictures whose short side has at least so many pixels."""
    return lambda candidate: min(candidate.size) >= pixels


def at_most_share(share: float) -> RegionFilter:
    """Boxes that cover no more than this share of the picture."""
    return lambda regions, size: bx.area(regions.boxes) <= share * size[0] * size[1]


def best_per_phrase(count: int) -> RegionFilter:
    """The best so many boxes of each phrase."""

    def keep(regions: Regions, size: tuple[int, int]) -> np.ndarray:
        order = np.argsort(regions.phrases, kind="stable")
        ordered = regions.phrases[order]
        mask = np.zeros(len(regions), bool)
        mask[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered) < count
        return mask

    return keep


def one_phrase_per_box(iou: float) -> RegionFilter:
    """Of boxes of any phrases that overlap by more than `iou` the best (suppression over phrases)."""

    def keep(regions: Regions, size: tuple[int, int]) -> np.ndarray:
        mask = np.zeros(len(regions), bool)
        for i in range(len(regions)):
            kept = regions.boxes[:i][mask[:i]]
            mask[i] = not len(kept) or bx.iou(regions.boxes[i : i + 1], kept).max() <= iou
        return mask

    return keep


def agreeing(regions: Regions, again: Regions, iou: float = 0.5) -> np.ndarray:
    """Mask of the regions that a second view of the picture confirms: a box of the same phrase that overlaps by `iou`.

    again: the second view's regions in the pixels of the first (a mirrored picture, or a jittered one).
    """
    if not len(again):
        return np.zeros(len(regions), bool)
    same = regions.phrases[:, None] == again.phrases
    return ((bx.iou(regions.boxes, again.boxes) >= iou) & same).any(1)


# --- near-duplicate pictures -----------------------------------------------------------------------------------------


def perceptual_hash(content: bytes) -> int | None:
    """64 bits that hardly change when a picture is resized or compressed again; None when it can't be read.

    Bit i: whether a cell of a 9 x 8 grey version is darker than its right neighbour.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("L", (72, 64))
            cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return int.from_bytes(np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes(), "big")


def near_duplicates(hashes: np.ndarray, known: np.ndarray | None = None, distance: int = 3) -> np.ndarray:
    """Which pictures repeat an earlier one, or a known one.

    hashes: N uint64 in order; known: hashes of pictures that must not occur (an evaluation set).
    Returns N int64: -1 for a picture to keep, else the place of an earlier one, or N + the place of a known one.
    Two pictures are the same when at most `distance` (0 to 3) bits differ: then one of four 16-bit parts is equal.
    """
    known = np.zeros(0, np.uint64) if known is None else known.astype(np.uint64)
    unique, first = np.unique(np.concatenate([known, hashes.astype(np.uint64)]), return_index=True)
    order = np.argsort(first, kind="stable")
    unique, first = unique[order], first[order]  # distinct hashes by their first place, known ones before all others
    nearest = np.arange(len(unique))
    for part in range(4):
        keys = (unique >> np.uint64(16 * part)) & np.uint64(0xFFFF)
        by_key = np.argsort(keys, kind="stable")
        for run in np.split(by_key, np.flatnonzero(np.diff(keys[by_key])) + 1):
            for i, member in enumerate(run[1:], start=1):
                near = run[:i][_bits(unique[run[:i]] ^ unique[member]) <= distance]
                if len(near):
                    nearest[member] = min(nearest[member], near[0])
    place = dict(zip(unique.tolist(), first[nearest].tolist(), strict=True))
    found = np.array([place[h] for h in hashes.tolist()], np.int64)
    own = np.arange(len(hashes)) + len(known)
    found = np.where(found == own, -1, found)
    return np.where(found < 0, -1, np.where(found < len(known), found + len(hashes), found - len(known)))


def _bits(values: np.ndarray) -> np.ndarray:
    return np.unpackbits(values.astype(np.uint64).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
