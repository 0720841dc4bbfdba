"""What the layers need to be fast on a CPU: oneDNN's fused kernels, and rows in chunks that fit the cache."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG2E = 1.4426950408889634
TINY, HUGE = 1e-25, 1e25  # sums of exponentials between these have all digits of float32

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """`torch.nn.functional.linear`, followed by the exact GELU if asked.

    On an x86 CPU without gradients torch would call MKL in float32, which is 5 to 20 % slower than oneDNN on large
    products, and a GELU costs a pass of its own (docs/performance.md).
    """
    if _HAS_ONEDNN and in_chunks(x) and x.dtype == weight.dtype and x.dtype in _own_types():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")
    y = F.linear(x, weight, bias)
    return F.gelu(y) if gelu else y


def convolve(conv: nn.Conv2d, x: Tensor, act: Literal["swish", "relu6"]) -> Tensor:
    """A convolution and its activation, in one pass over the map where `linear` would be oneDNN's, and in frozen layers
    of a model that trains.
    """
    trains = torch.is_grad_enabled() and (x.requires_grad or conv.weight.requires_grad)
    on_cpu = _HAS_ONEDNN and x.device.type == "cpu" and not trains
    if on_cpu and x.dtype == conv.weight.dtype and x.dtype in _own_types():
        padding, stride, dilation = (list(pair) for pair in (conv.padding, conv.stride, conv.dilation))
        name, limits = ("swish", []) if act == "swish" else ("hardtanh", [0.0, 6.0])
        return torch.ops.mkldnn._convolution_pointwise(
            x, conv.weight, conv.bias, padding, stride, dilation, conv.groups, name, limits, ""
        )
    y = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]
    return F.silu(y) if act == "swish" else F.relu6(y)


def _own_types() -> tuple[torch.dtype, ...]:
    """Types that oneDNN multiplies here and that autocast would leave as they are."""
    half = (torch.bfloat16,) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ()
    return half if torch.is_autocast_enabled("cpu") else (torch.float32, *half)


def in_chunks(x: Tensor) -> bool:
    """Whether to work on some rows at a time: on a CPU without gradients, where a chunk stays in the cache and
    intermediate results need no memory. The backward pass keeps them anyway, and elsewhere launches cost more.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled()
