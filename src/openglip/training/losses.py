"""The losses of GLIP: which words an anchor shows, where its box is, how central it lies. Source: GLIP_SPEC 8.2.

A criterion divides sums over anchors by counts that are means over all processes, so that the mean gradient of several
processes is that of one process with all their images. The counts depend on the targets alone: several batches whose
gradients add up share one pair of them (``normalisers``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from openglip.model.anchors import BoxCoder
from openglip.model.head import HeadOutputs
from openglip.runtime import mean_over_ranks
from openglip.structures.boxes import elementwise_giou
from openglip.training.assign import Targets, assign

SURELY_NOT = -1e4
"""A logit whose focal loss and gradient are exactly 0 where nothing is asked for."""


class Normalisers(NamedTuple):
    """What sums are divided by: matched anchors (at least 1) and the sum of their centerness, a mean per process."""

    positives: Tensor
    centerness: Tensor


def normalisers(targets: Sequence[Targets]) -> Normalisers:
    """Count over the batches of one step and all processes. Every process has to call it."""
    positives = sum(len(each.boxes) for each in targets)
    centerness = torch.stack([each.centerness.sum() for each in targets]).sum()
    counts = mean_over_ranks(torch.stack([centerness.new_tensor(positives), centerness]))
    tiny = torch.finfo(counts.dtype).tiny  # without any positive, 0 / tiny is the 0 that is meant
    return Normalisers(counts[0].clamp(min=1), counts[1].clamp(min=tiny))


def token_focal_loss(
    logits: Tensor, targets: Tensor, mask: Tensor | None, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sum the sigmoid focal loss of logits (B x A x L) against targets (same shape, bool) over columns of the mask.

    mask: B x L bool, False for padded text, which gives neither loss nor gradient; None: all columns count.
    """
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], SURELY_NOT)
        targets = targets & mask[:, None]
    right = torch.where(targets, logits, -logits)  # log-odds of the right answer
    # sigmoid(-right), not 1 - sigmoid(right): the difference loses the digits that matter when the answer is easy
    loss = torch.sigmoid(-right) ** gamma * -F.logsigmoid(right)
    return (loss * torch.where(targets, alpha, 1 - alpha)).sum()


def giou_loss(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Give 1 - generalised IoU of each pair of boxes (P x 4), with plain corners (no +1)."""
    # growth below one pixel turns a box of the +1 convention inside out: it counts as empty
    predicted = torch.cat([predicted[:, :2], torch.maximum(predicted[:, :2], predicted[:, 2:])], 1)
    return 1 - elementwise_giou(predicted, wanted)


def centerness_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum the binary cross-entropy of centerness logits (P) against their targets (P)."""
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")


@dataclass(frozen=True)
class GroundingCriterion:
    """Loss of a model that scores anchors against the tokens of a text.

    background_column: a compatibility switch. The official code asks background anchors for column 255, which is
    padding (and so without effect) unless a text fills all 256 positions; then it is the final [SEP], and the loss is
    wrong. 255 reproduces that; None leaves it out.
    """

    coder: BoxCoder = field(default_factory=BoxCoder)
    alpha: float = 0.25
    gamma: float = 2.0
    box_weight: float = 2.0
    background_column: int | None = None

    def __call__(
        self,
        outputs: HeadOutputs,
        anchors: Tensor,
        boxes: Sequence[Tensor],
        positive_maps: Sequence[Tensor],
        text_mask: Tensor,
        *,
        targets: Targets | None = None,
        counts: Normalisers | None = None,
    ) -> dict[str, Tensor]:
        """Give the terms ``token``, ``box`` and ``centerness``; the loss is their sum.

        anchors: A x 4. boxes: per image N x 4, N may be 0. positive_maps: per image N x L bool, the tokens that name
        each box; a row without tokens still trains its box. text_mask: B x L, true for real tokens.
        targets, counts: where the caller made them before (``assign``, ``normalisers``).
        """
        targets = targets or assign(anchors, outputs.sizes, boxes)
        counts = counts or normalisers([targets])
        wanted = rows_of_boxes(targets.matched, positive_maps, outputs.logits.shape[2])
        if self.background_column is not None and self.background_column < wanted.shape[2]:
            wanted[..., self.background_column] |= targets.matched < 0
        token = token_focal_loss(_at_least_float32(outputs.logits), wanted, text_mask.bool(), self.alpha, self.gamma)
        return {
            "token": token / counts.positives,
            **_box_terms(outputs, anchors, targets, counts, self.coder, self.box_weight),
        }


@dataclass(frozen=True)
class ClosedSetCriterion:
    """Loss of a detector whose classes are columns."""

    coder: BoxCoder = field(default_factory=BoxCoder)
    alpha: float = 0.25
    gamma: float = 2.0
    box_weight: float = 2.0

    def __call__(
        self,
        outputs: HeadOutputs,
        anchors: Tensor,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        *,
        targets: Targets | None = None,
        counts: Normalisers | None = None,
    ) -> dict[str, Tensor]:
        """Give the terms ``class``, ``box`` and ``centerness``. labels: per image N int64, columns from 0."""
        targets = targets or assign(anchors, outputs.sizes, boxes)
        counts = counts or normalisers([targets])
        classes = outputs.logits.shape[2]
        rows = [F.one_hot(of_image, classes).bool() for of_image in labels]
        wanted = rows_of_boxes(targets.matched, rows, classes)
        loss = token_focal_loss(_at_least_float32(outputs.logits), wanted, None, self.alpha, self.gamma)
        return {
            "class": loss / counts.positives,
            **_box_terms(outputs, anchors, targets, counts, self.coder, self.box_weight),
        }


def rows_of_boxes(matched: Tensor, rows: Sequence[Tensor], columns: int) -> Tensor:
    """Give each anchor the row of its box, background a row of False: B x A x columns bool."""
    wanted = matched.new_zeros((*matched.shape, columns), dtype=torch.bool)
    for image, (indices, of_image) in enumerate(zip(matched, rows, strict=True)):
        if len(of_image) and of_image.shape[1] != columns:
            raise ValueError(
                f"image {image}: the positive map has {of_image.shape[1]} columns, the logits have {columns}; "
                "both need the padded length of the batch's texts"
            )
        positive = indices >= 0
        if len(of_image):
            wanted[image, positive] = of_image[indices[positive]].bool()
    return wanted


def _box_terms(
    outputs: HeadOutputs, anchors: Tensor, targets: Targets, counts: Normalisers, coder: BoxCoder, box_weight: float
) -> dict[str, Tensor]:
    image, anchor = (targets.matched >= 0).nonzero(as_tuple=True)
    # indexing keeps the graph when nothing matched: the terms are 0 and every parameter has a gradient
    predicted = coder.decode(_at_least_float32(outputs.box_regression[image, anchor]), anchors[anchor])
    box = (giou_loss(predicted, targets.boxes) * targets.centerness).sum() / counts.centerness
    central = (
        centerness_loss(_at_least_float32(outputs.centerness[image, anchor]), targets.centerness) / counts.positives
    )
    return {"box": box * box_weight, "centerness": central}


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
