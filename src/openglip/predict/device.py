"""Where and how precisely a detector computes."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import nn

from openglip.errors import ConfigError

Precision = Literal["fp32", "bf16", "auto"]


def pick_device(device: str | torch.device) -> torch.device:
    """The device by name; "auto": CUDA where there is one, else the CPU. Raises ConfigError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"device {str(device)!r} can't be used; auto, cpu, cuda, cuda:1 or mps may be: {str(error).splitlines()[0]}"
        ) from error
    return picked


def pick_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """ "auto" means bf16 where the processor computes it natively (AVX512-BF16, AMX; CUDA from Ampere on)."""
    if precision not in ("fp32", "bf16", "auto"):
        raise ConfigError(f"precision is {precision!r}; it must be 'fp32', 'bf16' or 'auto'")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if device.type == "cpu" and native_bf16() else "fp32"


def half_copy(model: nn.Module) -> nn.Module:
    """A copy whose matrices are bf16, so that autocast need not cast them at every call; norms stay float32."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(torch.bfloat16)
    return model


def native_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively, as far as torch can tell."""
    checks = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return any(check() for check in checks if check is not None)
