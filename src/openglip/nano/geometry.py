"""The grids of the embedded model, and what carries maps and boxes from one to another.

YOLOX-Nano's cells lie every 8, 16 and 32 pixels; the cells of the tower every 10, 20 and 40 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from openglip.model.anchors import AnchorGrid, BoxCoder

DETECTOR_GRID = AnchorGrid((8, 16, 32), scale=8)
TOWER_GRID = AnchorGrid((10, 20, 40), scale=8)
GRID = AnchorGrid((*TOWER_GRID.strides, *DETECTOR_GRID.strides), scale=8)
GREY = 114.0  # YOLOX's padding


def unprepare(images: Tensor) -> Tensor:
    """Prepared images as values from 0 to 255, channels last in memory, padded with grey to multiples of 32."""
    images = F.pad(images, (0, -images.shape[3] % 32, 0, -images.shape[2] % 32))
    return torch.add(images, GREY, out=torch.empty_like(images, memory_format=torch.channels_last))


def resample(x: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """The first `size` cells of a map B x C x h x w on a grid with `scale` times as many cells a side: bilinear."""
    # torch copies a side that has the right number of cells, whatever the scale: a padded cell, which nothing reads,
    # prevents that.
    pad = [int(n == target) for n, target in zip(x.shape[2:], size, strict=True)]
    if any(pad):
        x = F.pad(x, (0, pad[1], 0, pad[0]))
    return torch.ops.aten.upsample_bilinear2d(x, list(size), False, scale, scale)


def resample_nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """As `resample` with a scale of 4 / 5, but each cell takes the value at its centre."""
    rows, columns = ((torch.arange(n, device=x.device) * 2 + 1) * 5 // 8 for n in size)
    return x.index_select(2, rows).index_select(3, columns)


def coordinates(like: Tensor) -> Tensor:
    """B x 2 x h x w: x and y from -1 to 1."""
    b, _, h, w = like.shape
    y = torch.linspace(-1, 1, h, device=like.device, dtype=like.dtype)
    x = torch.linspace(-1, 1, w, device=like.device, dtype=like.dtype)
    both = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].expand(b, -1, -1, -1)
    return both.contiguous(memory_format=torch.channels_last)


def decode_detector_boxes(raw: Sequence[Tensor]) -> list[Tensor]:
    """Raw boxes of `Yolox`, B x 4 x h x w per level, as xyxy in pixels of its image."""
    boxes = []
    for level, stride in zip(raw, DETECTOR_GRID.strides, strict=True):
        y, x = (torch.arange(n, device=level.device, dtype=level.dtype) for n in level.shape[2:])
        corner = torch.stack(torch.meshgrid(x, y, indexing="xy"))
        centre = (corner + level[:, :2]) * stride
        half = level[:, 2:].clamp(-6, 6).exp() * stride / 2
        boxes.append(torch.cat([centre - half, centre + half], 1))
    return boxes


def encode_boxes(boxes: Sequence[Tensor], grid: AnchorGrid, coder: BoxCoder) -> list[Tensor]:
    """Boxes B x 4 x h x w per level (xyxy in pixels) as offsets from the grid's anchors."""
    sizes = level_sizes(boxes)
    anchors = grid(sizes, boxes[0].device, boxes[0].dtype).split([h * w for h, w in sizes])
    offsets = []
    for level, level_anchors in zip(boxes, anchors, strict=True):
        rows = coder.encode(level.flatten(2).transpose(1, 2), level_anchors)
        offsets.append(rows.transpose(1, 2).reshape(level.shape))
    return offsets


def flatten_levels(levels: Sequence[Tensor]) -> Tensor:
    """Levels B x C x h x w as B x A x C."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], 1)


def level_sizes(levels: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((int(level.shape[2]), int(level.shape[3])) for level in levels)
