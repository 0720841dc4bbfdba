"""What the layers need to be fast on a CPU: oneDNN's linear kernel, and rows in chunks that fit the cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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


def _own_types() -> tuple[torch.dtype, ...]:
    """Types that oneDNN multiplies here and that autocast would leave as they are."""
    half = (torch.bfloat16,) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ()
    return half if torch.is_autocast_enabled("cpu") else (torch.float32, *half)


def in_chunks(x: Tensor) -> bool:
    """Whether to work on some rows at a time: on a CPU without gradients, where a chunk stays in the cache and
    intermediate results need no memory. The backward pass keeps them anyway, and elsewhere launches cost more.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled()
