"""Deformable convolution against the official values."""

from __future__ import annotations

import pytest
import torch
from model.operators import TOLERANCE, arrays, difference
from torch import Tensor

from openglip.model.deform import (
    corner_rows,
    corner_weights,
    deform_conv,
    deform_conv_reference,
    flat_kernel,
    flat_view,
    table_of,
)


def fast_deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """As `deform_conv_reference`."""
    cells, weights = corner_weights(offset, mask)
    size, source = offset.shape[2:], x.shape[2:]
    rows = corner_rows(cells, (size[0], size[1]), stride, (source[0], source[1]))
    y = deform_conv(table_of(x), rows, weights, flat_kernel(weight, x.dtype), bias)
    return y.unflatten(1, size).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "case", ["s1", "s2", "s1_offsets_from_finer_map", "s1_offsets_from_finer_map_even", "big_offsets"]
)
def test_deformable_convolution(case: str):
    z = arrays("deform_conv", case)
    x, weight, bias, stride = z["input"], z["weight"], z["bias"], int(z["stride"])
    size = z["output"].shape[-2:]
    offset, mask = flat_view(z["offset"], *size), flat_view(z["mask"], *size)
    reference = deform_conv_reference(x, offset, mask, weight, bias, stride)
    assert difference(reference, z["output"]) < TOLERANCE
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            fast = fast_deform_conv(x, offset, mask, weight, bias, stride)
        assert difference(fast, z["output"]) < TOLERANCE


@pytest.mark.parametrize(("height", "width", "stride"), [(33, 47, 1), (33, 47, 2), (1, 5, 1), (2, 1, 2)])
def test_fast_deformable_convolution_and_its_gradients_equal_the_reference(height: int, width: int, stride: int):
    torch.manual_seed(0)
    x = torch.randn(2, 8, height, width, dtype=torch.double, requires_grad=True)
    h, w = (-(-side // stride) for side in (height, width))
    offset = (3 * torch.randn(2, 18, h, w, dtype=torch.double)).requires_grad_()
    mask = torch.rand(2, 9, h, w, dtype=torch.double, requires_grad=True)
    weight = torch.randn(6, 8, 3, 3, dtype=torch.double, requires_grad=True)
    bias = torch.randn(6, dtype=torch.double, requires_grad=True)
    inputs = (x, offset, mask, weight, bias)
    reference = deform_conv_reference(x, offset, mask, weight, bias, stride)
    fast = fast_deform_conv(x, offset, mask, weight, bias, stride)
    assert difference(fast, reference) < 1e-4  # sampling positions are computed in float32
    seed = torch.randn_like(reference)
    for a, b in zip(torch.autograd.grad(reference, inputs, seed), torch.autograd.grad(fast, inputs, seed), strict=True):
        assert difference(a, b) < 1e-3 * (1 + b.abs().max().item())
