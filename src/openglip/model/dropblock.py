"""DropBlock (Ghiasi et al., 2018) as GLIP's pyramid uses it in training; source: docs/spec.md 8.3.7."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def drop_block(x: Tensor, uniform: Tensor, probability: float, block: int) -> Tensor:
    """Zero square blocks of x (B x C x H x W), the same in all channels, and scale the rest up by what is left.

    uniform: B x H x W in [0, 1); a position below probability / block^2 is the centre of a dropped block. The scale is
    one for the whole batch.
    """
    centres = (uniform < probability / block**2).to(x.dtype)
    dropped = F.max_pool2d(centres[:, None], block, stride=1, padding=block // 2)
    keep = 1 - dropped
    return x * keep * (keep.numel() / keep.sum().clamp(min=1))


class DropBlock(nn.Module):
    """Drop blocks at random in training; the identity in evaluation."""

    def __init__(self, probability: float = 0.3, block: int = 3) -> None:
        super().__init__()
        self.probability, self.block = probability, block

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        batch, _, height, width = x.shape
        return drop_block(x, torch.rand(batch, height, width, device=x.device), self.probability, self.block)
