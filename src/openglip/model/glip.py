"""GLIP: image encoder, text encoder, fused head. Source: GLIP (Li et al., CVPR 2022), section 3."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from openglip.images.prepare import Preparation
from openglip.model.anchors import AnchorGrid
from openglip.model.bert import Bert
from openglip.model.contract import Model
from openglip.model.dyhead import to_maps, to_sequence
from openglip.model.fpn import FPN
from openglip.model.head import Head, HeadOutputs, TextFeatures
from openglip.model.postprocess import Aggregation


class GLIP(nn.Module, Model):
    """A detector whose classes are words.

    body: images B x 3 x H x W -> maps, of which the last three (strides 8, 16, 32) are used; text_encoder: `Bert`,
    or None for the closed set. Sub-modules carry the official checkpoints' names.
    score_cut: class scores at or below are no candidates; default_threshold: what a user sees by default.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        fpn: FPN,
        text_encoder: Bert | None,
        head: Head,
        preparation: Preparation,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        score_cut: float = 0.05,
        default_threshold: float = 0.5,
        aggregation: Aggregation = "mean",
        categories: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.preparation = name, preparation
        self.score_cut, self.default_threshold, self.aggregation = score_cut, default_threshold, aggregation
        self.categories = None if categories is None else tuple(categories)
        self.anchors = AnchorGrid(tuple(strides))
        self.backbone = nn.ModuleDict({"body": body, "fpn": fpn})
        if text_encoder is not None:
            self.language_backbone = nn.ModuleDict({"body": nn.ModuleDict({"model": text_encoder})})
        self.rpn = nn.ModuleDict({"head": head})

    @property
    def head(self) -> Head:
        return self.rpn["head"]  # type: ignore[return-value]

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        """See `Model.encode_text`. Trimming to the longest real length is exact (docs/spec.md 3.5)."""
        bert = self.language_backbone["body"]["model"]  # type: ignore[index]
        return TextFeatures(bert(ids, mask), mask)

    def encode_image(self, images: Tensor) -> list[Tensor]:
        """images: B x 3 x H x W, prepared and padded. Returns P3..P7, B x 256 x h x w each.

        Without fusion the tower sees no text and belongs to the image: its maps are returned, for many prompts.
        """
        return self.encode_maps(self.backbone["body"](images)[-3:])

    def encode_maps(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """`encode_image` from the last three maps of the body on."""
        pyramid = self.backbone["fpn"](maps)
        if self.head.early_fusion:
            return pyramid
        sizes = [(m.shape[2], m.shape[3]) for m in pyramid]
        return to_maps(self.head.tower(to_sequence(pyramid), sizes, None)[0], sizes)

    def align(self, pyramid: Sequence[Tensor], text: TextFeatures | None, least: float = 0.0) -> HeadOutputs:
        """Run the fused tower (where there is fusion) and the output layers on an encoded image and prompt.

        least: final scores below it are of no use to the caller; nothing is saved by it here.
        """
        sizes = tuple((m.shape[2], m.shape[3]) for m in pyramid)
        return self.head(to_sequence(pyramid), sizes, text)

    def forward(self, images: Tensor, ids: Tensor | None = None, mask: Tensor | None = None) -> HeadOutputs:
        """The official padded batch.

        Args:
            images: B x 3 x H x W, zero where padded.
            ids: B x L int64; None or without effect for a model with fixed categories.
            mask: B x L bool, likewise.
        """
        text = None
        if ids is not None and mask is not None and self.categories is None:
            text = self.encode_text(ids, mask)
        return self.align(self.encode_image(images), text)

    def use_sub_sentences(self) -> GLIP:
        """Encode each part of a prompt by itself (`Bert`)."""
        self.language_backbone["body"]["model"].sub_sentences = True  # type: ignore[index]
        return self
