"""Regions of each picture against the words of all pictures of a step. Source: GLIPv2, section 3.2; GLIP_SPEC 11.7.

Every text of the step gives negatives to the regions of every picture. Where another text has the very words of a
region's phrase ("dog" in the list of names of another picture), they count as right.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from openglip.model.contrast import Contrast
from openglip.runtime import rank, world_size
from openglip.training.assign import Targets
from openglip.training.losses import Normalisers

MOST = 100  # regions of a picture
NEVER = -1e6


def region_word_contrast(
    found: Contrast, targets: Targets, maps: Sequence[Tensor], ids: Tensor, mask: Tensor, counts: Normalisers
) -> Tensor:
    """Half the cross-entropies of regions over all words and of words over all regions, over matched anchors.

    maps: per image N x L bool, the tokens of each box. ids, mask: B x L. Regions and words of the other processes have
    no gradient here. Every process has to call it.
    """
    regions, own_tokens, owners = _regions(found, targets, maps, ids)
    phrases = own_tokens * ids[owners]
    all_ids, all_masks = everyone(ids), everyone(mask)
    words = torch.cat([own.flatten(0, 1) for own in everyone(found.words)])
    real = torch.cat([own.flatten() for own in all_masks])
    by_region = [same_words(phrases, own) for own in all_ids]
    by_word = [same_words(own, ids) for own in everyone(phrases)]
    for wanted in (by_region[rank()], by_word[rank()]):  # in its own text a region has the words that were annotated
        wanted[torch.arange(len(owners)), owners] = own_tokens
    wanted = torch.cat([own.flatten(1) for own in by_region], 1) & real
    of_regions = _cross_entropy((found.scale * regions @ words.T).masked_fill(~real, NEVER), wanted)
    others = torch.cat(everyone(regions))
    wanted = torch.cat([own.flatten(1) for own in by_word]).T & mask.flatten()[:, None]
    of_words = _cross_entropy(found.scale * found.words.flatten(0, 1) @ others.T, wanted)
    return found.weight * (of_regions + of_words) / 2 / counts.positives


def _regions(found: Contrast, targets: Targets, maps: Sequence[Tensor], ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of up to 100 matched anchors a picture: features R x W, tokens R x L bool, the picture of each."""
    rows, tokens, owners = [], [], []
    for image, matched in enumerate(targets.matched):
        anchors = (matched >= 0).nonzero()[:, 0]
        anchors = anchors[torch.randperm(len(anchors), device=anchors.device)[:MOST]]
        rows.append(found.regions[image, anchors])
        tokens.append(maps[image][matched[anchors]] if len(anchors) else ids.new_zeros((0, ids.shape[1])).bool())
        owners.append(torch.full_like(anchors, image))
    return torch.cat(rows), torch.cat(tokens), torch.cat(owners)


def same_words(phrases: Tensor, ids: Tensor) -> Tensor:
    """Where each phrase stands, word by word, in each text: R x B x L bool.

    phrases: R x P, token ids with 0 where there is none. ids: B x L.
    """
    found = ids.new_zeros((len(phrases), *ids.shape)).bool()
    rows, which = phrases.unique(dim=0, return_inverse=True) if len(phrases) else (phrases, phrases[:, 0])
    for i, row in enumerate(rows):
        words = row[row != 0]
        if not 0 < len(words) <= ids.shape[1]:
            continue
        begins = (ids.unfold(1, len(words), 1) == words).all(2)
        inside = F.pad(begins, (0, len(words) - 1))
        inside = torch.stack([inside.roll(k, 1) for k in range(len(words))]).any(0)
        found[which == i] = inside
    return found


def everyone(x: Tensor) -> list[Tensor]:
    """A tensor of each process, by rank; they may differ in size. The own one keeps its gradient."""
    if world_size() == 1:
        return [x]
    shapes = [torch.zeros(x.ndim, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(shapes, torch.tensor(x.shape, device=x.device))
    largest = torch.stack(shapes).amax(0).tolist()
    padding = [
        extra for most, own in zip(reversed(largest), reversed(x.shape), strict=True) for extra in (0, most - own)
    ]
    sent = F.pad(x.detach().to(torch.uint8) if x.dtype == torch.bool else x.detach(), padding).contiguous()
    got = [torch.empty_like(sent) for _ in shapes]
    dist.all_gather(got, sent)
    found = [part[tuple(slice(int(n)) for n in shape)].to(x.dtype) for part, shape in zip(got, shapes, strict=True)]
    found[rank()] = x
    return found


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum over rows against their wanted columns in equal shares; rows that want nothing are left out."""
    if not logits.numel():
        return logits.sum()
    shares = wanted / wanted.sum(1, keepdim=True).clamp(min=1)
    return -(shares * logits.log_softmax(1)).sum()
