"""Less memory for more time: a block keeps its inputs only, and is computed again in the backward pass.

Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016. Fusion blocks are recomputed in any case, as
in the official recipe.
"""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from openglip.model.bert import BertLayer
from openglip.model.dyhead import DyConv
from openglip.model.swin import SwinBlock

BLOCKS = (SwinBlock, BertLayer, DyConv)


def recompute(model: nn.Module) -> None:
    """Make the blocks of Swin, of the text encoder and of DyHead recompute; losses and gradients stay the same."""
    for module in model.modules():
        if isinstance(module, BLOCKS):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
