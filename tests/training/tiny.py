"""A small model and fixed batches for tests of the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from openglip.images.prepare import Preparation
from openglip.model.bert import Bert
from openglip.model.fpn import FPN
from openglip.model.glip import GLIP
from openglip.model.head import Head
from openglip.model.swin import Swin
from openglip.training.batches import Batch
from openglip.training.recipe import Recipe


def tiny_model(dropout: float = 0.1) -> GLIP:
    """GLIP with every part, in about 100,000 parameters; draws in train mode unless dropout is 0.

    Two channels in each of the 16 groups of a norm: with one, the bias before it would have no gradient but rounding.
    """
    torch.manual_seed(0)
    body = Swin(embed_dim=8, depths=(1, 1, 1, 1), heads=(1, 1, 2, 2), window=4, drop_path=dropout)
    text = Bert(vocabulary=100, dim=16, layers=1, heads=2, hidden=16, dropout=dropout)
    drop_block = (0.3, 3) if dropout else None
    head = Head(
        32, 1, levels=5, classes=2, text_dim=16, early_fusion=True, fusion_dim=16, fusion_heads=2, text_heads=2,
        text_hidden=16,
    )  # fmt: skip
    for module in head.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = dropout
    return GLIP("debug", body, FPN(body.channels[1:], 32, drop_block), text, head, Preparation(64, 64))


def annotated(
    boxes: Sequence[Tensor],
    tokens: Sequence[Tensor] | None = None,
    mask: Tensor | None = None,
    labels: Sequence[Tensor | None] | None = None,
    ids: Tensor | None = None,
) -> Batch:
    """A batch without images: boxes with their tokens, or with class labels."""
    count = len(boxes)
    width = 1 if mask is None else mask.shape[1]
    if tokens is None:
        tokens = [torch.zeros(len(each), width, dtype=torch.bool) for each in boxes]
    return Batch(
        images=torch.zeros(count, 3, 1, 1),
        ids=torch.zeros(count, width, dtype=torch.int64) if ids is None else ids,
        mask=torch.ones(count, width, dtype=torch.bool) if mask is None else mask,
        targets=list(zip(boxes, tokens, strict=True)),
        labels=[None] * count if labels is None else list(labels),
        sizes=[(1, 1)] * count,
        sources=["tiny"] * count,
        image_ids=list(range(count)),
        captions=[""] * count,
    )


def tiny_batch(number: int, size: int = 2, empty: tuple[int, ...] = ()) -> Batch:
    """Batch `number`: random pictures of 64 x 64, one or two boxes each, none for the images in `empty`."""
    draw = torch.Generator().manual_seed(number)
    images = torch.randn(size, 3, 64, 64, generator=draw)
    ids = torch.randint(1, 100, (size, 6), generator=draw)
    targets = []
    for image in range(size):
        boxes = 0 if image in empty else 1 + (number + image) % 2
        corner = torch.rand(boxes, 2, generator=draw) * 24
        side = 12 + torch.rand(boxes, 2, generator=draw) * 24
        words = torch.zeros(boxes, 6, dtype=torch.bool)
        words[range(boxes), range(1, 1 + boxes)] = True
        targets.append((torch.cat([corner, corner + side], 1), words))
    return Batch(
        images=images,
        ids=ids,
        mask=torch.ones(size, 6, dtype=torch.bool),
        targets=targets,
        labels=[torch.zeros(len(boxes), dtype=torch.int64) for boxes, _ in targets],
        sizes=[(64, 64)] * size,
        sources=["tiny"] * size,
        image_ids=[f"{number}/{image}" for image in range(size)],
        captions=["a"] * size,
    )


def tiny_batches(start: int) -> Iterator[Batch]:
    number = start
    while True:
        yield tiny_batch(number)
        number += 1


def tiny_recipe(**changes) -> Recipe:
    settings = {
        "steps": 6,
        "batch_size": 2,
        "lr": 1e-3,
        "warmup": 2,
        "checkpoint_every": 2,
        "average": 0.9,
        "use_average": True,
        "best": "score",
        "keep": 2,
    } | changes
    return Recipe(name="tiny", model="debug", data="random", **settings)


def split(batch: Batch, rank: int, ranks: int) -> Batch:
    """The share of one process: every `ranks`-th image."""
    rows = list(range(rank, len(batch.images), ranks))
    return Batch(
        images=batch.images[rows],
        ids=batch.ids[rows],
        mask=batch.mask[rows],
        targets=[batch.targets[i] for i in rows],
        labels=[batch.labels[i] for i in rows],
        sizes=[batch.sizes[i] for i in rows],
        sources=[batch.sources[i] for i in rows],
        image_ids=[batch.image_ids[i] for i in rows],
        captions=[batch.captions[i] for i in rows],
    )
