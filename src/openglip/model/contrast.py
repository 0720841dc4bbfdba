"""Regions and words before they are fused, in one space: for a training loss across pictures (GLIPv2, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglip.model.dyhead import to_sequence


class Contrast(NamedTuple):
    """regions: B x A x W and words: B x L x W, unit length; scale: factor of their products; weight: of the loss."""

    regions: Tensor
    words: Tensor
    scale: Tensor
    weight: float


class RegionWords(nn.Module):
    """Project the pyramid and the encoded text to `width` channels. Only in training; nothing of it is given out."""

    def __init__(self, dim: int, text_dim: int, weight: float, width: int = 64) -> None:
        super().__init__()
        self.weight = weight
        self.image = nn.Linear(dim, width)
        self.text = nn.Linear(text_dim, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, pyramid: Sequence[Tensor], hidden: Tensor) -> Contrast:
        regions = F.normalize(self.image(to_sequence(list(pyramid))).float(), dim=-1)
        return Contrast(
            regions, F.normalize(self.text(hidden).float(), dim=-1), self.log_scale.exp().clamp(max=100), self.weight
        )
