"""Less memory for more time: a block keeps only its inputs and is computed again in the backward pass.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016. A block that supports this has an attribute
`recompute`, and whoever calls it does so by `run_block`. Losses and gradients stay the same bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def run_block(block: nn.Module, *inputs: Any) -> Any:
    """Call a block. With `recompute` set only its inputs are kept for the backward pass."""
    if block.recompute and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


def recomputable_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model that have an attribute `recompute`: those of Swin, BERT and GLIP's tower."""
    return [module for module in model.modules() if hasattr(module, "recompute")]


def recompute_blocks(model: nn.Module) -> None:
    """Set `recompute` on every block that supports it."""
    for block in recomputable_blocks(model):
        block.recompute = True  # type: ignore[assignment]
