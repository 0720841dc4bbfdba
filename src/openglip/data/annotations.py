"""What readers share: raw values become boxes, spans and sizes of a sample, and whatever is left out is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from openglip.data.files import image_size
from openglip.data.findings import Findings
from openglip.errors import DataError
from openglip.structures import boxes as bx
from openglip.structures.sample import ImageReference, Sample, Span

Corners = Sequence[float]
Id = str | int | None
Index = Mapping[Any, int] | None
Size = tuple[int, int]


class Row(NamedTuple):
    """One box with what belongs to it. id: what findings name."""

    corners: Corners
    label: Any
    spans: Sequence[Span]
    score: object
    id: Id


@dataclass
class Boxes:
    """The boxes of one sample while it is read.

    Attributes:
        file: The file to name in findings.
        id: The id to name in findings, and the sample's.
        findings: Collects what is left out or clipped.
        rows: The boxes so far.
    """

    file: object
    id: Id
    findings: Findings
    rows: list[Row] = field(default_factory=list)

    def add(
        self, corners: Corners, label: Any = None, *, spans: Sequence[Span] = (), score: object = None, id: Id = None
    ) -> None:
        """Add a box.

        Args:
            corners: x1, y1, x2, y2 in pixels.
            label: Its category, by number or name.
            spans: Its character spans in the caption.
            score: Its score, if that is a number.
            id: The id to name in findings, where the box has one.
        """
        self.rows.append(Row(corners, label, spans, score, self.id if id is None else id))

    def report(self, kind: str, message: str) -> None:
        """Record a fault or note under the sample's id."""
        self.findings.add(kind, self.file, self.id, message)

    def sample(self, image: ImageReference, size: Size, index: Index = None, **fields: Any) -> Sample:
        """The sample with the boxes that can be used.

        Boxes are clipped to the image, and those without an area left out. Recorded: box_not_finite and box_degenerate
        (left out), box_outside (more than one pixel beyond the border; what is inside stays).

        Args:
            image: Where the image is.
            size: (height, width) of the image.
            index: The position of each label in `categories`; None where labels are positions.
            **fields: Further fields of the sample. Where `categories` are given, its labels are those of the boxes;
                where a `caption` is given, its spans are.

        Raises:
            DataError: A field is wrong.
        """
        raw = np.array([row.corners for row in self.rows], np.float64).reshape(-1, 4)
        finite = np.asarray(np.isfinite(raw).all(axis=1))
        filled = finite & (raw[:, 2:] > raw[:, :2]).all(axis=1)
        clipped = bx.clip(np.where(finite[:, None], raw, 0), *size).astype(np.float32)
        usable = filled & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        outside = filled & ((np.abs(raw - clipped) > 1.0).any(axis=1) | ~usable)
        for i in np.flatnonzero(~finite | ~filled | outside):
            kind = "box_not_finite" if not finite[i] else "box_outside" if filled[i] else "box_degenerate"
            corners = ", ".join(f"{v:g}" for v in raw[i])
            text = f"box {i}: ({corners}) in an image of {size[1]} x {size[0]}"
            self.findings.add(kind, self.file, self.rows[i].id, text)
        rows = [self.rows[i] for i in np.flatnonzero(usable)]
        if fields.get("categories") is not None:
            fields["labels"] = [row.label if index is None else index[row.label] for row in rows]
        if fields.get("caption") is not None:
            fields["phrase_spans"] = [row.spans for row in rows]
        if rows and all(isinstance(row.score, int | float) for row in rows):
            fields["scores"] = [row.score for row in rows]
        return Sample(image, size, clipped[usable], **{"image_id": self.id, **fields})


def usable_spans(spans: object, caption: str, findings: Findings, file: object, id: Id) -> list[Span]:
    """Half-open character spans inside the caption; others are left out and recorded as span_outside."""
    usable: list[Span] = []
    if not isinstance(spans, list):
        findings.add("span_outside", file, id, f"spans are no list: {spans!r:.60}")
        return usable
    for span in spans:
        ends = numbers(span, 2)
        if ends is not None and 0 <= ends[0] < ends[1] <= len(caption) and all(e == int(e) for e in ends):
            usable.append((int(ends[0]), int(ends[1])))
        else:
            findings.add("span_outside", file, id, f"span {span!r:.60} in a caption of {len(caption)} characters")
    return usable


def record(item: object, keys: Sequence[str], file: object, where: str) -> dict[str, Any]:
    """`item` as an object that has these keys. Raises DataError that names the file and `where` in it."""
    if not isinstance(item, dict):
        raise DataError(f"{file}: {where} is no object: {item!r:.60}")
    missing = [key for key in keys if key not in item]
    if missing:
        raise DataError(f"{file}: {where} has no {', '.join(map(repr, missing))}")
    return item


def listed(value: object, file: object, where: str) -> list[Any]:
    """`value` as a list. Raises DataError that names the file and `where` in it."""
    if not isinstance(value, list):
        raise DataError(f"{file}: {where} is no list: {value!r:.60}")
    return value


def records(content: object, keys: Sequence[str], file: object, what: str) -> list[dict[str, Any]]:
    """The content of a file as objects that have these keys, each called `what` and its number. Raises DataError."""
    return [record(item, keys, file, f"{what} {i}") for i, item in enumerate(listed(content, file, "the file"))]


def numbers(values: object, count: int) -> list[float] | None:
    """`values` as `count` floats, or None. Infinite ones and NaN pass: they are sorted out with the boxes."""
    if isinstance(values, list | tuple) and len(values) == count:
        try:
            return [float(v) for v in values]
        except (TypeError, ValueError, OverflowError):
            return None
    return None


def size_of(height: object, width: object) -> Size | None:
    """(height, width) when both are positive whole numbers, also as floats or digits; else None."""
    both = numbers([height, width], 2)
    if both is None or not all(0 < side < 1e9 and side == int(side) for side in both):
        return None
    return int(both[0]), int(both[1])


def header_size(
    image: ImageReference, findings: Findings, file: object, id: Id, kind: str = "missing_image"
) -> Size | None:
    """(height, width) from an image's header; None, and recorded, when it can't be read."""
    try:
        return image_size(image)
    except DataError as error:
        findings.add(kind, file, id, str(error))
        return None


def is_id(value: object) -> bool:
    """Whether a value can be an id: a number or a string."""
    return isinstance(value, int | str)


def xywh_corners(bbox: Corners) -> list[float]:
    """[x, y, width, height] as [x1, y1, x2, y2]."""
    return [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]]
