"""Which anchors are responsible for which box (ATSS), and the targets that follow. Source: docs/spec.md 8.1.

Everything is xyxy in pixels of the network's input. All anchors take part, also those in the padding and those that
leave the image; there is no band of ignored anchors, and a box may end up without an anchor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from openglip.model.anchors import AnchorGrid
from openglip.runtime import mean_over_ranks
from openglip.structures.boxes import pairwise_iou
from openglip.training.batches import Batch

INSIDE_MARGIN = 0.01  # pixels by which an anchor's centre has to lie inside its box


class Normalisers(NamedTuple):
    """What sums of losses are divided by, each a mean per process.

    Attributes:
        positives: Number of matched anchors, at least 1.
        centerness: Sum of their centerness targets.
    """

    positives: Tensor
    centerness: Tensor


@dataclass(frozen=True)
class Targets:
    """What the A anchors of a batch of B images should predict; P of all B x A are matched.

    Attributes:
        anchors: A x 4.
        matched: B x A int64, index of the box in its image, -1 for background.
        boxes: P x 4, the box of each matched anchor, in the order of ``matched >= 0``.
        centerness: P, 1 where the anchor's centre is the box's, towards 0 at the box's border.
        normalisers: Of the whole step, which may have several batches; set by `assign_batches`.
    """

    anchors: Tensor
    matched: Tensor
    boxes: Tensor
    centerness: Tensor
    normalisers: Normalisers | None = None


def assign_batches(grid: AnchorGrid, batches: Sequence[Batch]) -> list[Targets]:
    """The targets of all batches of one step, with common normalisers.

    Targets depend on the batches alone, not on the network. Every process has to call this.

    Args:
        grid: The model's anchors in training.
        batches: Those whose gradients add up.
    """
    targets = []
    for batch in batches:
        height, width = batch.images.shape[-2:]
        sizes = [(-(-height // stride), -(-width // stride)) for stride in grid.strides]
        targets.append(assign(grid(sizes, device=batch.images.device), sizes, [boxes for boxes, _ in batch.targets]))
    counts = normalisers(targets)
    return [replace(each, normalisers=counts) for each in targets]


def normalisers(targets: Sequence[Targets]) -> Normalisers:
    """Count over the batches of one step and all processes. Every process has to call it."""
    positives = sum(len(each.boxes) for each in targets)
    centerness = torch.stack([each.centerness.sum() for each in targets]).sum()
    counts = mean_over_ranks(torch.stack([centerness.new_tensor(positives), centerness]))
    tiny = torch.finfo(counts.dtype).tiny  # without any matched anchor the quotient is 0 / tiny = 0
    return Normalisers(counts[0].clamp(min=1), counts[1].clamp(min=tiny))


def assign(anchors: Tensor, sizes: Sequence[tuple[int, int]], boxes: Sequence[Tensor]) -> Targets:
    """Match the boxes of each image to anchors.

    Args:
        anchors: A x 4.
        sizes: (height, width) of their levels.
        boxes: N x 4 for each image; N may be 0.

    Returns:
        The targets, without normalisers.
    """
    matched = torch.stack([atss(anchors, sizes, image_boxes) for image_boxes in boxes])
    positive = [indices >= 0 for indices in matched]
    matched_boxes = torch.cat(
        [image_boxes[idx[pos]] for image_boxes, idx, pos in zip(boxes, matched, positive, strict=True)]
    )
    centres = torch.cat([_centres(anchors[pos]) for pos in positive])
    return Targets(anchors, matched, matched_boxes, centerness(centres, matched_boxes))


def atss(anchors: Tensor, sizes: Sequence[tuple[int, int]], boxes: Tensor, candidates: int = 9) -> Tensor:
    """Index of the box that each anchor is responsible for, -1 for none (A, int64).

    The ``candidates`` anchors of each level that are nearest to a box compete for it. Those whose IoU reaches the mean
    plus the standard deviation of all the box's candidates, and whose centre lies in the box, are matched. An anchor
    that matches several boxes takes the one with the highest IoU, of equal ones the first. Source: ATSS (Zhang et al.,
    2020), section 3.
    """
    matched = torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    if len(boxes) == 0:
        return matched
    iou = pairwise_iou(anchors, boxes, plus_one=True)  # A x N
    centres = _centres(anchors)
    distance = (centres[:, None] - _centres(boxes)[None]).pow(2).sum(-1).sqrt()
    nearest, first = [], 0
    for height, width in sizes:
        level = distance[first : first + height * width]
        nearest.append(first + level.topk(min(candidates, len(level)), dim=0, largest=False).indices)
        first += height * width
    nearest = torch.cat(nearest)  # candidates x N
    candidate_iou = iou.gather(0, nearest)
    enough = candidate_iou >= candidate_iou.mean(0) + candidate_iou.std(0)
    inside = _distances_to_sides(centres[nearest], boxes).amin(-1) > INSIDE_MARGIN
    matching_iou = torch.full_like(iou, -1)  # below any IoU
    matching_iou.scatter_(0, nearest, torch.where(enough & inside, candidate_iou, -1.0))
    best = matching_iou.argmax(1)  # the first of equal ones
    has_box = matching_iou.amax(1) >= 0
    matched[has_box] = best[has_box]
    return matched


def centerness(centres: Tensor, boxes: Tensor) -> Tensor:
    """Compute sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of points (P x 2) inside boxes (P x 4)."""
    left, top, right, bottom = _distances_to_sides(centres, boxes).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * down).sqrt()


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _distances_to_sides(points: Tensor, boxes: Tensor) -> Tensor:
    """... x 4: left, top, right, bottom; negative outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
