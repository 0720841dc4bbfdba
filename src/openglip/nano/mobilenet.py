"""MobileNetV2 (Sandler et al., 2018) with its normalisation folded into the convolutions, padded as TensorFlow does."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.model.linear import conv2d, convolve, has_blocks
from openglip.nano.layers import convolve_depthwise

# ImageNet's, RGB, for values 0..255
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding, then ReLU6 if `act`."""

    def __init__(self, inner: int, outer: int, size: int = 1, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__(inner, outer, size, stride, (size - 1) // 2 * stride, groups=groups)
        self.act = act

    def forward(self, input: Tensor, plus: Tensor | None = None) -> Tensor:
        act = "relu6" if self.act else "none"
        # Sides are even, so a stride of 2 needs one more row and column, at the end.
        if input.is_mkldnn:  # a kernel enlarged by leading zeros lets both sides have the same padding
            strided = self.stride[0] == 2
            weight, padding = (F.pad(self.weight, (1, 0, 1, 0)), (1, 1)) if strided else (self.weight, self.padding)
            y = conv2d(input, weight, self.bias, self.stride, padding, self.groups, act)  # type: ignore[arg-type]
            return y if plus is None else y + plus
        y = (convolve_depthwise if self.groups > 1 else convolve)(input, self, act, plus=plus)
        # With two rows and columns of padding on each side the result has one more of each at the start, and no padded
        # copy of the larger map is made.
        return y[..., 1:, 1:] if self.stride[0] == 2 else y


class Inverted(nn.Module):
    """Inverted residual block: pointwise to `expand` times as many channels, depthwise 3 x 3, pointwise back."""

    def __init__(self, inner: int, outer: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inner * expand
        self.shortcut = stride == 1 and inner == outer
        self.expand = SameConv(inner, hidden) if expand > 1 else nn.Identity()
        self.depth = SameConv(hidden, hidden, 3, stride, hidden)
        self.project = SameConv(hidden, outer, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.depth(self.expand(x)), x if self.shortcut else None)


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., 2018) with folded normalisation; returns maps of strides 8, 16 and 32.

    Its input is B x 3 x H x W, BGR from 0 to 255, with even sides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        stages, inner = [], 32
        table = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        for expand, outer, depth, stride in table:
            blocks = [
                Inverted(inner if i == 0 else outer, outer, stride if i == 0 else 1, expand) for i in range(depth)
            ]
            stages.append(nn.Sequential(*blocks))
            inner = outer
        self.blocks = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        mean, std = x.new_tensor([MEAN, STD]).flip(1)[..., None, None].unbind()
        # The last row and column that SameConv would add: cheaper to add here, to 3 channels, than to cut from 32.
        x = F.pad(torch.addcmul(-mean / std, x, 1 / std), (0, 1, 0, 1))
        if not has_blocks(x):
            return self._levels(x)
        # One image at a time: the fine maps of several would leave the cache.
        images = [self._levels(image.contiguous().to_mkldnn()) for image in x.split(1)]
        layout = torch.channels_last
        return [
            torch.cat([level.to_dense() for level in levels]).contiguous(memory_format=layout)
            for levels in zip(*images, strict=True)
        ]

    def _levels(self, x: Tensor) -> list[Tensor]:
        x = conv2d(x, self.stem.weight.flip(1), self.stem.bias, (2, 2), (0, 0), act="relu6")
        levels = []
        for i, stage in enumerate(self.blocks):
            x = stage(x)
            if i in (2, 4, 6):
                levels.append(x)
        return levels
