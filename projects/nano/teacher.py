"""The wider embedded model that came first, and what the one in the package learned from it.

Its blocks are 256 units wide, and both image encoders look at the tower's image, the detector once more at the full
one. docs/nano.md describes its three trainings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from openglip.model.head import HeadOutputs
from openglip.nano.geometry import DETECTOR_GRID, decode_detector_boxes, encode_boxes, unprepare
from openglip.nano.model import Nano
from openglip.nano.yolox import CLASSES

MIN_CELL_WEIGHT = 0.03  # weight of a cell where the teacher sees no word; its probability is added


class Wider(Nano):
    """The teacher."""

    def __init__(self) -> None:
        super().__init__(width=256)

    @torch.no_grad()
    def levels(self, images: Tensor) -> list[Tensor]:
        """The first three levels of `Nano.encode_image`; boxes are offsets from `DETECTOR_GRID` on 4/5 of the size."""
        size = images.shape[2] * 4 // 5, images.shape[3] * 4 // 5
        small = unprepare(F.interpolate(images, size, mode="bicubic", align_corners=False))
        detected = self.run_detector(small)
        boxes = decode_detector_boxes([raw for _, _, raw in detected])
        offsets = encode_boxes(boxes, DETECTOR_GRID, self.coder)
        return self.tower([(features, scores) for features, scores, _ in detected], offsets, self.mobilenet(small))


def distillation_terms(
    levels: Sequence[Tensor],
    outputs: HeadOutputs,
    teacher_levels: Sequence[Tensor],
    teacher_outputs: HeadOutputs,
    mask: Tensor,
) -> dict[str, Tensor]:
    """Terms of a tower's levels and outputs against the teacher's; all are 0 where both are the same.

    Keys and features: squared error divided by their variance. Boxes (smooth L1 of the offsets) and centerness: cells
    count by how sure the teacher is of a word there. Words: their softmax over cells (KL divergence), their scores.

    Args:
        levels: Of the student.
        outputs: Of the student.
        teacher_levels: Likewise.
        teacher_outputs: Likewise.
        mask: B x L bool, the words that count.
    """
    dim = (levels[0].shape[1] - 5 - CLASSES) // 2
    features = [
        F.mse_loss(ours[:, part], theirs[:, part]) / theirs[:, part].var((0, 2, 3)).mean()
        for ours, theirs in zip(levels, teacher_levels, strict=True)
        for part in (slice(0, dim), slice(dim, 2 * dim))
    ]
    weight = MIN_CELL_WEIGHT + teacher_outputs.logits.sigmoid().masked_fill(~mask[:, None], 0).amax(2)
    box = F.smooth_l1_loss(outputs.box_regression, teacher_outputs.box_regression, reduction="none", beta=0.5).mean(2)
    centerness = _divergence(outputs.centerness, teacher_outputs.centerness)
    ours, theirs = (each.logits.transpose(1, 2)[mask] for each in (outputs, teacher_outputs))
    cells = F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
    return {
        "taught_features": torch.stack(features).sum() / len(levels),
        "taught_box": (box * weight).sum() / weight.sum(),
        "taught_centerness": 2 * (centerness * weight).sum() / weight.sum(),
        "taught_place": cells,
        "taught_token": 0.3 * _divergence(ours, theirs).sum(1).mean(),
    }


def _divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy against the teacher's probabilities, minus their entropy."""
    target = teacher_logits.sigmoid()
    ours, theirs = (F.binary_cross_entropy_with_logits(x, target, reduction="none") for x in (logits, teacher_logits))
    return ours - theirs
