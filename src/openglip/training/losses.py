"""The losses of GLIP: which words match an anchor, where its box is, how central it is. Source: docs/spec.md 8.2.

A criterion divides sums over anchors by counts that are means over all processes, so that the mean gradient of several
processes is that of one process with all their images. Batches whose gradients add up share these counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from openglip.errors import DataError
from openglip.model.anchors import BoxCoder
from openglip.model.head import HeadOutputs
from openglip.structures.boxes import elementwise_giou
from openglip.training.assign import Targets
from openglip.training.batches import Batch

SURELY_NOT = -1e4  # a logit with exactly zero focal loss and gradient where the target is negative


def token_focal_loss(
    logits: Tensor, targets: Tensor, mask: Tensor | None, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sum of the sigmoid focal loss (Lin et al., 2017).

    Args:
        logits: B x A x L.
        targets: B x A x L bool.
        mask: B x L bool, False for padded text, which has neither loss nor gradient; None: all columns count.
        alpha: Weight of positives; negatives weigh 1 - alpha.
        gamma: Exponent.
    """
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], SURELY_NOT)
        targets = targets & mask[:, None]
    right = torch.where(targets, logits, -logits)  # log-odds of the right answer
    # sigmoid(-right), not 1 - sigmoid(right): the difference loses the digits that matter when the answer is easy
    loss = torch.sigmoid(-right) ** gamma * -F.logsigmoid(right)
    return (loss * torch.where(targets, alpha, 1 - alpha)).sum()


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - generalised IoU (Rezatofighi et al., 2019) of each pair of boxes (P x 4), with plain corners (no +1)."""
    # growth below one pixel turns a box of the +1 convention inside out: it counts as empty
    predicted = torch.cat([predicted[:, :2], torch.maximum(predicted[:, :2], predicted[:, 2:])], 1)
    return 1 - elementwise_giou(predicted, target)


def centerness_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of the binary cross-entropy of centerness logits (P) against their targets (P)."""
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")


class Criterion(Protocol):
    """A loss: what the network returned, the batch, and what its anchors should predict, to named terms."""

    def __call__(self, outputs: HeadOutputs, batch: Batch, targets: Targets) -> dict[str, Tensor]:
        """The terms of the loss; the loss is their sum.

        Args:
            outputs: Of the network in training mode.
            batch: The batch, on the network's device.
            targets: Of the batch, with the normalisers of the step.
        """
        ...


@dataclass(frozen=True)
class _BoxCriterion:
    """The terms that all criteria share.

    Attributes:
        coder: The code of the box outputs.
        alpha: Weight of positives in the focal loss.
        gamma: Exponent of the focal loss.
        box_weight: Weight of the term ``box``.
    """

    coder: BoxCoder = field(default_factory=BoxCoder)
    alpha: float = 0.25
    gamma: float = 2.0
    box_weight: float = 2.0

    def _terms(
        self, name: str, outputs: HeadOutputs, positive: Tensor, mask: Tensor | None, targets: Targets
    ) -> dict[str, Tensor]:
        """The focal loss of the columns, under this name, then ``box`` and ``centerness``."""
        assert targets.normalisers is not None, "targets of a criterion come from assign_batches"
        positives, centerness = targets.normalisers
        image, anchor = (targets.matched >= 0).nonzero(as_tuple=True)
        # indexing keeps the graph when nothing matched: the terms are 0 and every parameter has a gradient
        deltas = _at_least_float32(outputs.box_regression[image, anchor])
        giou = giou_loss(self.coder.decode(deltas, targets.anchors[anchor]), targets.boxes)
        central = centerness_loss(_at_least_float32(outputs.centerness[image, anchor]), targets.centerness)
        focal = token_focal_loss(_at_least_float32(outputs.logits), positive, mask, self.alpha, self.gamma)
        return {
            name: focal / positives,
            "box": (giou * targets.centerness).sum() / centerness * self.box_weight,
            "centerness": central / positives,
        }


@dataclass(frozen=True)
class GroundingCriterion(_BoxCriterion):
    """Loss of a model that scores anchors against the tokens of a text: terms ``token``, ``box`` and ``centerness``.

    A box without tokens still trains its location. Attributes are, besides those of all criteria:

    Attributes:
        background_column: For comparison with the official code: 255 reproduces that it asks background anchors for
            column 255. That is padding, and so without effect, unless a text fills all 256 positions; then it is the
            final [SEP], and the loss is wrong.
    """

    background_column: int | None = None

    def __call__(self, outputs: HeadOutputs, batch: Batch, targets: Targets) -> dict[str, Tensor]:
        """See `Criterion`."""
        positive = rows_of_boxes(targets.matched, [tokens for _, tokens in batch.targets], outputs.logits.shape[2])
        if self.background_column is not None and self.background_column < positive.shape[2]:
            positive[..., self.background_column] |= targets.matched < 0
        return self._terms("token", outputs, positive, batch.mask.bool(), targets)


class ClosedSetCriterion(_BoxCriterion):
    """Loss of a detector whose classes are columns: terms ``class``, ``box`` and ``centerness``."""

    def __call__(self, outputs: HeadOutputs, batch: Batch, targets: Targets) -> dict[str, Tensor]:
        """See `Criterion`.

        Raises:
            DataError: An image has no class labels.
        """
        classes = outputs.logits.shape[2]
        rows = []
        for image, labels in enumerate(batch.labels):
            if labels is None:
                raise DataError(f"image {batch.image_ids[image]!r} of {batch.sources[image]} has no class labels")
            rows.append(F.one_hot(labels, classes).bool())
        return self._terms("class", outputs, rows_of_boxes(targets.matched, rows, classes), None, targets)


def rows_of_boxes(matched: Tensor, rows: Sequence[Tensor], columns: int) -> Tensor:
    """Give each anchor the row of its box, and background a row of False.

    Args:
        matched: B x A int64, of `Targets`.
        rows: For each image N x columns bool.
        columns: Width of the result.

    Returns:
        B x A x columns bool.

    Raises:
        ValueError: The rows of an image have another width.
    """
    row_of_anchor = matched.new_zeros((*matched.shape, columns), dtype=torch.bool)
    for image, (indices, image_rows) in enumerate(zip(matched, rows, strict=True)):
        if len(image_rows) and image_rows.shape[1] != columns:
            raise ValueError(
                f"image {image}: the positive map has {image_rows.shape[1]} columns, the logits have {columns}; "
                "both need the padded length of the batch's texts"
            )
        positive = indices >= 0
        if len(image_rows):
            row_of_anchor[image, positive] = image_rows[indices[positive]].bool()
    return row_of_anchor


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
