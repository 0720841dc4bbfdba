"""Anchors of a feature pyramid, and the code that turns boxes into offsets from anchors and back.

Everything here is xyxy in pixels of the network's input. GLIP keeps an old convention in which a box from x1 to x2
covers x2 - x1 + 1 pixels ("plus one"); its weights expect it, so it is the default. Source: docs/spec.md 6.1, 6.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorGrid:
    """One square anchor for each cell of each level.

    Args:
        strides: Pixels between cells, fine level first.
        scale: Side of an anchor in strides.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    scale: float = 8

    def __call__(
        self,
        sizes: Sequence[tuple[int, int]],
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The anchors of all levels.

        Args:
            sizes: (height, width) of each level in cells, in the order of the strides.
            device: Where to make them.
            dtype: Their type.

        Returns:
            A x 4, xyxy in pixels of the network's input; levels in order, rows before columns.

        Raises:
            ValueError: There are not as many levels as strides.
        """
        if len(sizes) != len(self.strides):
            raise ValueError(
                f"{len(sizes)} feature levels, but the grid has the {len(self.strides)} strides {self.strides}"
            )
        levels = []
        for stride, (height, width) in zip(self.strides, sizes, strict=True):
            x = torch.arange(width, device=device, dtype=dtype) * stride + (stride - 1) / 2
            y = torch.arange(height, device=device, dtype=dtype) * stride + (stride - 1) / 2
            reach = (self.scale * stride - 1) / 2  # inclusive pixels: a side of 64 spans 63
            centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
            levels.append(torch.cat([centre - reach, centre + reach], 1))
        return torch.cat(levels)


@dataclass(frozen=True)
class BoxCoder:
    """Boxes as offsets (dx, dy, dw, dh) from anchors.

    Args:
        weights: Factors that bring the four offsets to a similar spread.
        plus_one: Whether a side is x2 - x1 + 1.
        max_log_growth: Limit of dw and dh after division by their weights.
    """

    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    plus_one: bool = True
    max_log_growth: float = math.log(1000 / 16)  # keeps exp() of an untrained output finite

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Offsets, ... x 4, of boxes (... x 4, xyxy) from anchors (... x 4, xyxy)."""
        box_centre, box_size = self._centre_and_size(boxes)
        anchor_centre, anchor_size = self._centre_and_size(anchors)
        weights = boxes.new_tensor(self.weights)
        shift = weights[:2] * (box_centre - anchor_centre) / anchor_size
        growth = weights[2:] * torch.log(box_size / anchor_size)
        return torch.cat([shift, growth], -1)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Boxes, ... x 4 xyxy, from offsets (... x 4). Growth is limited above; nothing is clipped to an image."""
        centre, size = self._centre_and_size(anchors)
        deltas = deltas / deltas.new_tensor(self.weights)
        centre = deltas[..., :2] * size + centre
        size = deltas[..., 2:].clamp(max=self.max_log_growth).exp() * size
        reach = 0.5 * (size - int(self.plus_one))
        return torch.cat([centre - reach, centre + reach], -1)

    def _centre_and_size(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        low, high = boxes[..., :2], boxes[..., 2:]
        return (low + high) / 2, high - low + int(self.plus_one)
