"""Linear layers and convolutions by oneDNN's fused kernels, and the rule for working in chunks that fit the cache."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglip.model.mode import is_plain

if TYPE_CHECKING:
    from openglip.model.contract import Model

Act = Literal["none", "swish", "relu6"]

LOG2E = 1.4426950408889634
TINY, HUGE = 1e-25, 1e25  # sums of exponentials between these have all digits of float32

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """`torch.nn.functional.linear`, followed by the exact GELU if `gelu` is set.

    On an x86 CPU without gradients torch would call MKL in float32, which is 5 to 20 % slower than oneDNN on large
    products, and would compute the GELU in a pass of its own (docs/performance.md).
    """
    if _HAS_ONEDNN and in_chunks(x) and x.dtype == weight.dtype and _onednn_takes(x.dtype):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


def convolve(
    x: Tensor, conv: nn.Conv2d, act: Act = "none", *, norm: nn.BatchNorm2d | None = None, plus: Tensor | None = None
) -> Tensor:
    """A convolution without dilation, then its normalisation, then its activation or the sum with `plus`.

    See `conv2d`. Outside of training a normalisation by running statistics is folded into the weights.
    """
    weight, bias = conv.weight, conv.bias
    if norm is not None:
        if norm.training or is_plain() or _trains(x, weight):
            return _finish(norm(conv(x)), act, plus)
        weight, bias = _folded(conv, norm)
    return conv2d(x, weight, bias, conv.stride, conv.padding, conv.groups, act, plus)  # type: ignore[arg-type]


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int = 1,
    act: Act = "none",
    plus: Tensor | None = None,
) -> Tensor:
    """A convolution, then its activation or the sum with `plus` (no activation then).

    On a CPU with oneDNN this is one pass over the map, also in frozen layers of a model that trains. With one thread
    torch would choose a slower kernel by itself.
    """
    fused = _HAS_ONEDNN and x.device.type == "cpu" and not is_plain() and not _trains(x, weight)
    if fused and x.dtype == weight.dtype and _onednn_takes(x.dtype):
        shape = (padding, stride, (1, 1), groups)
        if plus is not None:
            ends = ("add", None, None, [], None)
            return torch.ops.mkldnn._convolution_pointwise.binary(x, plus, weight, bias, *shape, *ends)
        name, limits = ("hardtanh", [0.0, 6.0]) if act == "relu6" else (act, [])
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, name, limits, "")
    return _finish(F.conv2d(x, weight, bias, stride, padding, groups=groups), act, plus)


def _trains(x: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)


def _finish(y: Tensor, act: Act, plus: Tensor | None) -> Tensor:
    y = F.silu(y) if act == "swish" else F.relu6(y) if act == "relu6" else y
    return y if plus is None else y + plus


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution without bias and the normalisation by running statistics after it."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight = conv.weight * scale.view(-1, 1, 1, 1)
    return weight.to(conv.weight.dtype), (norm.bias - norm.running_mean * scale).to(conv.weight.dtype)


def has_blocks(x: Tensor) -> bool:
    """Whether `x.to_mkldnn()` may replace x in `conv2d`: float32 on a CPU with oneDNN, without gradients.

    oneDNN then keeps the channels in blocks from one convolution to the next, which makes depthwise convolutions up to
    twice as fast. Such a tensor can be convolved, added and converted back by `to_dense()`.
    """
    return _HAS_ONEDNN and in_chunks(x) and x.dtype == torch.float32 and _onednn_takes(x.dtype)


def _onednn_takes(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies this type on this processor, and autocast would not cast it."""
    if dtype == torch.float32:
        return not torch.is_autocast_enabled("cpu")
    return dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def in_chunks(x: Tensor) -> bool:
    """Whether to work on a chunk of the rows at a time, by the fast formulas.

    On a CPU without gradients a chunk stays in the processor's cache and intermediate results need little memory. With
    gradients they are kept for the backward pass anyway, and on a GPU launching many small kernels costs more.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not is_plain()


def half_copy(model: Model) -> Model:
    """A copy whose matrices are bf16, so that autocast need not cast them at every call; norms stay float32."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(torch.bfloat16)
    return model
