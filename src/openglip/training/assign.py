"""Which anchors answer for which box (ATSS), and the targets that follow. Source: GLIP_SPEC 8.1.

Everything is xyxy in pixels of the network's input. All anchors take part, those in the padding and those that leave
the image too; there is no band of ignored anchors, and a box may end without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openglip.structures.boxes import pairwise_iou

INSIDE_MARGIN = 0.01  # pixels by which an anchor's centre has to lie inside its box


@dataclass(frozen=True)
class Targets:
    """What a batch of B images asks of its A anchors; P anchors have a box."""

    matched: Tensor
    """B x A int64: index of the box inside its image, -1 for background."""
    boxes: Tensor
    """P x 4: the box of each matched anchor, in the order of ``matched >= 0``."""
    centerness: Tensor
    """P: 1 where the anchor's centre is the box's, towards 0 at the box's border."""


def assign(anchors: Tensor, sizes: Sequence[tuple[int, int]], boxes: Sequence[Tensor]) -> Targets:
    """Match the boxes of each image (N x 4) to anchors (A x 4) of levels with these (height, width)."""
    matched = torch.stack([atss(anchors, sizes, of_image) for of_image in boxes])
    positive = [indices >= 0 for indices in matched]
    of_anchor = torch.cat([own[idx[pos]] for own, idx, pos in zip(boxes, matched, positive, strict=True)])
    centres = torch.cat([_centres(anchors[pos]) for pos in positive])
    return Targets(matched, of_anchor, centerness(centres, of_anchor))


def atss(anchors: Tensor, sizes: Sequence[tuple[int, int]], boxes: Tensor, candidates: int = 9) -> Tensor:
    """Give the index of the box that each anchor answers for, -1 for none (A, int64).

    The ``candidates`` anchors of each level that are nearest to a box compete for it. Those whose IoU reaches mean plus
    standard deviation of all the box's candidates, and whose centre lies in the box, win. An anchor that wins several
    boxes keeps the one with the highest IoU, of equal ones the first.
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
    won = torch.full_like(iou, -1)  # below any IoU
    won.scatter_(0, nearest, torch.where(enough & inside, candidate_iou, -1.0))
    best = won.argmax(1)  # the first of equal ones
    has_box = won.amax(1) >= 0
    matched[has_box] = best[has_box]
    return matched


def centerness(centres: Tensor, boxes: Tensor) -> Tensor:
    """Give sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of points (P x 2) inside boxes (P x 4)."""
    left, top, right, bottom = _distances_to_sides(centres, boxes).unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * down).sqrt()


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _distances_to_sides(points: Tensor, boxes: Tensor) -> Tensor:
    """... x 4: left, top, right, bottom; negative outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
