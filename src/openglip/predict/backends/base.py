"""What the detector asks of whatever runs a model. Only numpy arrays and opaque handles cross this seam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, NewType, Protocol, TypeVar

import numpy as np

from openglip.images.prepare import Preparation

Item = TypeVar("Item")
Result = TypeVar("Result")

EncodedMaps = NewType("EncodedMaps", object)
"""Encoded images of equal padded size, as the backend holds them."""
EncodedTokens = NewType("EncodedTokens", object)
"""Features of the tokens of one text, as the backend holds them."""


class BoxArrays(NamedTuple):
    """boxes: N x 4 float32, xyxy in pixels of the network's input; scores: N float32; labels: N int64."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def select(self, rows: np.ndarray) -> BoxArrays:
        """The boxes of some rows (indices or a mask)."""
        return BoxArrays(self.boxes[rows], self.scores[rows], self.labels[rows])

    def best(self, count: int) -> BoxArrays:
        """The `count` highest scores, and all that equal the last of them."""
        if len(self.scores) <= count:
            return self
        return self.select(self.scores >= np.partition(self.scores, -count)[-count])


class Workers(Protocol):
    """Threads that run whole images side by side."""

    def __len__(self) -> int: ...
    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Results in order; raises what the first failing item raised."""
        ...


class Backend(Protocol):
    """A model that is ready to run.

    Attributes:
        name: The model's name.
        device: Where it runs, as a word for reports.
        precision: "fp32" or "bf16".
        preparation: How the model wants its images.
        default_threshold: The score from which a user sees boxes.
        max_tokens: Tokens of one prompt.
        categories: The fixed classes of a model without a text encoder, else None.
        tokens_are_independent: See `openglip.model.contract.Model`.
        reads_phrases_alone: See `openglip.model.contract.Model`.
    """

    name: str
    device: str
    precision: str
    preparation: Preparation
    default_threshold: float
    max_tokens: int
    categories: tuple[str, ...] | None
    tokens_are_independent: bool
    reads_phrases_alone: bool

    def encode_text(self, ids: Sequence[Sequence[int]]) -> list[EncodedTokens]:
        """Encode texts of equal length.

        Args:
            ids: Token ids of each text, [CLS] and [SEP] included.
        """
        ...

    def select_tokens(self, texts: Sequence[EncodedTokens], positions: Sequence[Sequence[int]]) -> EncodedTokens:
        """Some tokens of each text, joined in order to one text."""
        ...

    def encode_images(self, images: Sequence[np.ndarray]) -> EncodedMaps:
        """Encode images of equal padded size together.

        Args:
            images: 3 x h x w float32 each, normalised, not padded.
        """
        ...

    def join_images(self, images: Sequence[EncodedMaps]) -> EncodedMaps:
        """Several results of `encode_images` of equal padded size as one."""
        ...

    def detect(
        self,
        images: EncodedMaps,
        rows: Sequence[int],
        texts: Sequence[EncodedTokens | None],
        token_maps: Sequence[Sequence[Sequence[int]]],
        image_sizes: Sequence[tuple[int, int]],
        thresholds: Sequence[np.ndarray],
        *,
        least: float,
        nms_iou: float,
        phrases: bool,
    ) -> list[BoxArrays]:
        """Boxes of some images of a batch, one prompt each; see `openglip.model.contract.Model.detect`.

        Args:
            images: The encoded batch.
            rows: Which images of it to look at.
            texts: The encoded prompt of each of these; None for a model with fixed categories.
            token_maps: The token positions of each entry of each prompt.
            image_sizes: (height, width) of each image without padding.
            thresholds: Of each entry of each prompt.
            least: Boxes below this score may be missing.
            nms_iou: Overlap above which the lower of two boxes of one entry is suppressed.
            phrases: Whether the entries are phrases of a caption.
        """
        ...

    def suppress(self, boxes: BoxArrays, nms_iou: float) -> BoxArrays:
        """Non-maximum suppression whatever the labels."""
        ...

    def batch_size(self, height: int, width: int) -> int:
        """How many images of this padded size to run together."""
        ...

    def workers(self, at_most: int | None = None) -> AbstractContextManager[Workers]:
        """Threads for whole images; outside the CPU only one."""
        ...

    def weights_sha256(self) -> str:
        """A digest of the weights, whatever file they came from."""
        ...
