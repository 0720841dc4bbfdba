"""Modulated deformable 3 x 3 convolution: the reference operator and a faster one from standard operators.

Source: Deformable ConvNets v2 (Zhu et al., 2019). torchvision's CPU kernel is 8 to 10 times slower than a dense
convolution of the same size and refuses bf16. Bilinear sampling is a weighted sum of four rows of a channels-last
table, which is what `embedding_bag` does with a vectorised and threaded kernel; a matrix product does the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
    from torchvision.ops import deform_conv2d  # see postprocess.py: only the reference pays for this import

    return deform_conv2d(x, offset, weight, bias, stride=(stride, stride), padding=(1, 1), mask=mask)


def flat_view(x: Tensor, height: int, width: int) -> Tensor:
    """First c * height * width numbers of each image's block of B x c x H x W, taken as c x height x width.

    The official CUDA kernel indexes the offsets of a finer map with the size of the coarser output; trained weights
    have seen nothing else (docs/spec.md 5.3 step 3 and 7.4 (1)).
    """
    b, c = x.shape[:2]
    return x.reshape(b, -1)[:, : c * height * width].view(b, c, height, width)


def flat_kernel(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """O x C x 3 x 3 -> O x (9 C), the layout that `deform_conv` multiplies with."""
    return weight.permute(0, 2, 3, 1).flatten(1).to(dtype)


def table_of(x: Tensor) -> Tensor:
    """B x C x H x W -> B x ((H + 4) (W + 4)) x C, rows that samples are read from.

    A border of two zero cells serves every position outside, so no sample needs a test.
    """
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, 2, 2, 2, 2)).flatten(1, 2)


def corner_weights(offset: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What samples have in common whatever the map and the stride they are read with.

    offset: B x 18 x h x w; mask: B x 9 x h x w. Returns the whole cells of the offsets, B x P x 9 x 2, and the weights
    of the four cells around each sample, B x P x 9 x 4, in float32; P = h * w.
    """
    b, _, h, w = offset.shape
    offset = offset.permute(0, 2, 3, 1).contiguous().view(b, h * w, TAPS, 2).float()
    mask = mask.permute(0, 2, 3, 1).contiguous().view(b, h * w, TAPS).float()
    cells = offset.detach().floor()
    down, right = (offset - cells).unbind(-1)
    lower = down * mask
    upper = mask - lower
    upper_right, lower_right = upper * right, lower * right
    return cells, torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], -1)


def corner_rows(cells: Tensor, size: tuple[int, int], stride: int, source: tuple[int, int]) -> Tensor:
    """The four rows of `table_of` a map of `source` (height, width) around each sample, B x P x 9 x 4, int32.

    cells: of `corner_weights`, for an output of `size` (h, w).
    """
    position = torch.arange(size[0] * size[1], device=cells.device)
    tap = torch.arange(TAPS, device=cells.device)
    y = (position // size[1] * stride)[:, None] + tap // 3 - 1
    x = (position % size[1] * stride)[:, None] + tap % 3 - 1
    width = source[1] + 4
    first = (cells[..., 0] + y).clamp_(-2, source[0]).mul_(width)
    first += (cells[..., 1] + x).clamp_(-2, source[1])
    # a position that is not a number has weights that are none either: any row will do, but it has to be a row
    first = first.nan_to_num_().int() + (2 * width + 2)
    return first[..., None] + torch.tensor([0, 1, width, width + 1], dtype=torch.int32, device=cells.device)


def deform_conv(table: Tensor, rows: Tensor, weights: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """`deform_conv_reference` from a `table_of`, `corner_rows`, `corner_weights` and a `flat_kernel`: B x P x O.

    Without gradients a chunk of positions at a time, so that memory is small and stays in the cache.
    """
    b, p = rows.shape[:2]
    bias = None if bias is None else bias.to(table.dtype)
    weights = weights.to(table.dtype)

    def convolve(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
        sampled = F.embedding_bag(rows.view(-1, 4), table, per_sample_weights=weights.view(-1, 4), mode="sum")
        return linear(sampled.view(-1, TAPS * table.shape[1]), kernel, bias)

    if not in_chunks(table):  # all images at once: the many small operations are shared
        image = torch.arange(b, dtype=rows.dtype, device=rows.device).view(b, 1, 1, 1)
        return convolve(table.flatten(0, 1), rows + image * table.shape[1], weights).view(b, p, -1)
    out = table.new_empty(b, p, len(kernel))
    for i in range(b):
        for start in range(0, p, CHUNK):
            part = slice(start, start + CHUNK)
            out[i, part] = convolve(table[i], rows[i, part], weights[i, part])
    return out
