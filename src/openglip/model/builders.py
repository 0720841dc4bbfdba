"""The named models. Each builder reads as a data sheet; source of the numbers: docs/spec.md 1.1."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from openglip.images.prepare import Preparation
from openglip.model.bert import Bert
from openglip.model.fpn import FPN
from openglip.model.glip import GLIP
from openglip.model.head import Head
from openglip.model.swin import Swin
from openglip.prompts.tables import read_table

# Caffe-style input: BGR, 0..255, ImageNet statistics in that order and scale.
OFFICIAL_INPUT = Preparation(800, 1333, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395))
DROP_BLOCK = (0.3, 3)
SWIN_TINY_CHANNELS = (192, 384, 768)  # C3, C4, C5
SWIN_LARGE_CHANNELS = (384, 768, 1536)


def _swin_tiny() -> Swin:
    return Swin(embed_dim=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7, drop_path=0.2)


def _swin_large() -> Swin:
    return Swin(embed_dim=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12, drop_path=0.4, frozen_stages=2)


def _glip(name: str, body: nn.Module, channels: Sequence[int], blocks: int, early_fusion: bool) -> GLIP:
    return GLIP(
        name,
        body,
        FPN(channels, 256, DROP_BLOCK),
        Bert(),
        Head(256, blocks, levels=5, classes=80, text_dim=768, early_fusion=early_fusion, recompute_fusion=True),
        OFFICIAL_INPUT,
    )


def glip_t_a() -> GLIP:
    """GLIP-T (A): Swin-T, words without fusion; Objects365."""
    return _glip("glip-t-a", _swin_tiny(), SWIN_TINY_CHANNELS, blocks=6, early_fusion=False)


def glip_t_b() -> GLIP:
    """GLIP-T (B): with fusion; Objects365."""
    return _glip("glip-t-b", _swin_tiny(), SWIN_TINY_CHANNELS, blocks=6, early_fusion=True)


def glip_t_c() -> GLIP:
    """GLIP-T (C): as (B); Objects365 and GoldG."""
    return _glip("glip-t-c", _swin_tiny(), SWIN_TINY_CHANNELS, blocks=6, early_fusion=True)


def glip_t() -> GLIP:
    """GLIP-T: as (C); Objects365, GoldG, CC3M and SBU captions."""
    return _glip("glip-t", _swin_tiny(), SWIN_TINY_CHANNELS, blocks=6, early_fusion=True)


def glip_l() -> GLIP:
    """GLIP-L: Swin-L, eight blocks; four detection sets, GoldG, 24M captions."""
    return _glip("glip-l", _swin_large(), SWIN_LARGE_CHANNELS, blocks=8, early_fusion=True)


def _dyhead(name: str, body: Swin, blocks: int) -> GLIP:
    return GLIP(
        name,
        body,
        FPN(body.channels[1:], 256, DROP_BLOCK),
        None,
        Head(256, blocks, levels=5, classes=80, text_dim=None, early_fusion=False),
        OFFICIAL_INPUT,
        categories=read_table("coco"),
    )


def dyhead_t() -> GLIP:
    """DyHead-T: the closed-set baseline of GLIP-T, 80 COCO classes."""
    return _dyhead("dyhead-t", _swin_tiny(), blocks=6)


def dyhead_l() -> GLIP:
    """DyHead-L: the closed-set baseline of GLIP-L, 80 COCO classes."""
    return _dyhead("dyhead-l", _swin_large(), blocks=8)


def glip_on_timm(backbone: str, *, pretrained: bool = False, blocks: int = 6, early_fusion: bool = True) -> GLIP:
    """GLIP-T with a timm model as image encoder, for instance "convnext_tiny"; needs the extra `train`."""
    from openglip.model.timm_body import TimmBody

    body = TimmBody(backbone, pretrained)
    return _glip(f"glip-{backbone}", body, body.channels, blocks, early_fusion)


def debug() -> GLIP:
    """GLIP in miniature, about 3 M parameters: every part is there and a pass takes milliseconds.

    Its words start at random, so they weigh more from the start than in the published models (`log_scale`): else
    training learns where things are first, and forgets their colours before it learns what they are called.
    """
    body = Swin(embed_dim=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=4)
    model = GLIP(
        "debug",
        body,
        FPN(body.channels[1:], 64),
        Bert(dim=64, layers=1, heads=4, hidden=128, dropout=0.0),
        Head(
            64,
            blocks=1,
            levels=5,
            classes=80,
            text_dim=64,
            early_fusion=True,
            fusion_dim=128,
            fusion_heads=4,
            fusion_dropout=0.0,  # too few steps to overfit, and drawing it takes a twentieth of them
            text_heads=4,
            text_hidden=128,
        ),
        Preparation(96, 256, mean=OFFICIAL_INPUT.mean, std=OFFICIAL_INPUT.std),
    )
    nn.init.constant_(model.head.log_scale, -2.5)
    return model
