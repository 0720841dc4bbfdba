"""The network of all rungs of the ladder: a frozen image encoder, GLIP's head made small, words that are read once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, cast

import torch
from safetensors.torch import load_file
from starts import YOLOX_EPS, folded, yolox_key
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import openglip
from openglip.images.prepare import Preparation
from openglip.model.anchors import AnchorGrid
from openglip.model.bert import FIRST, LAST, Bert
from openglip.model.fpn import FPN
from openglip.model.glip import GLIP
from openglip.model.head import Head, TextFeatures
from openglip.nano.geometry import GREY
from openglip.nano.text import TEXT_DIM, WordTable, segments
from openglip.nano.yolox import Neck
from openglip.prompts.tables import read_table

DIM, BLOCKS, WORDS = 64, 1, 128
SIZE = (192, 256)
CHANNELS = (64 * 4 + 128, 256)
GRID = AnchorGrid((16, 32), scale=6)
TEXT = Path(openglip.__file__).parent / "weights" / "embedded" / "nano-text.safetensors"


class Body(nn.Module):
    """YOLOX-Nano's backbone and neck as released, frozen. Images B x 3 x H x W, BGR minus 114."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = Neck().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        return [level.float() for level in self.neck(images + GREY)]


class Join(nn.Module):
    """Strides 16 (with the four places of stride 8 in each cell) and 32 as DIM channels of one scale.

    Stride 8 as a level of its own would be three quarters of all places, and of the time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Sequential(nn.Conv2d(c, DIM, 1), nn.GroupNorm(16, DIM)) for c in CHANNELS)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = maps
        middle = torch.cat([F.pixel_unshuffle(fine, 2), middle], 1)
        return [level(x) for level, x in zip(self.levels, (middle, coarse), strict=True)]


class Ladder(GLIP):
    """A GLIP at small scale. words: classes are words; fusion: words and picture attend to each other before that.

    Each stretch of text between full stops is read by itself, so that what is read once serves every prompt.
    reads: with the frozen text encoder, which training does not need, as its texts are read beforehand.
    """

    read_before: ClassVar[dict[tuple[int, ...], Tensor]] = {}

    def __init__(self, words: bool, fusion: bool, reads: bool = False) -> None:
        head = Head(
            DIM,
            BLOCKS,
            levels=2,
            classes=80,
            text_dim=WORDS if words else None,
            early_fusion=fusion,
            fusion_dim=128,
            fusion_heads=2,
            text_heads=4,
            text_hidden=2 * WORDS,
        )
        bert = Bert(dim=TEXT_DIM, layers=6, heads=12, hidden=1536, dropout=0.0) if words and reads else None
        super().__init__(
            "ladder",
            Body(),
            cast("FPN", Join()),
            bert,
            head,
            Preparation(SIZE[0], SIZE[1], mean=(GREY, GREY, GREY), std=(1.0, 1.0, 1.0)),
            strides=GRID.strides,
            score_cut=0.001,
            categories=None if words else read_table("coco"),
        )
        self.anchors = GRID
        if bert is not None:
            bert.embeddings.word_embeddings = WordTable(30522, TEXT_DIM)  # type: ignore[assignment]
            bert.requires_grad_(False)
        if words:
            self.words = nn.Linear(TEXT_DIM, WORDS)
            nn.init.constant_(head.log_scale, -2.0)  # minutes are too few for it to learn that words matter

    def start(self, weights: Path) -> Ladder:
        """Read the released weights of both encoders."""
        yolox = folded(load_file(weights / "yolox_nano_coco.safetensors"), YOLOX_EPS, yolox_key)
        neck = {k.removeprefix("backbone."): v for k, v in yolox.items() if k.startswith("backbone.")}
        cast("Body", self.backbone["body"]).neck.load_state_dict(neck)
        if hasattr(self, "language_backbone"):
            text = {k.removeprefix("bert."): v for k, v in load_file(TEXT).items()}
            self.language_backbone["body"]["model"].load_state_dict(text)  # type: ignore[index]
        return self

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        """Full stops and the marks of begin and end are no words: nothing attends to them."""
        rows, columns = segments(ids, mask)
        hidden = torch.zeros(*ids.shape, TEXT_DIM)
        real = torch.zeros_like(mask)
        first, last = ids.new_tensor([FIRST]), ids.new_tensor([LAST])
        texts = [torch.cat([first, ids[row, where], last]) for row, where in zip(rows, columns, strict=True)]
        keys = [tuple(text.tolist()) for text in texts]
        if new := [text for text, key in zip(texts, keys, strict=True) if key not in self.read_before]:
            padded = pad_sequence(new, batch_first=True)
            bert = self.language_backbone["body"]["model"]  # type: ignore[index]
            for text, own in zip(new, bert(padded, padded != 0), strict=True):
                self.read_before[tuple(text.tolist())] = own[1 : len(text) - 1].clone()
        for row, where, key in zip(rows, columns, keys, strict=True):
            hidden[row, where], real[row, where] = self.read_before[key], True
        return TextFeatures(self.read(hidden), real)

    def read(self, hidden: Tensor) -> Tensor:
        """From the text encoder's tokens (B x L x 384) to what the head takes."""
        return self.words(F.layer_norm(hidden, (TEXT_DIM,)))

    def trained(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.named_parameters() if p.requires_grad}
