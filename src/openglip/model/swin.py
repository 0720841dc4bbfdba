"""Swin transformer as GLIP uses it (padding, shift and mask differ from torchvision's and timm's).

Source: Swin (Liu et al., 2021); behaviour of the official GLIP code, GLIP paper section 3.
Maps are B x H x W x C inside and B x C x H x W at the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglip.model.linear import HUGE, LOG2E, TINY, in_chunks, linear
from openglip.model.recompute import run_block

# Values of the residual stream that a chunk of windows holds without gradients: 3.2 MB, and four times that in the MLP.
CHUNK_VALUES = 800_000


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each (query, key) pair of a window: window^2 x window^2, int64."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    dy = y.flatten()[:, None] - y.flatten()[None, :]
    dx = x.flatten()[:, None] - x.flatten()[None, :]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Added to the logits of shifted windows: 0 inside a region, -100 across regions; windows x w^2 x w^2.

    height and width are those of the padded map. The official value is -100, not minus infinity.
    """
    rows, columns = torch.arange(height), torch.arange(width)
    region_y = (rows >= height - window).long() + (rows >= height - shift).long()
    region_x = (columns >= width - window).long() + (columns >= width - shift).long()
    region = 3 * region_y[:, None] + region_x[None, :]
    region = windows_of(region[None, :, :, None], window)[..., 0]
    return (region[:, None, :] != region[:, :, None]).float() * -100.0


def windows_of(x: Tensor, window: int) -> Tensor:
    """B x H x W x C (H and W multiples of the window) -> (B * windows) x window^2 x C."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def map_of(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Inverse of `windows_of`."""
    c = windows.shape[-1]
    x = windows.view(-1, height // window, width // window, window, window, c)
    return x.transpose(2, 3).reshape(-1, height, width, c)


class WindowPlan:
    """Which row of a map stands where in its windows, for `SwinBlock.forward_chunked`.

    rows: (windows * window^2), rows of the map with one spare row at its end, where all padding points; valid: same
    length, False on padding; padded: windows that have some; mask: `shift_mask` or None; masked: windows with
    a masked pair, which are the last, so that few chunks have any.
    """

    def __init__(self, height: int, width: int, window: int, shift: int, device: torch.device) -> None:
        padded_h, padded_w = (-(-side // window) * window for side in (height, width))
        y, x = (torch.arange(side, device=device) for side in (padded_h, padded_w))
        inside = (y < height)[:, None] & (x < width)
        rows = torch.where(inside, y[:, None] * width + x, height * width)
        rows = rows.roll((-shift, -shift), (0, 1))
        rows = windows_of(rows[None, :, :, None], window)[..., 0]
        self.mask, self.masked = None, torch.zeros(len(rows), dtype=torch.bool, device=device)
        if shift:
            mask = shift_mask(padded_h, padded_w, window, shift).to(device)
            self.masked, order = mask.flatten(1).any(1).sort(stable=True)
            rows, self.mask = rows[order], mask[order]
        self.rows = rows.flatten()
        valid = self.rows < height * width
        self.valid, self.padded = valid[:, None], ~valid.view(-1, window**2).all(1)


class WindowAttention(nn.Module):
    """Self-attention inside windows with a relative position bias; source: Swin section 3.2."""

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def bias(self) -> Tensor:
        """Relative position bias, 1 x heads x T x T."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]

    def forward(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B * windows) x T x C; bias: of `bias`; mask: windows x T x T or None. Returns the shape of x."""
        n, t, c = x.shape
        q, k, v = _linear(self.qkv, x).view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if mask is not None:
            bias = bias + mask[:, None]
            bias = bias if len(mask) == n else bias.repeat(n // len(mask), 1, 1, 1)
        if in_chunks(x) and q.dtype == torch.bfloat16:  # torch's kernel is the slower one for bf16 on a CPU
            y = _attend_in_half(q, k, v, bias)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return _linear(self.proj, y.transpose(1, 2).reshape(n, t, c))


def _attend_in_half(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, divided by the sums at the end; q, k, v: N x heads x T x d, bf16.

    The exponential (base two, torch's faster one) is taken without the row's maximum; rows beyond float32 fall back.
    """
    n, heads, t, dim = q.shape
    scale = dim**-0.5
    shift = (bias * LOG2E).to(q.dtype).repeat(n // len(bias), 1, 1, 1).flatten(0, 1)
    rows, columns, values = (x.reshape(n * heads, t, dim) for x in (q, k, v))
    e = shift.baddbmm_(rows, columns.transpose(1, 2), alpha=scale * LOG2E).exp2_()
    sums = e.sum(-1, keepdim=True)
    if not (sums.min() > TINY and sums.max() < HUGE):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    return (torch.bmm(e, values) * sums.reciprocal_()).view(n, heads, t, dim)


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return _linear(self.fc2, linear(x, self.fc1.weight, self.fc1.bias, gelu=True))


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, module.weight, module.bias)


class SwinBlock(nn.Module):
    """Window attention and MLP, both pre-norm residual. shift 0: regular windows."""

    recompute = False

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: B x H x W x C; mask: `shift_mask` of the padded map, for shifted blocks."""
        _, h, w, _ = x.shape
        y = self.norm1(x)
        # Padding comes after the norm and takes part in the attention; only the shift mask separates it.
        y = F.pad(y, (0, 0, 0, -w % self.window, 0, -h % self.window))
        padded_h, padded_w = y.shape[1:3]
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (1, 2))
        y = self.attn(windows_of(y, self.window), self.attn.bias(), mask if self.shift else None)
        y = map_of(y, self.window, padded_h, padded_w)
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        x = x + self._dropped(y[:, :h, :w])
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, y: Tensor) -> Tensor:
        """Stochastic depth: in training an image's branch is left out with the probability `drop_path`."""
        if not self.training:
            return y
        from torchvision.ops import stochastic_depth  # see postprocess.py: only training pays for this import

        return stochastic_depth(y, self.drop_path, "row")

    def forward_chunked(self, x: Tensor, plan: WindowPlan) -> Tensor:
        """The same for one image without gradients, some windows at a time, which stay in the processor's cache.

        x: (H * W + 1) x C, rows of the map and a spare one for the padding. Returns the same shape.
        """
        tokens = self.window**2
        step = max(1, CHUNK_VALUES // (x.shape[1] * tokens))
        bias = self.attn.bias()
        out = torch.empty_like(x)
        for first in range(0, len(plan.rows) // tokens, step):
            part = slice(first * tokens, (first + step) * tokens)
            windows = slice(first, first + step)
            rows = x.index_select(0, plan.rows[part])
            y = self.norm1(rows)
            if plan.padded[windows].any():
                y = y * plan.valid[part]
            mask = plan.mask[windows] if plan.mask is not None and plan.masked[windows].any() else None
            y = self.attn(y.view(-1, tokens, y.shape[1]), bias, mask)
            out.index_copy_(0, plan.rows[part], rows.add_(y.view(rows.shape)))
        step = CHUNK_VALUES // x.shape[1]
        for first in range(0, len(out), step):
            rows = out[first : first + step]
            rows += self.mlp(self.norm2(rows))
        return out


class PatchMerging(nn.Module):
    """2 x 2 neighbours to channels, then a linear layer: B x H x W x C -> B x H/2 x W/2 x 2C (rounded up)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.reduction(self.norm(x))


class SwinStage(nn.Module):
    """Blocks of one resolution, shifts alternating 0 and window // 2 whatever the map's size."""

    def __init__(
        self, dim: int, depth: int, heads: int, window: int, drop_paths: Sequence[float], downsample: bool
    ) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            SwinBlock(dim, heads, window, window // 2 if i % 2 else 0, drop_paths[i]) for i in range(depth)
        )
        self.downsample = PatchMerging(dim) if downsample else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the map of this stage and the input of the next one."""
        if in_chunks(x):
            x = self._blocks_chunked(x)
        else:
            h, w = (-(-side // self.window) * self.window for side in x.shape[1:3])
            mask = shift_mask(h, w, self.window, self.window // 2).to(x.device)
            for block in self.blocks:
                x = run_block(block, x, mask)
        return x, self.downsample(x) if self.downsample is not None else x

    def _blocks_chunked(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        blocks = cast("list[SwinBlock]", list(self.blocks))
        plans = {shift: WindowPlan(h, w, self.window, shift, x.device) for shift in {blk.shift for blk in blocks}}
        images = []
        for rows in F.pad(x.view(b, h * w, c), (0, 0, 0, 1)):
            for block in blocks:
                rows = block.forward_chunked(rows, plans[block.shift])
            images.append(rows[:-1].view(h, w, c))
        return torch.stack(images)


class PatchEmbed(nn.Module):
    """4 x 4 patches to vectors: B x 3 x H x W -> B x H/4 x W/4 x C (rounded up)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        images = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class Swin(nn.Module):
    """Swin transformer. Four maps of strides 4, 8, 16, 32; the first has no norm and no use in GLIP.

    embed_dim: channels of the first stage, doubled in each next one. drop_path: rate of the last block, linear
    from 0. frozen_stages f: patch embedding (f >= 0) and stages 0..f-2 (f >= 2) neither train nor leave eval mode.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: int,
        drop_path: float = 0.0,
        frozen_stages: int = -1,
    ) -> None:
        super().__init__()
        self.frozen_stages = frozen_stages
        self.patch_embed = PatchEmbed(embed_dim)
        rates = torch.linspace(0, drop_path, sum(depths), device="cpu").tolist()
        self.layers = nn.ModuleList()
        for i, depth in enumerate(depths):
            start = sum(depths[:i])
            self.layers.append(
                SwinStage(embed_dim * 2**i, depth, heads[i], window, rates[start : start + depth], i < len(depths) - 1)
            )
        self.channels = tuple(embed_dim * 2**i for i in range(len(depths)))
        for i in range(1, len(depths)):
            self.add_module(f"norm{i}", nn.LayerNorm(self.channels[i]))
        for module in self._frozen():
            module.requires_grad_(False)

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.patch_embed, *self.layers[: max(0, self.frozen_stages - 1)]]

    def train(self, mode: bool = True) -> Swin:
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: B x 3 x H x W. Returns maps B x C_i x H/stride x W/stride, strides 4, 8, 16, 32."""
        x = self.patch_embed(images)
        maps = []
        for i, stage in enumerate(self.layers):
            y, x = stage(x)
            if i:
                y = self.get_submodule(f"norm{i}")(y)
            maps.append(y.permute(0, 3, 1, 2))
        return maps
