"""What a process has to know of the others in data-parallel training; alone, every function is the identity."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes, the same on each. Every process has to call it."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def any_rank(flag: bool | Tensor, device: torch.device | str) -> bool:
    """Whether the flag is set on at least one process. Every process has to call it."""
    flag = torch.as_tensor(flag, dtype=torch.float32, device=device)
    return bool(mean_over_ranks(flag) > 0)
