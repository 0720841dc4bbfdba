"""The embedded model while its weights are made: on texts that are encoded already, with or without a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from teacher import Wider, distillation_terms
from torch import Tensor, nn

from openglip.model.head import HeadOutputs, TextFeatures
from openglip.nano.layers import without_autocast
from openglip.nano.model import Nano


class NanoInTraining(Nano):
    """`Nano` that trains on encoded texts. In evaluation mode it is the whole model, as it is used.

    With a teacher its norms stay as they are.

    Attributes:
        teachers: None or one; a tuple, so that it does not become a module of this model.
        distillation: The teacher's terms of the last batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.teachers: tuple[Wider, ...] = ()
        self.distillation: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> NanoInTraining:
        """Set the mode; norms stay in evaluation mode when there is a teacher."""
        super().train(mode)
        if self.teachers:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> HeadOutputs:
        """In training `ids` may be features of the text encoder, B x L x 768, as `project_text` takes them."""
        if not self.training or not ids.is_floating_point():
            return super().forward(images, ids, mask)
        levels = self.encode_image(images)[:3]
        teacher_levels = [teacher.to(images.device).levels(images) for teacher in self.teachers]
        with without_autocast(images.device):
            outputs = _aligned(self, levels, ids, mask)
            for teacher, theirs in zip(self.teachers, teacher_levels, strict=True):
                with torch.no_grad():
                    taught = _aligned(teacher, theirs, ids, mask)
                self.distillation = distillation_terms(
                    [x.float() for x in levels], outputs, [x.float() for x in theirs], taught, mask
                )
            return outputs


def _aligned(model: Nano, levels: Sequence[Tensor], hidden: Tensor, mask: Tensor) -> HeadOutputs:
    text = TextFeatures(model.project_text(hidden), mask)
    return model.align_tower([level.float() for level in levels], text)
