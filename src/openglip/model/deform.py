"""Modulated deformable 3 x 3 convolution: the reference operator and a faster one from standard operators.

Source: Deformable ConvNets v2 (Zhu et al., 2019). torchvision's CPU kernel is 8 to 10 times slower than a dense
convolution of the same size and refuses bf16. Bilinear sampling is a weighted sum of four rows of a channels-last
table, which is what `embedding_bag` does with a vectorised and threaded kernel; a matrix product does the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

TAPS = 9
# Rows of sampled columns that are made and multiplied at once without gradients: 2,048 x 9 x 256 floats are 19 MB,
# which stay in the last cache level; a whole level at 800 x 1344 would be 155 MB.
CHUNK = 2048


def deform_conv_reference(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int
) -> Tensor:
    """x: B x C x H x W; offset: B x 18 x h x w, (dy, dx) per tap; mask: B x 9 x h x w; weight: O x C x 3 x 3.

    Returns B x O x h x w. Padding 1. Positions beyond the map contribute zero.
    """
    return deform_conv2d(x, offset, weight, bias, stride=stride, padding=1, mask=mask)


def flat_view(x: Tensor, height: int, width: int) -> Tensor:
    """First c * height * width numbers of each image's block of B x c x H x W, taken as c x height x width.

    The official CUDA kernel indexes the offsets of a finer map with the size of the coarser output; trained weights
    have seen nothing else (GLIP_SPEC 5.3 step 3 and 7.4 (1)).
    """
    b, c = x.shape[:2]
    return x.reshape(b, -1)[:, : c * height * width].view(b, c, height, width)


def bilinear_corners(offset: Tensor, mask: Tensor, size: tuple[int, int], stride: int) -> tuple[Tensor, Tensor]:
    """The four table rows and weights of every sample of a modulated deformable convolution.

    offset: B x 18 x h x w and mask: B x 9 x h x w as above; size: (H, W) of the map that is sampled.
    Returns indices (int64, into B * H * W rows) and weights, both (B * h * w * 9) x 4.
    """
    b, _, h, w = offset.shape
    height, width = size
    offset = offset.permute(0, 2, 3, 1).reshape(b, h, w, TAPS, 2).float()
    tap = torch.arange(3, device=offset.device) - 1
    base_y = (torch.arange(h, device=offset.device) * stride)[:, None, None] + tap.repeat_interleave(3)
    base_x = (torch.arange(w, device=offset.device) * stride)[:, None] + tap.repeat(3)
    # Two cells beyond the border every weight is zero, so the clamp only keeps the integers small.
    y = (base_y + offset[..., 0]).clamp(-2, height + 1)
    x = (base_x + offset[..., 1]).clamp(-2, width + 1)
    y0, x0 = y.detach().floor(), x.detach().floor()
    ly, lx = y - y0, x - x0
    ys = torch.stack([y0, y0 + 1], -1)  # B h w 9 2
    xs = torch.stack([x0, x0 + 1], -1)
    wy = torch.stack([1 - ly, ly], -1) * ((ys >= 0) & (ys < height))
    wx = torch.stack([1 - lx, lx], -1) * ((xs >= 0) & (xs < width))
    wy = wy * mask.permute(0, 2, 3, 1)[..., None].float()
    rows = ys.clamp(0, height - 1).long() * width
    rows = rows + (torch.arange(b, device=offset.device) * (height * width)).view(b, 1, 1, 1, 1)
    indices = rows[..., :, None] + xs.clamp(0, width - 1).long()[..., None, :]
    weights = wy[..., :, None] * wx[..., None, :]
    return indices.view(-1, 4), weights.reshape(-1, 4)


def deform_conv(table: Tensor, indices: Tensor, weights: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same convolution on a channels-last table.

    table: (B * H * W) x C; indices, weights: of `bilinear_corners`; weight: O x C x 3 x 3. Returns (B * h * w) x O.
    """
    kernel = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)  # O x (9 C)
    weights = weights.to(table.dtype)
    if torch.is_grad_enabled():
        return F.linear(_columns(table, indices, weights), kernel, bias)
    step = CHUNK * TAPS
    parts = [
        F.linear(_columns(table, indices[i : i + step], weights[i : i + step]), kernel, bias)
        for i in range(0, len(indices), step)
    ]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _columns(table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    sampled = F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")
    return sampled.view(-1, TAPS * table.shape[1])
