"""Boxes: N x 4 arrays of x1, y1, x2, y2 in pixels, x right, y down, width = x2 - x1.

Functions with `plus_one` can count both corners as pixels of the box (width = x2 - x1 + 1), which is the convention
inside GLIP and of COCO's oldest tools. `pairwise_iou` and `elementwise_giou` take tensors, the others numpy arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def area(boxes: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """Areas, N values; 0 where a box has no width or height."""
    sides = np.clip(boxes[:, 2:] - boxes[:, :2] + int(plus_one), 0, None)
    return sides[:, 0] * sides[:, 1]


def iou(a: np.ndarray, b: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """Intersection over union, N x M, of two sets of boxes; 0 where both boxes are empty."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2]) + int(plus_one)
    sides = np.clip(sides, 0, None)  # N M 2
    shared = sides[..., 0] * sides[..., 1]
    union = area(a, plus_one)[:, None] + area(b, plus_one)[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """Left, top, width, height to corners."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Corners to left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def clip(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    """Boxes cut at the borders of an image; a box outside of it becomes empty and stays in its row."""
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def scale(boxes: np.ndarray, sx: float, sy: float) -> np.ndarray:
    """Boxes of an image that is stretched by sx along x and sy along y."""
    return boxes * np.array([sx, sy, sx, sy], boxes.dtype)


def pairwise_iou(a: Tensor, b: Tensor, plus_one: bool = False) -> Tensor:
    """Intersection over union, N x M, of two sets of boxes; 0 where both boxes are empty."""
    shared, union = _shared_and_union(a[:, None], b[None, :], plus_one)
    return (shared / union).nan_to_num(nan=0.0)


def elementwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU, N values in -1..1, of the i-th box of both sets. Source: Rezatofighi et al. 2019."""
    shared, union = _shared_and_union(a, b, False)
    hull = (a[:, 2:].maximum(b[:, 2:]) - a[:, :2].minimum(b[:, :2])).prod(1)
    return shared / union.clamp(min=1e-7) - (hull - union) / hull.clamp(min=1e-7)


def _shared_and_union(a: Tensor, b: Tensor, plus_one: bool) -> tuple[Tensor, Tensor]:
    extra = int(plus_one)
    shared = (a[..., 2:].minimum(b[..., 2:]) - a[..., :2].maximum(b[..., :2]) + extra).clamp(min=0).prod(-1)
    areas = [(x[..., 2:] - x[..., :2] + extra).clamp(min=0).prod(-1) for x in (a, b)]
    return shared, areas[0] + areas[1] - shared
