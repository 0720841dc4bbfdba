"""Helpers for tests of single operators against values of the official code."""

from __future__ import annotations

import torch
from model.golden import golden_arrays
from torch import Tensor, nn

TOLERANCE = 1e-5  # of the goldens' README, for values of order 1


def arrays(name: str, case: str = "") -> dict[str, Tensor]:
    """Arrays of one case as tensors, names without the case."""
    prefix = f"{case}/" if case else ""
    return {
        k.removeprefix(prefix): torch.from_numpy(v)
        for k, v in golden_arrays(f"ops/{name}.npz").items()
        if k.startswith(prefix)
    }


def load(module: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    buffers = ("relative_position_index",)
    state = {k.removeprefix("w/"): v for k, v in values.items() if k.startswith("w/") and not k.endswith(buffers)}
    module.load_state_dict(state, strict=True)
    return module.eval()


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()
