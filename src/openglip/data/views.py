"""A view: one image as it is trained on once, with its prompt. A transform turns a view into another.

Boxes of views count their corners as pixels of the box (x2 = x + width - 1), as the official code trains them.
Source: docs/spec.md 8.4.9.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from openglip.data.training_prompts import TrainingPrompt
from openglip.errors import DataError
from openglip.images.read import read_image
from openglip.prompts.text import Spans
from openglip.structures import boxes as bx
from openglip.structures.sample import Sample

PromptFunction = Callable[[Sample, random.Random, np.random.RandomState], TrainingPrompt]
"""Makes the prompt of a sample; `data.training_prompts` has three, `functools.partial` sets their numbers."""


@dataclass(frozen=True, eq=False)
class View:
    """One image with its prompt.

    Attributes:
        image: H x W x 3 uint8 RGB.
        boxes: N x 4 float32, inclusive xyxy corners in pixels of `image`.
        caption: The text of the prompt.
        spans: Per box its half-open character ranges in `caption`.
        labels: N int64, index into the source's categories, or None.
        dropped: How many boxes have no room in the prompt.
    """

    image: np.ndarray
    boxes: np.ndarray
    caption: str
    spans: tuple[Spans, ...]
    labels: np.ndarray | None = None
    dropped: int = 0

    def select(self, mask: np.ndarray) -> View:
        """The same view with the boxes of a mask, and their spans and labels."""
        rows = np.flatnonzero(mask)
        spans = tuple(self.spans[i] for i in rows)
        return dataclasses.replace(
            self, boxes=self.boxes[rows], spans=spans, labels=None if self.labels is None else self.labels[rows]
        )


Transform = Callable[[View, random.Random], View]


def load(sample: Sample) -> tuple[np.ndarray, Sample]:
    """Read a sample's image; its boxes follow when the stored image is smaller or larger with the same aspect ratio.

    Returns:
        The image (H x W x 3 uint8 RGB), and the sample with boxes in its pixels.

    Raises:
        ImageError: The image can't be read.
        DataError: The image has another aspect ratio than the sample says.
    """
    image = read_image(sample.image)
    height, width = image.shape[:2]
    if (height, width) == sample.size:
        return image, sample
    if not same_aspect((height, width), sample.size):
        raise DataError(
            f"{sample.where}: the image has {width} x {height} pixels, its boxes are for "
            f"{sample.size[1]} x {sample.size[0]}"
        )
    boxes = bx.scale(sample.boxes, width / sample.size[1], height / sample.size[0])
    return image, dataclasses.replace(sample, boxes=boxes, size=(height, width))


def same_aspect(stored: tuple[int, int], annotated: tuple[int, int]) -> bool:
    """Whether one size is the other one scaled, up to rounding to whole pixels."""
    factor = (stored[0] + stored[1]) / (annotated[0] + annotated[1])
    return all(abs(side - factor * other) <= 1.0 for side, other in zip(stored, annotated, strict=True))


def training_boxes(boxes: np.ndarray, size: tuple[int, int], inclusive: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Boxes with inclusive corners inside an image. What is one pixel wide or high vanishes, as in the official code.

    Args:
        boxes: N x 4 xyxy in pixels.
        size: (height, width) of the image.
        inclusive: The corners are inclusive already (the official code takes those of its TSV files as they are).

    Returns:
        The boxes that are left (K x 4), and their rows in the input (K).
    """
    height, width = size
    if not inclusive:
        boxes = np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:] - 1, boxes[:, :2])], axis=1)
    boxes = bx.clip(boxes, height - 1, width - 1)
    usable = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[usable], np.flatnonzero(usable)


def make_view(
    image: np.ndarray,
    sample: Sample,
    prompt: PromptFunction,
    rng: random.Random,
    numpy_rng: np.random.RandomState,
    *,
    inclusive: bool = False,
) -> View:
    """Image, boxes and prompt of a loaded sample; boxes of one pixel are left out before the prompt is made.

    Args:
        image: H x W x 3 uint8 RGB.
        sample: The sample, with boxes in pixels of `image`.
        prompt: Makes its prompt.
        rng: For the draws of the prompt.
        numpy_rng: For the draws of the prompt.
        inclusive: See `training_boxes`.

    Raises:
        DataError: The prompt can't be made.
    """
    boxes, rows = training_boxes(sample.boxes, sample.size, inclusive)
    if len(rows) < len(sample):
        sample = dataclasses.replace(sample, **sample.select(rows))  # type: ignore[arg-type]
    words = prompt(sample, rng, numpy_rng)
    labels = None if sample.labels is None else sample.labels[words.rows]
    return View(image, boxes[words.rows], words.caption, words.spans, labels, words.dropped)
