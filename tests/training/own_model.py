"""A model that is not part of the package: it derives from the contract and knows nothing of GLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openglip.data.mixtures import Source
from openglip.data.training_prompts import detection_prompt_with_negatives
from openglip.images.prepare import Preparation
from openglip.model.anchors import AnchorGrid
from openglip.model.contract import Model
from openglip.model.head import HeadOutputs, TextFeatures
from openglip.training.recipe import Recipe
from openglip.training.shapes import Shapes


class OwnModel(nn.Module, Model):
    """Two levels of convolutions, compared with the embeddings of single word pieces."""

    name = "own"
    preparation = Preparation(96, 128)
    anchors = AnchorGrid((8, 16), scale=4)
    score_cut = 0.0
    default_threshold = 0.3

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, dim)
        self.stem = nn.Sequential(nn.Conv2d(3, dim, 8, 8), nn.ReLU())
        self.down = nn.Conv2d(dim, dim, 2, 2)
        self.outputs = nn.Conv2d(dim, dim + 5, 1)

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> HeadOutputs:
        return self.align(self.encode_image(images), self.encode_text(ids, mask))

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        return TextFeatures(self.words(ids), mask)

    def encode_image(self, images: Tensor) -> list[Tensor]:
        fine = self.stem(images)
        return [fine, self.down(fine)]

    def align(self, pyramid: Sequence[Tensor], text: TextFeatures | None, least: float = 0.0) -> HeadOutputs:
        assert text is not None
        rows = torch.cat([self.outputs(level).flatten(2).transpose(1, 2) for level in pyramid], 1)
        features, boxes, centerness = rows.split([rows.shape[2] - 5, 4, 1], 2)
        logits = features @ text.hidden.transpose(1, 2) - 3
        sizes = tuple((level.shape[2], level.shape[3]) for level in pyramid)
        return HeadOutputs(logits, boxes, centerness[..., 0], sizes)


def shapes(recipe: Recipe) -> list[Source]:
    return [Source("shapes", Shapes(64, seed=recipe.seed), detection_prompt_with_negatives)]


def own_recipe(**changes) -> Recipe:
    settings = {"steps": 3, "batch_size": 2, "lr": 1e-3, "warmup": 0, "checkpoint_every": 2, "workers": 0} | changes
    return Recipe(name="own", model=OwnModel, data="generated", sources=shapes, **settings)
