"""Sample: the one record between every data format and the training, whatever file an annotation came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openglip.errors import DataError
from openglip.files import FileSlice

Span = tuple[int, int]


ImageReference = str | bytes | FileSlice


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture with what is known about it. Arrays are checked, converted and made read-only.

    image: path, encoded bytes, or a part of a file. size: (height, width) of the picture in whose pixels `boxes` are
    given; a stored picture may be smaller with the same aspect, then the boxes follow when it is loaded.
    boxes: N x 4 float32 xyxy, not empty. labels: N int64, index into `categories`.
    caption, phrase_spans: per box its half-open character spans in `caption` (may be none).
    categories: the names its source knows; exhaustive: every object of every one of them has a box, so names without a
    box are absent. negatives: names known to be absent although the source is not exhaustive.
    scores: N float32 of pseudo boxes. Raises DataError that names source and id.
    """

    image: ImageReference
    size: tuple[int, int]
    boxes: np.ndarray
    caption: str | None = None
    phrase_spans: tuple[tuple[Span, ...], ...] | None = None
    categories: tuple[str, ...] | None = None
    labels: np.ndarray | None = None
    negatives: tuple[str, ...] = ()
    exhaustive: bool = False
    scores: np.ndarray | None = None
    image_id: str | int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        height, width = self.size
        self._check(height > 0 and width > 0, f"size is {height} x {width}")
        self._check(isinstance(self.image_id, int | str | None), "the id is neither a number nor a string")
        boxes = _frozen(np.asarray(self.boxes, np.float32).reshape(-1, 4))
        object.__setattr__(self, "boxes", boxes)
        self._check(bool(np.isfinite(boxes).all()), "a box is not finite")
        empty = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(1))
        self._check(not len(empty), f"box {empty[:1]} has no width or height")
        if self.labels is not None:
            labels = _frozen(np.asarray(self.labels, np.int64))
            object.__setattr__(self, "labels", labels)
            self._check(self.categories is not None, "labels without categories")
            self._check(labels.shape == (len(boxes),), f"{labels.shape} labels for {len(boxes)} boxes")
            known = len(self.categories or ())
            self._check(bool(((labels >= 0) & (labels < known)).all()), f"a label is not in 0..{known - 1}")
        if self.scores is not None:
            object.__setattr__(self, "scores", _frozen(np.asarray(self.scores, np.float32)))
            self._check(self.scores.shape == (len(boxes),), f"{self.scores.shape} scores for {len(boxes)} boxes")
        if self.phrase_spans is not None:
            self._check_spans(self.phrase_spans)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def where(self) -> str:
        """Source, id and file of this sample, for messages."""
        place = f"{len(self.image)} bytes" if isinstance(self.image, bytes) else str(self.image)
        return f"{self.source or 'sample'}, id {self.image_id!r}, {place}"

    @property
    def file_name(self) -> str:
        """The file's last part, or the id where the image lies in memory."""
        place = self.image if isinstance(self.image, str) else getattr(self.image, "name", "")
        return Path(place).name or f"{self.image_id}.jpg"

    @property
    def names(self) -> tuple[str, ...]:
        """Per box its category, or the words of its phrase; "" where a box has neither."""
        if self.labels is not None and self.categories is not None:
            return tuple(self.categories[i] for i in self.labels)
        if self.caption is not None and self.phrase_spans is not None:
            return tuple(" ".join(self.caption[b:e] for b, e in spans) for spans in self.phrase_spans)
        return ("",) * len(self)

    def select(self, keep: np.ndarray) -> dict[str, object]:
        """The fields that go with boxes, for those of an index or mask only; for `dataclasses.replace`."""
        rows = np.arange(len(self))[keep]
        spans, labels, scores = self.phrase_spans, self.labels, self.scores
        return {
            "boxes": self.boxes[rows],
            "labels": None if labels is None else labels[rows],
            "scores": None if scores is None else scores[rows],
            "phrase_spans": None if spans is None else tuple(spans[i] for i in rows),
        }

    def _check_spans(self, phrase_spans: tuple[tuple[Span, ...], ...]) -> None:
        spans = tuple(tuple((int(b), int(e)) for b, e in item) for item in phrase_spans)
        object.__setattr__(self, "phrase_spans", spans)
        self._check(self.caption is not None, "phrase spans without a caption")
        self._check(len(spans) == len(self), f"{len(spans)} phrases for {len(self)} boxes")
        length = len(self.caption or "")
        wrong = [span for item in spans for span in item if not 0 <= span[0] < span[1] <= length]
        self._check(not wrong, f"spans {wrong[:1]} leave the caption of {length} characters")

    def _check(self, holds: bool, problem: str) -> None:
        if not holds:
            raise DataError(f"{self.where}: {problem}")


def _frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy() if array.flags.writeable or array.base is not None else array
    array.flags.writeable = False
    return array
