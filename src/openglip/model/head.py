"""The head of GLIP: tower of fusion, text and DyHead layers, then box, centerness and alignment outputs.

Source: GLIP paper sections 3.1 and 3.3; docs/spec.md 5. Attribute names are those of the official checkpoints.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openglip.model.bert import LIMIT, BertLayer
from openglip.model.dyhead import DyConv, Sizes, split_levels
from openglip.model.fusion import Fusion
from openglip.model.linear import in_chunks, linear
from openglip.model.recompute import run_block

PRIOR_BIAS = -math.log(99)  # a fresh classifier says 1 % everywhere (focal loss, Lin et al., 2017)


class TextFeatures(NamedTuple):
    """hidden: B x L x D, last state of the text encoder; mask: B x L bool, True on real tokens."""

    hidden: Tensor
    mask: Tensor


class HeadOutputs(NamedTuple):
    """Raw outputs per anchor, levels concatenated from fine to coarse, rows before columns.

    logits: B x A x L against every token (closed set: B x A x classes); box_regression: B x A x 4, coded;
    centerness: B x A logits; sizes: (h, w) per level.
    """

    logits: Tensor
    box_regression: Tensor
    centerness: Tensor
    sizes: tuple[tuple[int, int], ...]


class FusionBlock(nn.Module):
    """Holder of one `Fusion` under the name that checkpoints use."""

    def __init__(self, fusion: Fusion, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.b_attn = fusion

    def forward(self, v: Tensor, hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.b_attn(v, hidden, mask)


class Scale(nn.Module):
    """A learned factor, one per level."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class Head(nn.Module):
    """Tower and output layers over B x N x dim.

    dim: channels of the pyramid; blocks: tower depth; classes: outputs of `cls_logits`; text_dim: width of the text
    features, None for the closed set (no text at all). early_fusion: a fusion and a text layer before each DyHead
    layer. recompute_fusion: in the backward pass, as the official code does.
    """

    def __init__(
        self,
        dim: int,
        blocks: int,
        levels: int,
        classes: int,
        text_dim: int | None,
        early_fusion: bool,
        fusion_dim: int = 2048,
        fusion_heads: int = 8,
        fusion_dropout: float = 0.1,
        text_heads: int = 12,
        text_hidden: int = 3072,
        recompute_fusion: bool = False,
    ) -> None:
        super().__init__()
        self.early_fusion = early_fusion
        tower: list[nn.Module] = []
        for _ in range(blocks):
            if early_fusion and text_dim is not None:
                fusion = Fusion(dim, text_dim, fusion_dim, fusion_heads, 1 / blocks, fusion_dropout)
                tower.append(FusionBlock(fusion, recompute_fusion))
                tower.append(BertLayer(text_dim, text_heads, text_hidden, clamp=True))
            tower.append(DyConv(dim))
        self.dyhead_tower = nn.ModuleList(tower)
        self.cls_logits = nn.Conv2d(dim, classes, 1)
        self.bbox_pred = nn.Conv2d(dim, 4, 1)
        self.centerness = nn.Conv2d(dim, 1, 1)
        for module in (self.cls_logits, self.bbox_pred, self.centerness):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.cls_logits.bias, PRIOR_BIAS)  # type: ignore[arg-type]
        self.scales = nn.ModuleList(Scale() for _ in range(levels))
        self.text_dim = text_dim
        if text_dim is not None:
            self.cls_logits.requires_grad_(False)  # never used with text, kept because checkpoints hold it
            self.dot_product_projection_text = nn.Linear(text_dim, dim)
            self.log_scale = nn.Parameter(torch.zeros(1))
            self.bias_lang = nn.Parameter(torch.zeros(text_dim))
            self.bias0 = nn.Parameter(torch.tensor([PRIOR_BIAS]))

    def tower(self, x: Tensor, sizes: Sizes, text: TextFeatures | None) -> tuple[Tensor, Tensor | None]:
        """x: B x N x dim. Returns the image features and the fused text (B x L x text_dim)."""
        hidden = None if text is None else text.hidden
        for module in self.dyhead_tower:
            if isinstance(module, DyConv):
                x = run_block(module, x, sizes)
                continue
            assert text is not None
            if isinstance(module, BertLayer):
                hidden = run_block(module, hidden, text.mask)
            else:
                x, hidden = run_block(module, x, hidden, text.mask)
        return x, hidden

    def forward(self, x: Tensor, sizes: tuple[tuple[int, int], ...], text: TextFeatures | None) -> HeadOutputs:
        """x: B x N x dim, of the pyramid with early fusion, else of the tower, which then needs no text."""
        hidden = None if text is None else text.hidden
        if self.early_fusion:
            x, hidden = self.tower(x, sizes, text)
        if text is None or hidden is None:
            logits = _conv1x1(x, self.cls_logits)
        else:
            # Without fusion the official code aligns against features that are zero on padding.
            hidden = hidden if self.early_fusion else hidden * text.mask[..., None]
            logits = self.align(x, hidden)
        boxes, centerness = _conv1x1(x, self.bbox_pred, self.centerness).split([4, 1], 2)
        scales = cast("list[Scale]", list(self.scales))
        parts = [scale.scale * level for scale, level in zip(scales, split_levels(boxes, sizes), strict=True)]
        return HeadOutputs(logits, torch.cat(parts, 1), centerness[..., 0], sizes)

    def align(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Alignment logits B x N x L of image rows and text tokens; the bias uses the features un-halved."""
        words = F.normalize(hidden, dim=-1, eps=1e-12)
        keys = self.dot_product_projection_text(words / 2) / self.log_scale.exp()
        bias = words @ self.bias_lang + self.bias0
        if in_chunks(x) and len(x) == 1 and x.dtype == keys.dtype:  # not in bf16, where bias and sum are float32
            return linear(x[0], keys[0], bias[0])[None].clamp_(-LIMIT, LIMIT)
        return (x @ keys.transpose(1, 2) + bias[:, None]).clamp(-LIMIT, LIMIT)


def _conv1x1(x: Tensor, *convs: nn.Conv2d) -> Tensor:
    """1 x 1 convolutions side by side on a sequence B x N x C."""
    weight, bias = (torch.cat([getattr(conv, part) for conv in convs]) for part in ("weight", "bias"))
    return F.linear(x, weight.flatten(1), bias)
