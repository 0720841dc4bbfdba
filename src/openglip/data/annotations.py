"""What readers share: raw values become boxes, spans and sizes of a sample, and whatever is left out is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from openglip.data.findings import Findings
from openglip.errors import DataError
from openglip.structures import boxes as bx
from openglip.structures.sample import Span


def usable_boxes(
    boxes: Sequence[Sequence[float]], size: tuple[int, int], findings: Findings, file: object, id: str | int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to the image and leave out those without an area.

    Recorded: box_not_finite and box_degenerate (left out), box_outside (more than one pixel beyond the border; what is
    inside stays).

    Args:
        boxes: N xyxy boxes in pixels.
        size: (height, width) of the image.
        findings: Collects what is left out or clipped.
        file: The file to name in findings.
        id: The id to name in findings.

    Returns:
        The K usable boxes (K x 4 float32) and their rows in the input (K int64).
    """
    raw = np.asarray(boxes, np.float64).reshape(-1, 4) if len(boxes) else np.zeros((0, 4))
    finite = np.asarray(np.isfinite(raw).all(axis=1))
    filled = finite & (raw[:, 2:] > raw[:, :2]).all(axis=1)
    clipped = bx.clip(np.where(finite[:, None], raw, 0), *size).astype(np.float32)
    usable = filled & (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    outside = filled & ((np.abs(raw - clipped) > 1.0).any(axis=1) | ~usable)
    for i in np.flatnonzero(~finite | ~filled | outside):
        kind = "box_not_finite" if not finite[i] else "box_outside" if filled[i] else "box_degenerate"
        corners = ", ".join(f"{v:g}" for v in raw[i])
        findings.add(kind, file, id, f"box {i}: ({corners}) in a picture of {size[1]} x {size[0]}")
    return clipped[usable], np.flatnonzero(usable)


def usable_spans(spans: object, caption: str, findings: Findings, file: object, id: str | int | None) -> list[Span]:
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


def numbers(values: object, count: int) -> list[float] | None:
    """`values` as `count` floats, or None. Infinite ones and NaN pass: they are sorted out with the boxes."""
    if isinstance(values, list | tuple) and len(values) == count:
        try:
            return [float(v) for v in values]
        except (TypeError, ValueError, OverflowError):
            return None
    return None


def size_of(height: object, width: object) -> tuple[int, int] | None:
    """(height, width) when both are positive whole numbers, also as floats or digits; else None."""
    both = numbers([height, width], 2)
    if both is None or not all(0 < side < 1e9 and side == int(side) for side in both):
        return None
    return int(both[0]), int(both[1])


def is_id(value: object) -> bool:
    """Whether a value can be an id: a number or a string."""
    return isinstance(value, int | str)


def xywh_corners(bbox: Sequence[float]) -> list[float]:
    """[x, y, width, height] as [x1, y1, x2, y2]."""
    return [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]]
