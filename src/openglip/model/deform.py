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

from openglip.model.linear import in_chunks, linear

TAPS = 9
# Output positions that are sampled and multiplied at once without gradients: 1,024 x 9 x 256 floats are 9 MB, which
# stay in the processor's cache; a whole level at 800 x 1344 would be 155 MB.
CHUNK = 1024


def deform_conv_reference(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int
) -> Tensor:
    """x: B x C x H x W; offset: B x 18 x h x w, (dy, dx) per tap; mask: B x 9 x h x w; weight: O x C x 3 x 3.

    Returns B x O x h x w. Padding 1. Positions beyond the map contribute zero.
    """
    return deform_conv2d(x, offset, weight, bias, stride=(stride, stride), padding=(1, 1), mask=mask)


def flat_view(x: Tensor, height: int, width: int) -> Tensor:
    """First c * height * width numbers of each image's block of B x c x H x W, taken as c x height x width.

    The official CUDA kernel indexes the offsets of a finer map with the size of the coarser output; trained weights
    have seen nothing else (GLIP_SPEC 5.3 step 3 and 7.4 (1)).
    """
    b, c = x.shape[:2]
    return x.reshape(b, -1)[:, : c * height * width].view(b, c, height, width)


def flat_kernel(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """O x C x 3 x 3 -> O x (9 C), the layout that `deform_conv` multiplies with."""
    return weight.permute(0, 2, 3, 1).flatten(1).to(dtype)


def deform_conv(x: Tensor, offset: Tensor, mask: Tensor, kernel: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """`deform_conv_reference` for a channels-last x and a `flat_kernel`; returns B x (h * w) x O.

    Without gradients a chunk of positions at a time, so that memory is small and stays in the cache.
    """
    b, _, h, w = offset.shape
    height, width = x.shape[2:]
    # A border of zeros (one cell before, two after) serves every position outside, so no sample needs a test.
    table = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 2, 1, 2)).flatten(1, 2)  # B rows C
    offset = offset.permute(0, 2, 3, 1).reshape(b, h * w, 2 * TAPS)
    mask = mask.permute(0, 2, 3, 1).reshape(b, h * w, TAPS)
    bias = None if bias is None else bias.to(x.dtype)
    position = torch.arange(h * w, device=x.device)
    rows = (position // w * stride)[:, None] + torch.arange(3, device=x.device).repeat_interleave(3) - 1  # P 9
    columns = (position % w * stride)[:, None] + torch.arange(3, device=x.device).repeat(3) - 1
    if not in_chunks(x):  # all images at once: the many small operations are shared
        indices, weights = bilinear_corners(
            offset.flatten(0, 1), mask.flatten(0, 1), rows.repeat(b, 1), columns.repeat(b, 1), height, width
        )
        image = torch.arange(b, dtype=indices.dtype, device=x.device).view(b, 1, 1)
        indices = (indices.view(b, -1, 4) + image * table.shape[1]).view(-1, 4)
        table = table.flatten(0, 1)
        sampled = F.embedding_bag(indices, table, per_sample_weights=weights.to(table.dtype), mode="sum")
        return linear(sampled.view(b, h * w, -1), kernel, bias)
    images = []
    for i in range(b):
        parts = []
        for start in range(0, h * w, CHUNK):
            part = slice(start, start + CHUNK)
            indices, weights = bilinear_corners(
                offset[i, part], mask[i, part], rows[part], columns[part], height, width
            )
            sampled = F.embedding_bag(indices, table[i], per_sample_weights=weights.to(table.dtype), mode="sum")
            parts.append(linear(sampled.view(-1, TAPS * table.shape[2]), kernel, bias))
        images.append(torch.cat(parts) if len(parts) > 1 else parts[0])
    return torch.stack(images) if b > 1 else images[0][None]


def bilinear_corners(
    offset: Tensor, mask: Tensor, rows: Tensor, columns: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """The four table rows and weights of every sample, for a table of (height + 3) x (width + 3) rows.

    offset: P x 18; mask: P x 9; rows, columns: P x 9, where the taps lie without offsets. Returns indices (int32) and
    weights, both (P * 9) x 4.
    """
    offset = offset.float()
    y = (rows + offset[:, 0::2]).clamp(-1, height)  # the border is zero, so farther out changes nothing
    x = (columns + offset[:, 1::2]).clamp(-1, width)
    y0, x0 = y.detach().floor(), x.detach().floor()
    lower = (y - y0) * mask.float()
    upper = mask.float() - lower
    right = x - x0
    left = 1 - right
    weights = torch.stack([upper * left, upper * right, lower * left, lower * right], -1)
    # a position that is not a number has weights that are none either: any row will do, but it has to be a row
    first = ((y0 + 1) * (width + 3) + (x0 + 1)).nan_to_num_().int()
    corners = torch.tensor([0, 1, width + 3, width + 4], dtype=torch.int32, device=first.device)
    return (first[..., None] + corners).view(-1, 4), weights.view(-1, 4)
