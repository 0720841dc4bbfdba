"""What a model is, to everything that uses one: the detector, the trainer, the labeller, an exporter.

Derive your own model from `torch.nn.Module` and `Model`, in this order, to inherit the defaults::

    class MyModel(nn.Module, Model):
        name = "mine"
        ...

It has to define `name`, `preparation`, `anchors`, `encode_image`, `align` and, unless it has fixed `categories`,
`encode_text`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, cast

from torch import Tensor, nn

from openglip.errors import ConfigError
from openglip.images.prepare import Preparation
from openglip.model.anchors import AnchorGrid, BoxCoder
from openglip.model.head import HeadOutputs, TextFeatures
from openglip.model.postprocess import Aggregation, ScoredBoxes, TokenMap, one_stage_boxes


class Model(Protocol):
    """A detector network whose classes are words.

    Attributes:
        name: Its name in messages, reports and checkpoints.
        preparation: How it wants its images resized, normalised and padded.
        anchors: The anchors of its outputs. A model may have other outputs, and other anchors, while it trains.
        coder: The code in which its box outputs are offsets from the anchors.
        score_cut: Class probabilities at or below it are no candidates.
        default_threshold: The score above which boxes are returned when the caller sets no threshold.
        aggregation: How the scores of a name's tokens become the score of the name.
        max_tokens: Tokens that one prompt may have, [CLS] and [SEP] included.
        categories: The fixed class names of a model without a text encoder; None for a model that reads words.
        tokens_are_independent: No token influences the score of another, so that tokens outside the names of a prompt
            (full stops, distractors' blanks) need not be compared with the image.
        reads_phrases_alone: Phrases of a caption are encoded each by itself, without the caption around them.
    """

    name: str
    preparation: Preparation
    anchors: AnchorGrid
    coder: BoxCoder = BoxCoder()
    score_cut: float = 0.05
    default_threshold: float = 0.5
    aggregation: Aggregation = "mean"
    max_tokens: int = 256
    categories: tuple[str, ...] | None = None
    tokens_are_independent: bool = False
    reads_phrases_alone: bool = False

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        """Encode tokenised prompts.

        Args:
            ids: B x L int64, token ids.
            mask: B x L bool, False on padding. L may be the longest real length.

        Returns:
            Features B x L x D with the mask. D is up to the model.
        """
        raise NotImplementedError(f"{self.name} has no text encoder")

    def encode_image(self, images: Tensor) -> list[Tensor]:
        """Encode prepared images, as far as this does not depend on the words.

        Args:
            images: B x 3 x H x W float32, normalised, zero where padded; sides are multiples of
                `preparation.multiple`.

        Returns:
            Maps B x C x h x w, one per level, for any number of calls of `align`.
        """
        ...

    def align(self, pyramid: Sequence[Tensor], text: TextFeatures | None, least: float = 0.0) -> HeadOutputs:
        """Compare encoded images with encoded prompts.

        Args:
            pyramid: The maps of `encode_image`.
            text: One prompt per image; None for a model with fixed `categories`.
            least: The caller discards final scores below it, so that a model need not compute them exactly.

        Returns:
            Logits B x A x L (text tokens or fixed classes), box offsets B x A x 4 in the code of `coder`, centerness
            B x A, for the A anchors of all levels.
        """
        ...

    def detect(
        self,
        pyramid: Sequence[Tensor],
        text: TextFeatures | None,
        token_maps: Sequence[TokenMap],
        image_sizes: Sequence[tuple[int, int]],
        thresholds: Sequence[Sequence[float]],
        *,
        least: float = 0.0,
        nms_iou: float = 0.6,
        phrases: bool = False,
    ) -> list[ScoredBoxes]:
        """Boxes of a batch: `align`, then candidates, decoding and suppression.

        A model with a second stage overrides this.

        Args:
            pyramid: The maps of `encode_image`.
            text: One prompt per image; None for a model with fixed `categories`.
            token_maps: For each image and each entry of its prompt, the positions of the entry's tokens.
            image_sizes: For each image its (height, width) in the network's input without padding, in pixels.
            thresholds: For each image and entry: boxes whose score is not above it are of no use to the caller.
            least: Boxes below this score may be missing.
            nms_iou: Overlap of two boxes of one entry above which the lower one is suppressed.
            phrases: Whether the entries are phrases of a caption (`Detector.ground`) and not names of categories.

        Returns:
            For each image its boxes in pixels of the network's input, clipped to the image, best first, on the CPU;
            labels are rows of the token map.
        """
        return one_stage_boxes(self, pyramid, text, token_maps, image_sizes, least=least, nms_iou=nms_iou)

    # What every `torch.nn.Module` has.

    training: bool

    def __call__(self, *args: Any, **kwargs: Any) -> HeadOutputs: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def to(self, *args: Any, **kwargs: Any) -> Self: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...
    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


REQUIRED = ("name", "preparation", "anchors", "encode_image", "align")
OPTIONAL = (
    *("coder", "score_cut", "default_threshold", "aggregation", "max_tokens", "categories"),
    *("tokens_are_independent", "reads_phrases_alone", "encode_text", "detect"),
)


def check_model(model: nn.Module | Model) -> Model:
    """The module as a `Model`.

    Raises:
        ConfigError: It lacks something that the contract asks for; the message lists it.
    """
    missing = [name for name in REQUIRED + OPTIONAL if not hasattr(model, name)]
    if missing:
        advice = (
            "" if set(missing) & set(REQUIRED) else ": derive it from openglip.model.contract.Model for the defaults"
        )
        raise ConfigError(
            f"{type(model).__name__} is not a model for a Detector, it lacks {', '.join(missing)}{advice}"
        )
    return cast("Model", model)
