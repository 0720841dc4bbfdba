"""YOLOX-Nano (Ge et al., 2021), a detector of COCO's 80 classes, with its normalisation folded into the convolutions.

Attribute names are those of the official checkpoint.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.model.linear import conv2d, convolve

CLASSES = 80


class Unit(nn.Conv2d):
    """Convolution (normalisation folded in) and SiLU."""

    def __init__(self, inner: int, outer: int, size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inner, outer, size, stride, (size - 1) // 2, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        return convolve(input, self, "swish")


class DepthwiseUnit(nn.Sequential):
    """A depthwise, then a pointwise unit."""

    def __init__(self, inner: int, outer: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.dconv = Unit(inner, inner, size, stride, inner)
        self.pconv = Unit(inner, outer)


class Bottleneck(nn.Module):
    def __init__(self, dim: int, shortcut: bool) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.conv1 = Unit(dim, dim)
        self.conv2 = DepthwiseUnit(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class CSP(nn.Module):
    """Half of the channels pass through `depth` bottlenecks, the other half around them."""

    def __init__(self, inner: int, outer: int, depth: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        half = outer // 2
        self.conv1 = Unit(inner, half)
        self.conv2 = Unit(inner, half)
        self.conv3 = Unit(outer, outer)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], 1))


class SPP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = Unit(dim, dim // 2)
        self.conv2 = Unit(dim * 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pools = [x]
        for _ in range(3):  # windows of 5, 9 and 13
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        return self.conv2(torch.cat(pools, 1))


class Stem(Unit):
    """A 3 x 3 unit over 2 x 2 pixels stacked as channels, computed as a 6 x 6 convolution with a stride of 2."""

    def forward(self, input: Tensor) -> Tensor:
        # the official order of channels: column of the 2 x 2, row, colour
        weight = self.weight.unflatten(1, (2, 2, 3)).permute(0, 3, 4, 2, 5, 1).reshape(-1, 3, 6, 6)
        return conv2d(input, weight, self.bias, (2, 2), (2, 2), act="swish")


class Darknet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = Stem(12, 16, 3)
        self.dark2 = nn.Sequential(DepthwiseUnit(16, 32, stride=2), CSP(32, 32, 1, True))
        self.dark3 = nn.Sequential(DepthwiseUnit(32, 64, stride=2), CSP(64, 64, 3, True))
        self.dark4 = nn.Sequential(DepthwiseUnit(64, 128, stride=2), CSP(128, 128, 3, True))
        self.dark5 = nn.Sequential(DepthwiseUnit(128, 256, stride=2), SPP(256), CSP(256, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c3 = self.dark3(self.dark2(self.stem(x)))
        c4 = self.dark4(c3)
        return c3, c4, self.dark5(c4)


class Neck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Darknet()
        self.lateral_conv0 = Unit(256, 128)
        self.C3_p4 = CSP(256, 128)
        self.reduce_conv1 = Unit(128, 64)
        self.C3_p3 = CSP(128, 64)
        self.bu_conv2 = DepthwiseUnit(64, 64, stride=2)
        self.C3_n3 = CSP(128, 128)
        self.bu_conv1 = DepthwiseUnit(128, 128, stride=2)
        self.C3_n4 = CSP(256, 256)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c3, c4, c5 = self.backbone(x)
        top = self.lateral_conv0(c5)
        middle = self.reduce_conv1(self.C3_p4(torch.cat([upsample(top), c4], 1)))
        p3 = self.C3_p3(torch.cat([upsample(middle), c3], 1))
        p4 = self.C3_n3(torch.cat([self.bu_conv2(p3), middle], 1))
        return p3, p4, self.C3_n4(torch.cat([self.bu_conv1(p4), top], 1))


class YoloxHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dims, dim = (64, 128, 256), 64
        self.stems = nn.ModuleList(Unit(d, dim) for d in dims)
        self.cls_convs = nn.ModuleList(nn.Sequential(DepthwiseUnit(dim, dim), DepthwiseUnit(dim, dim)) for _ in dims)
        self.reg_convs = nn.ModuleList(nn.Sequential(DepthwiseUnit(dim, dim), DepthwiseUnit(dim, dim)) for _ in dims)
        self.cls_preds = nn.ModuleList(nn.Conv2d(dim, CLASSES, 1) for _ in dims)
        self.reg_preds = nn.ModuleList(nn.Conv2d(dim, 4, 1) for _ in dims)
        self.obj_preds = nn.ModuleList(nn.Conv2d(dim, 1, 1) for _ in dims)

    def forward(self, x: Tensor, level: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """The outputs of one level.

        Args:
            x: The map of the neck.
            level: Its level, from 0.

        Returns:
            Features of both branches, B x 64 x h x w each; class scores, B x 80 x h x w, from 0 to 1; raw boxes,
            B x 4 x h x w.
        """
        x = self.stems[level](x)
        class_features, box_features = self.cls_convs[level](x), self.reg_convs[level](x)
        classes, objectness, boxes = (
            cast("nn.Conv2d", convs[level]) for convs in (self.cls_preds, self.obj_preds, self.reg_preds)
        )
        scores = convolve(class_features, classes).sigmoid() * convolve(box_features, objectness).sigmoid()
        return [class_features, box_features], scores, convolve(box_features, boxes)


class Yolox(nn.Module):
    """YOLOX-Nano (Ge et al., 2021) with folded normalisation; its input is BGR from 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Neck()
        self.head = YoloxHead()

    def forward(self, x: Tensor) -> list[tuple[list[Tensor], Tensor, Tensor]]:
        """The outputs of all levels.

        Args:
            x: B x 3 x H x W.

        Returns:
            For each level the features (64, 128 or 256 channels of the neck, then twice 64 of the head), the class
            scores and the raw boxes.
        """
        levels = []
        for i, neck_features in enumerate(self.backbone(x)):
            head_features, scores, boxes = self.head(neck_features, i)
            levels.append(([neck_features, *head_features], scores, boxes))
        return levels


def upsample(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling to twice the height and width."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
