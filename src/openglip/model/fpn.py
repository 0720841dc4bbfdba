"""Feature pyramid P3..P7 of GLIP; source: FPN (Lin et al., 2017) in the RetinaNet layout of the official code."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from openglip.model.dropblock import DropBlock


class TopBlocks(nn.Module):
    """P6 and P7, each by a 3 x 3 convolution of stride 2. P7 reads a rectified P6, P6 itself stays as it is."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(dim, dim, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(dim, dim, 3, stride=2, padding=1)

    def forward(self, p5: Tensor) -> list[Tensor]:
        p6 = self.p6(p5)
        return [p6, self.p7(F.relu(p6))]


class FPN(nn.Module):
    """Top-down pyramid over C3, C4, C5 and two coarser levels on top of P5.

    channels: those of C3, C4, C5. drop_block (probability, block) acts in training on the merged maps of P3 and P4,
    never on P5 (docs/spec.md 8.3.7).
    """

    def __init__(self, channels: Sequence[int], dim: int, drop_block: tuple[float, int] | None = None) -> None:
        super().__init__()
        self.levels = range(2, 2 + len(channels))
        for level, c in zip(self.levels, channels, strict=True):
            self.add_module(f"fpn_inner{level}", nn.Conv2d(c, dim, 1))
            self.add_module(f"fpn_layer{level}", nn.Conv2d(dim, dim, 3, padding=1))
        self.top_blocks = TopBlocks(dim)
        self.drop_block = DropBlock(*drop_block) if drop_block else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """maps: C3, C4, C5. Returns P3..P7, B x dim x h x w each; a coarser level has ceil(n / 2) cells."""
        inner: Tensor | None = None
        pyramid: list[Tensor] = []
        for level, x in reversed(list(zip(self.levels, maps, strict=True))):
            lateral = self.get_submodule(f"fpn_inner{level}")(x)
            if inner is None:
                merged = inner = lateral
            else:
                inner = lateral + F.interpolate(inner, lateral.shape[-2:], mode="nearest")
                merged = inner if self.drop_block is None else self.drop_block(inner)
            pyramid.insert(0, self.get_submodule(f"fpn_layer{level}")(merged))
        return pyramid + self.top_blocks(pyramid[-1])
