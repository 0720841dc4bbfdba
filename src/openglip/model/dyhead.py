"""DyHead layer: deformable convolutions over three neighbouring levels, scale attention, dynamic ReLU.

Source: DyHead (Dai et al., 2021); behaviour of the official GLIP code, docs/spec.md 5.3.
All levels travel as one sequence B x N x C, fine to coarse, rows before columns, with `sizes` = ((h, w), ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglip.model.deform import (
    CHUNK,
    corner_rows,
    corner_weights,
    deform_conv,
    deform_conv_reference,
    flat_kernel,
    flat_view,
    table_of,
)
from openglip.model.linear import in_chunks
from openglip.model.mode import is_plain

Sizes = Sequence[tuple[int, int]]
# One (scales per branch, shift) pair for each of the two linear pieces of the dynamic ReLU, each B x 1 x C.
Pieces = list[tuple[list[Tensor], Tensor]]
# Branch outputs, B x n x C each, with the affine maps to apply to them.
BranchesAndPieces = tuple[list[Tensor], Pieces]


def split_levels(x: Tensor, sizes: Sizes) -> list[Tensor]:
    """B x N x C -> one B x (h * w) x C view per level."""
    return list(x.split([h * w for h, w in sizes], 1))


def to_maps(x: Tensor, sizes: Sizes) -> list[Tensor]:
    """B x N x C -> maps B x C x h x w (channels-last views)."""
    return [
        level.unflatten(1, size).permute(0, 3, 1, 2) for level, size in zip(split_levels(x, sizes), sizes, strict=True)
    ]


def to_sequence(maps: Sequence[Tensor]) -> Tensor:
    """Inverse of `to_maps`."""
    return torch.cat([m.permute(0, 2, 3, 1).flatten(1, 2) for m in maps], 1)


class DynamicReLU(nn.Module):
    """Two linear pieces per channel, chosen from the pooled map: max(y * a1 + b1, y * a2 + b2)."""

    def __init__(self, dim: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(dim, dim // reduction), nn.ReLU(), nn.Linear(dim // reduction, 4 * dim))

    def coefficients(self, pooled: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """pooled: B x C. Returns a1, b1, a2, b2, B x C each."""
        a1, b1, a2, b2 = F.hardsigmoid(self.fc(pooled)).chunk(4, 1)
        return (a1 - 0.5) * 2 + 1, b1 - 0.5, (a2 - 0.5) * 2, b2 - 0.5

    def forward(self, x: Tensor) -> Tensor:
        """x: B x N x C of one level."""
        a1, b1, a2, b2 = (c[:, None] for c in self.coefficients(x.mean(1)))
        return torch.maximum(x * a1 + b1, x * a2 + b2)


class DeformConvNorm(nn.Module):
    """Parameters of one deformable convolution and its group norm."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3)  # holds weight and bias; the operator is deform_conv
        self.bn = nn.GroupNorm(groups, dim)
        bound = (9 * dim) ** -0.5
        nn.init.uniform_(self.conv.weight, -bound, bound)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]


class DyConv(nn.Module):
    """One DyHead layer over all levels.

    The branch from the coarser level reads the finer map's offsets as the official kernel does (`flat_view`), and its
    output is resized with `align_corners=True`.
    """

    recompute = False

    def __init__(self, dim: int, groups: int = 16) -> None:
        super().__init__()
        self.DyConv = nn.ModuleList(DeformConvNorm(dim, groups) for _ in range(3))  # from coarser, same, finer
        self.AttnConv = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, 1, 1), nn.ReLU())
        self.relu = DynamicReLU(dim)
        self.offset = nn.Conv2d(dim, 27, 3, padding=1)
        nn.init.normal_(self.AttnConv[1].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.AttnConv[1].bias)  # type: ignore[arg-type]

    @property
    def branches(self) -> list[DeformConvNorm]:
        return cast("list[DeformConvNorm]", list(self.DyConv))

    def forward(self, x: Tensor, sizes: Sizes) -> Tensor:
        """x: B x N x C. Every level reads the block's input, never an updated neighbour. Returns B x N x C."""
        maps = to_maps(x, sizes)
        if is_plain():
            return torch.cat([self._level_plain(maps, i) for i in range(len(maps))], 1)
        kernels = [flat_kernel(branch.conv.weight, x.dtype) for branch in self.branches]
        tables = [table_of(m) for m in maps]
        levels = (self._level(maps, tables, kernels, i) for i in range(len(maps)))
        if not in_chunks(x):
            return torch.cat([activated(*level).to(x.dtype) for level in levels], 1)
        out = torch.empty_like(x)
        for rows, (branches, pieces) in zip(split_levels(out, sizes), levels, strict=True):
            for start in range(0, rows.shape[1], CHUNK):
                part = slice(start, start + CHUNK)
                activated([y[:, part].float() for y in branches], pieces, out=rows[:, part])
        return out

    def _sampling(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets B x 18 x h x w and mask B x 9 x h x w of a level."""
        offset, mask = self.offset(x).split([18, 9], 1)
        return offset, mask.sigmoid()

    def _level_plain(self, maps: list[Tensor], i: int) -> Tensor:
        """The definition, step by step, for one level."""
        offset, mask = self._sampling(maps[i])
        neighbours = [(1, maps[i], offset, mask)]
        if i > 0:
            neighbours.append((2, maps[i - 1], offset, mask))
        if i + 1 < len(maps):
            size = _size(maps[i + 1])
            neighbours.append((0, maps[i + 1], flat_view(offset, *size), flat_view(mask, *size)))
        branches = []
        for j, source, offset, mask in neighbours:
            module = self.branches[j]
            y = deform_conv_reference(source, offset, mask, module.conv.weight, module.conv.bias, 2 if j == 2 else 1)
            y = module.bn(y)
            if j == 0:
                y = F.interpolate(y, _size(maps[i]), mode="bilinear", align_corners=True)
            branches.append(y * F.hardsigmoid(self.AttnConv(y)))
        merged = torch.stack(branches).mean(0)
        return self.relu(merged.permute(0, 2, 3, 1).flatten(1, 2))

    def _level(self, maps: list[Tensor], tables: list[Tensor], kernels: list[Tensor], i: int) -> BranchesAndPieces:
        """The same for one level, as arguments of `activated`.

        Samples are laid out once for two branches. What follows the convolutions, up to the dynamic ReLU, is affine in
        each channel, so that it takes one pass over the map.
        """
        size = _size(maps[i])
        offset, mask = self._sampling(maps[i])
        cells, weights = corner_weights(offset, mask)

        def branch(j: int, source: int, cells: Tensor, weights: Tensor, out: tuple[int, int]) -> Tensor:
            rows = corner_rows(cells, out, 2 if j == 2 else 1, _size(maps[source]))
            return deform_conv(tables[source], rows, weights, kernels[j], self.branches[j].conv.bias)

        branches = {1: branch(1, i, cells, weights, size)}
        if i > 0:
            branches[2] = branch(2, i - 1, cells, weights, size)
        if i + 1 < len(maps):
            small = _size(maps[i + 1])
            branches[0] = branch(0, i + 1, *corner_weights(flat_view(offset, *small), flat_view(mask, *small)), small)
            return self._merge(branches, size, small)
        return self._merge(branches, size, size)

    def _merge(self, branches: dict[int, Tensor], size: tuple[int, int], small: tuple[int, int]) -> BranchesAndPieces:
        """Group norm, scale attention, mean and dynamic ReLU as scales and shifts per channel.

        branches: B x n x C by their number; small: (h, w) of the one from the coarser level.
        """
        attention = cast("nn.Conv2d", self.AttnConv[1])
        assert attention.bias is not None
        maps, scales = [], []
        shift = pooled = attention.bias.new_zeros(())
        for j, y in branches.items():
            scale, offset, mean = group_norm_affine(y, self.branches[j].bn)
            if j == 0:
                y = y.unflatten(1, small).permute(0, 3, 1, 2)
                y = F.interpolate(y, size, mode="bilinear", align_corners=True)
                y = y.permute(0, 2, 3, 1).flatten(1, 2)
                mean = y.mean(1, dtype=torch.float32)
            mean = mean * scale + offset  # B C
            weight = F.hardsigmoid(F.relu(mean @ attention.weight.flatten(1).t().float() + attention.bias))
            maps.append(y)
            scales.append((scale * weight / len(branches))[:, None])
            shift = shift + offset * weight / len(branches)
            pooled = pooled + mean * weight / len(branches)
        a1, b1, a2, b2 = (c[:, None] for c in self.relu.coefficients(pooled))
        # Both linear pieces applied to the sum of branches, so that no intermediate map is written.
        return maps, [([s * a for s in scales], shift[:, None] * a + b) for a, b in ((a1, b1), (a2, b2))]


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def activated(rows: list[Tensor], pieces: Pieces, out: Tensor | None = None) -> Tensor:
    """The greater of two `affine_sum` of the same rows; out: where to write it."""
    return torch.maximum(*(affine_sum(rows, *piece) for piece in pieces), out=out)


def affine_sum(rows: list[Tensor], factors: list[Tensor], constant: Tensor) -> Tensor:
    """constant + sum of rows[i] * factors[i]; rows: B x n x C, factors and constant: B x 1 x C."""
    total = torch.addcmul(constant, rows[0], factors[0])
    for y, factor in zip(rows[1:], factors[1:], strict=True):
        total.addcmul_(y, factor)
    return total


def group_norm_affine(y: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Group norm of y (B x N x C) as scale and shift per image and channel: norm(y) = y * scale + shift.

    Returns scale, shift and the channel means of y, B x C each. The moments are exact, from chunks that fit the cache.
    """
    b, n, c = y.shape
    step = CHUNK if in_chunks(y) else n
    counts, means, squares = [], [], []
    for start in range(0, n, step):
        rows = y[:, start : start + step].float()
        mean = rows.mean(1, keepdim=True)
        counts.append(rows.shape[1] / n)
        means.append(mean[:, 0])
        squares.append((rows - mean).square().sum(1))
    share = torch.tensor(counts, device=y.device)[:, None, None]
    stacked = torch.stack(means)  # chunks B C
    channel_mean = (stacked * share).sum(0)
    group_mean = channel_mean.view(b, norm.num_groups, -1).mean(-1).repeat_interleave(c // norm.num_groups, 1)
    variance = torch.stack(squares).sum(0) / n + ((stacked - group_mean).square() * share).sum(0)
    variance = variance.view(b, norm.num_groups, -1).mean(-1).repeat_interleave(c // norm.num_groups, 1)
    scale = (variance + norm.eps).rsqrt() * norm.weight
    return scale, norm.bias - group_mean * scale, channel_mean
