"""An optional loss: regions of each image against the words of all images of a step.

Source: GLIPv2 (Zhang et al., 2022), section 3.2; docs/spec.md 11.7. Every text of the step gives negatives to the
regions of every image. Where another text contains exactly the words of a region's phrase ("dog" in the list of names
of another image), they count as positives. Regions and words are compared before the tower fuses them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from openglip.model.glip import GLIP
from openglip.model.head import HeadOutputs
from openglip.runtime import rank, world_size
from openglip.training.assign import Targets
from openglip.training.batches import Batch
from openglip.training.losses import GroundingCriterion

MAX_REGIONS = 100  # of an image
EXCLUDED = -1e6  # logit of padding
KEYS = "contrast."  # beginning of the state dict's keys of what is added; they are not exported


class ContrastFeatures(NamedTuple):
    """Unit-length features of a batch.

    Attributes:
        regions: B x A x W.
        words: B x L x W.
        scale: Factor of their products.
    """

    regions: Tensor
    words: Tensor
    scale: Tensor


class RegionWords(nn.Module):
    """Projects pyramid and encoded text to a common space.

    Args:
        dim: Channels of the pyramid.
        text_dim: Channels of the encoded text.
        weight: Of the loss.
        width: Channels of the common space.
    """

    def __init__(self, dim: int, text_dim: int, weight: float, width: int = 64) -> None:
        super().__init__()
        self.weight = weight
        self.image = nn.Linear(dim, width)
        self.text = nn.Linear(text_dim, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.features: ContrastFeatures | None = None

    def forward(self, regions: Tensor, hidden: Tensor) -> ContrastFeatures:
        """regions: B x A x dim; hidden: B x L x text_dim."""
        return ContrastFeatures(
            F.normalize(self.image(regions).float(), dim=-1),
            F.normalize(self.text(hidden).float(), dim=-1),
            self.log_scale.exp().clamp(max=100),
        )

    def after_head(self, head: nn.Module, inputs: tuple[Any, ...], outputs: HeadOutputs) -> None:
        """Forward hook of GLIP's head, whose inputs are regions and words before fusion."""
        regions, _, text = inputs
        if self.training and text is not None:
            self.features = self(regions, text.hidden)


def add_contrast(model: GLIP, weight: float) -> None:
    """Add the projections of the loss to a model, under the name `contrast`."""
    text_dim = model.head.text_dim
    assert text_dim is not None
    contrast = model.contrast = RegionWords(model.head.cls_logits.in_channels, text_dim, weight)
    model.head.register_forward_hook(contrast.after_head)


@dataclass(frozen=True)
class ContrastCriterion:
    """A criterion with the additional term ``contrast``.

    Attributes:
        grounding: Gives the other terms.
        model: With the projections of `add_contrast`.
    """

    grounding: GroundingCriterion
    model: GLIP

    def __call__(self, outputs: HeadOutputs, batch: Batch, targets: Targets) -> dict[str, Tensor]:
        """See `Criterion`."""
        contrast: RegionWords = self.model.contrast  # type: ignore[assignment]
        features, contrast.features = contrast.features, None
        assert features is not None, "the model has to be in training mode"
        terms = self.grounding(outputs, batch, targets)
        return terms | {"contrast": region_word_contrast(features, batch, targets, contrast.weight)}


def region_word_contrast(features: ContrastFeatures, batch: Batch, targets: Targets, weight: float = 1.0) -> Tensor:
    """Half the cross-entropies of regions over all words and of words over all regions, per matched anchor.

    Regions and words of the other processes have no gradient here. Every process has to call this.
    """
    assert targets.normalisers is not None
    ids, mask = batch.ids, batch.mask
    regions, region_tokens, image_of_region = _regions(features, batch, targets)
    phrases = region_tokens * ids[image_of_region]
    all_ids, all_masks = all_processes(ids), all_processes(mask)
    words = torch.cat([each.flatten(0, 1) for each in all_processes(features.words)])
    real = torch.cat([each.flatten() for each in all_masks])
    by_region = [same_words(phrases, each) for each in all_ids]
    by_word = [same_words(each, ids) for each in all_processes(phrases)]
    for positive in (by_region[rank()], by_word[rank()]):  # in its own text a region has the words that were annotated
        positive[torch.arange(len(image_of_region)), image_of_region] = region_tokens
    positive = torch.cat([each.flatten(1) for each in by_region], 1) & real
    region_loss = _cross_entropy((features.scale * regions @ words.T).masked_fill(~real, EXCLUDED), positive)
    all_regions = torch.cat(all_processes(regions))
    positive = torch.cat([each.flatten(1) for each in by_word]).T & mask.flatten()[:, None]
    word_loss = _cross_entropy(features.scale * features.words.flatten(0, 1) @ all_regions.T, positive)
    return weight * (region_loss + word_loss) / 2 / targets.normalisers.positives


def _regions(features: ContrastFeatures, batch: Batch, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    """Of up to 100 matched anchors per image: features R x W, tokens R x L bool, the image of each."""
    ids = batch.ids
    rows, tokens, images = [], [], []
    for image, matched in enumerate(targets.matched):
        anchors = (matched >= 0).nonzero()[:, 0]
        anchors = anchors[torch.randperm(len(anchors), device=anchors.device)[:MAX_REGIONS]]
        rows.append(features.regions[image, anchors])
        positive = batch.targets[image][1]
        tokens.append(positive[matched[anchors]] if len(anchors) else ids.new_zeros((0, ids.shape[1])).bool())
        images.append(torch.full_like(anchors, image))
    return torch.cat(rows), torch.cat(tokens), torch.cat(images)


def same_words(phrases: Tensor, ids: Tensor) -> Tensor:
    """Where each phrase occurs, word by word, in each text.

    Args:
        phrases: R x P int64, token ids with 0 where there is none.
        ids: B x L int64.

    Returns:
        R x B x L bool.
    """
    occurs = ids.new_zeros((len(phrases), *ids.shape)).bool()
    distinct, which = phrases.unique(dim=0, return_inverse=True) if len(phrases) else (phrases, phrases[:, 0])
    for i, row in enumerate(distinct):
        words = row[row != 0]
        if not 0 < len(words) <= ids.shape[1]:
            continue
        begins = (ids.unfold(1, len(words), 1) == words).all(2)
        inside = F.pad(begins, (0, len(words) - 1))
        inside = torch.stack([inside.roll(k, 1) for k in range(len(words))]).any(0)
        occurs[which == i] = inside
    return occurs


def all_processes(x: Tensor) -> list[Tensor]:
    """A tensor of each process, by rank; they may differ in size. This process's keeps its gradient."""
    if world_size() == 1:
        return [x]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, x.detach().cpu())
    tensors = [each.to(x.device) for each in gathered]
    tensors[rank()] = x
    return tensors


def _cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    """Sum over rows against their positive columns in equal shares; rows without a positive column are left out."""
    if not logits.numel():
        return logits.sum()
    shares = positive / positive.sum(1, keepdim=True).clamp(min=1)
    return -(shares * logits.log_softmax(1)).sum()
