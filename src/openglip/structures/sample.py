"""`Sample`: the one record between every data format and the training, whatever file an annotation came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openglip.errors import DataError
from openglip.files import FileSlice

Span = tuple[int, int]
"""Half-open range (begin, end) of characters in a text."""

Spans = tuple[Span, ...]
"""The character ranges of one name or phrase; several where other words stand between its parts."""

ImageReference = str | bytes | FileSlice
"""An image that is not read yet: its path, its encoded bytes, or a slice of a larger file."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its annotations. Arrays are checked, converted and made read-only.

    Attributes:
        image: The image.
        size: (height, width) of the image in whose pixels `boxes` are given. A stored image may be smaller with the
            same aspect; the boxes are scaled when it is loaded.
        boxes: N x 4 float32 xyxy, none empty.
        caption: A text about the image.
        phrase_spans: Per box the character ranges of its phrase in `caption`, possibly none.
        categories: The names that the source annotates.
        labels: N int64, index into `categories`.
        negatives: Names known to be absent, although the source is not exhaustive.
        exhaustive: Every object of every category has a box, so that a name without a box is absent.
        scores: N float32, of pseudo boxes.
        image_id: The image's id in its source.
        source: Name of the source.

    Raises:
        DataError: The fields do not fit together; the message names the source and the id.
    """

    image: ImageReference
    size: tuple[int, int]
    boxes: np.ndarray
    caption: str | None = None
    phrase_spans: tuple[Spans, ...] | None = None
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
        is_id = isinstance(self.image_id, int | str | None)  # pyright: ignore[reportUnnecessaryIsInstance]
        self._check(is_id, "the id is neither a number nor a string")
        boxes = _read_only(np.asarray(self.boxes, np.float32).reshape(-1, 4))
        object.__setattr__(self, "boxes", boxes)
        self._check(bool(np.isfinite(boxes).all()), "a box is not finite")
        empty = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(1))
        self._check(not len(empty), f"box {empty[:1]} has no width or height")
        if self.labels is not None:
            labels = _read_only(np.asarray(self.labels, np.int64))
            object.__setattr__(self, "labels", labels)
            self._check(self.categories is not None, "labels without categories")
            self._check(labels.shape == (len(boxes),), f"{labels.shape} labels for {len(boxes)} boxes")
            count = len(self.categories or ())
            self._check(bool(((labels >= 0) & (labels < count)).all()), f"a label is not in 0..{count - 1}")
        if self.scores is not None:
            object.__setattr__(self, "scores", _read_only(np.asarray(self.scores, np.float32)))
            self._check(self.scores.shape == (len(boxes),), f"{self.scores.shape} scores for {len(boxes)} boxes")
        if self.phrase_spans is not None:
            self._check_spans(self.phrase_spans)

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def where(self) -> str:
        """Source, id and file of this sample, for messages."""
        image = f"{len(self.image)} bytes" if isinstance(self.image, bytes) else str(self.image)
        return f"{self.source or 'sample'}, id {self.image_id!r}, {image}"

    @property
    def file_name(self) -> str:
        """The image's file name without folders; of an image in memory one made from its id."""
        name = self.image if isinstance(self.image, str) else getattr(self.image, "name", "")
        return Path(name).name or f"{self.image_id}.jpg"

    @property
    def names(self) -> tuple[str, ...]:
        """Per box its category, or the words of its phrase; "" where a box has neither."""
        if self.labels is not None and self.categories is not None:
            labels: list[int] = self.labels.tolist()
            return tuple(self.categories[label] for label in labels)
        if self.caption is not None and self.phrase_spans is not None:
            return tuple(" ".join(self.caption[b:e] for b, e in spans) for spans in self.phrase_spans)
        return ("",) * len(self)

    def select(self, keep: np.ndarray) -> dict[str, object]:
        """The fields that have a value per box, for some boxes only.

        Args:
            keep: Indices of boxes, or a mask of length N.

        Returns:
            Keyword arguments for `dataclasses.replace`.
        """
        rows: list[int] = np.arange(len(self))[keep].tolist()
        spans, labels, scores = self.phrase_spans, self.labels, self.scores
        return {
            "boxes": self.boxes[rows],
            "labels": None if labels is None else labels[rows],
            "scores": None if scores is None else scores[rows],
            "phrase_spans": None if spans is None else tuple(spans[i] for i in rows),
        }

    def _check_spans(self, phrase_spans: tuple[Spans, ...]) -> None:
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


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy() if array.flags.writeable or array.base is not None else array
    array.flags.writeable = False
    return array
