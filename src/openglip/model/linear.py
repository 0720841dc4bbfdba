"""What the layers need to be fast on a CPU: oneDNN's linear kernel, and rows in chunks that fit the cache."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`.

    In float32 on an x86 CPU without gradients torch would call MKL, which is 5 to 20 % slower than oneDNN on large
    products (docs/performance.md).
    """
    if (
        _HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    ):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def in_chunks(x: Tensor) -> bool:
    """Whether to work on some rows at a time: on a CPU without gradients, where a chunk stays in the cache and
    intermediate results need no memory. The backward pass keeps them anyway, and elsewhere launches cost more.
    """
    return x.device.type == "cpu" and not torch.is_grad_enabled()
