"""The wider embedded model that came first, and what the one that ships learns from it.

Its blocks are 256 units wide, and both image encoders look at the tower's own image, the detector once more on the
full one. docs/nano.md has its three trainings.
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

EVERYWHERE = 0.03  # weight of a place at which the teacher sees nothing; its probability is added


class Wider(Nano):
    def __init__(self) -> None:
        super().__init__(width=256)

    @torch.no_grad()
    def levels(self, images: Tensor) -> list[Tensor]:
        """The first three levels of `Nano.encode_image`; boxes are offsets from `DETECTOR_GRID` on 4/5 of the size."""
        size = images.shape[2] * 4 // 5, images.shape[3] * 4 // 5
        photo = unprepare(F.interpolate(images, size, mode="bicubic", align_corners=False))
        detected = self.run_detector(photo)
        offsets = encode_boxes(decode_detector_boxes([raw for _, _, raw in detected]), DETECTOR_GRID, self.coder)
        return self.tower([(features, scores) for features, scores, _ in detected], offsets, self.mobilenet(photo))


def lesson(
    levels: Sequence[Tensor], own: HeadOutputs, shown: Sequence[Tensor], taught: HeadOutputs, mask: Tensor
) -> dict[str, Tensor]:
    """Terms of a tower's levels and outputs against the teacher's, which are 0 where both are the same.

    Keys and places: squared error by their variance. Boxes (smooth L1 of the offsets) and centerness: places count by
    how surely the teacher sees a word there. Words (mask: B x L bool): their softmax over places (KL), their scores.
    """
    dim = (levels[0].shape[1] - 5 - CLASSES) // 2
    features = [
        F.mse_loss(ours[:, part], theirs[:, part]) / theirs[:, part].var((0, 2, 3)).mean()
        for ours, theirs in zip(levels, shown, strict=True)
        for part in (slice(0, dim), slice(dim, 2 * dim))
    ]
    sure = EVERYWHERE + taught.logits.sigmoid().masked_fill(~mask[:, None], 0).amax(2)
    off = F.smooth_l1_loss(own.box_regression, taught.box_regression, reduction="none", beta=0.5).mean(2)
    central = _surprise(own.centerness, taught.centerness)
    ours, theirs = (outputs.logits.transpose(1, 2)[mask] for outputs in (own, taught))
    places = F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
    return {
        "taught_features": torch.stack(features).sum() / len(levels),
        "taught_box": (off * sure).sum() / sure.sum(),
        "taught_centerness": 2 * (central * sure).sum() / sure.sum(),
        "taught_place": places,
        "taught_token": 0.3 * _surprise(ours, theirs).sum(1).mean(),
    }


def _surprise(logits: Tensor, taught: Tensor) -> Tensor:
    """Cross-entropy against the taught probabilities, beyond their own."""
    wanted = taught.sigmoid()
    ours, theirs = (F.binary_cross_entropy_with_logits(x, wanted, reduction="none") for x in (logits, taught))
    return ours - theirs
