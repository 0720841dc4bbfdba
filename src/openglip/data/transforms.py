"""Transforms of views: picture, boxes, caption and spans move together. Source of the rules: GLIP_SPEC 8.4.11.

Each is a small record of its numbers that is called with a view and a generator; `compose` chains them. The official
recipes use Resize and Flip alone, the others are options.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from openglip.data.prompts import swap_left_right
from openglip.data.views import Transform, View
from openglip.errors import DataError
from openglip.images.prepare import resize, resized_size
from openglip.structures import boxes as bx
from openglip.structures.sample import Sample


def compose(transforms: Sequence[Transform], view: View, rng: random.Random) -> View:
    """The view after all transforms in their order."""
    for transform in transforms:
        view = transform(view, rng)
    return view


@dataclass(frozen=True)
class Resize:
    """Short side drawn from `short_sides`, long side at most about `max_side` (multi-scale training)."""

    short_sides: tuple[int, ...] = (480, 560, 640, 720, 800)
    max_side: int | None = 1333

    def __call__(self, view: View, rng: random.Random) -> View:
        height, width = view.image.shape[:2]
        return resize_view(view, resized_size(height, width, rng.choice(self.short_sides), self.max_side))


@dataclass(frozen=True)
class Flip:
    """Mirror left to right with a probability; "left" and "right" change places in the caption."""

    probability: float = 0.5

    def __call__(self, view: View, rng: random.Random) -> View:
        return flip_view(view) if rng.random() < self.probability else view


@dataclass(frozen=True)
class ScaleJitter:
    """Large-scale jitter: fit into `size` (height, width) times a factor drawn from low..high, then cut to `size`.

    What is smaller is not padded here, batches are. Boxes of which less than `min_share` stays go. Source: Ghiasi et
    al. 2021, "Simple Copy-Paste".
    """

    size: tuple[int, int]
    low: float = 0.1
    high: float = 2.0
    min_share: float = 0.3

    def __call__(self, view: View, rng: random.Random) -> View:
        height, width = view.image.shape[:2]
        factor = min(self.size[0] / height, self.size[1] / width) * rng.uniform(self.low, self.high)
        view = resize_view(view, (max(1, round(height * factor)), max(1, round(width * factor))))
        height, width = view.image.shape[:2]
        window_height, window_width = min(height, self.size[0]), min(width, self.size[1])
        top, left = rng.randint(0, height - window_height), rng.randint(0, width - window_width)
        return crop_view(view, (left, top, left + window_width, top + window_height), self.min_share)


@dataclass(frozen=True)
class Crop:
    """With a probability cut out a window of `min_side`..1 of height and width each.

    Boxes of which less than `min_share` stays go.
    """

    probability: float = 0.5
    min_side: float = 0.6
    min_share: float = 0.5

    def __call__(self, view: View, rng: random.Random) -> View:
        if rng.random() >= self.probability:
            return view
        height, width = view.image.shape[:2]
        h, w = (max(1, round(side * rng.uniform(self.min_side, 1))) for side in (height, width))
        top, left = rng.randint(0, height - h), rng.randint(0, width - w)
        return crop_view(view, (left, top, left + w, top + h), self.min_share)


@dataclass(frozen=True)
class Colour:
    """Brightness, contrast and saturation times 1 - x .. 1 + x, hue turned by up to a share of the circle.

    Hue is off at first: it takes as long as reading the picture.
    """

    probability: float = 0.8
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.0

    def __call__(self, view: View, rng: random.Random) -> View:
        if rng.random() >= self.probability:
            return view
        picture = Image.fromarray(view.image)
        changes = [
            (tv.adjust_brightness, 1 + rng.uniform(-self.brightness, self.brightness)),
            (tv.adjust_contrast, 1 + rng.uniform(-self.contrast, self.contrast)),
            (tv.adjust_saturation, 1 + rng.uniform(-self.saturation, self.saturation)),
        ]
        if self.hue:
            changes.append((tv.adjust_hue, rng.uniform(-self.hue, self.hue)))
        rng.shuffle(changes)
        for change, amount in changes:
            picture = change(picture, amount)
        return dataclasses.replace(view, image=np.asarray(picture))


def resize_view(view: View, size: tuple[int, int]) -> View:
    """The view at `size` (height, width); boxes scale by the two exact ratios."""
    height, width = view.image.shape[:2]
    if (height, width) == size:
        return view
    boxes = bx.scale(view.boxes, size[1] / width, size[0] / height)
    return dataclasses.replace(view, image=resize(view.image, size), boxes=boxes)


def flip_view(view: View) -> View:
    """The mirrored view, its caption with "left" and "right" swapped."""
    mirrored = view.image.shape[1] - 1 - view.boxes[:, [2, 1, 0, 3]]
    boxes = np.stack([mirrored[:, 0], view.boxes[:, 1], mirrored[:, 2], view.boxes[:, 3]], axis=1)
    caption, spans = swap_left_right(view.caption, view.spans)
    image = np.ascontiguousarray(view.image[:, ::-1])
    return dataclasses.replace(view, image=image, boxes=boxes, caption=caption, spans=spans)


def crop_view(view: View, window: tuple[int, int, int, int], min_share: float) -> View:
    """The part of a view in a window (x1, y1, x2, y2 as in slices); boxes are cut, those with too little left go."""
    x1, y1, x2, y2 = window
    shift = np.array([x1, y1, x1, y1], np.float32)
    boxes = bx.clip(view.boxes - shift, y2 - y1 - 1, x2 - x1 - 1)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(1)
    keep &= bx.area(boxes, plus_one=True) >= min_share * bx.area(view.boxes, plus_one=True)
    cut = dataclasses.replace(view, image=np.ascontiguousarray(view.image[y1:y2, x1:x2]), boxes=boxes)
    return cut.select(keep)


def mosaic(
    loaded: Sequence[tuple[np.ndarray, Sample]], size: tuple[int, int], rng: random.Random
) -> tuple[np.ndarray, Sample]:
    """Four loaded pictures of one source around a random point of a picture of `size` (height, width).

    Before the prompt is made, as it joins their labels: all must have the same categories, and labels for all boxes.
    Raises DataError otherwise.
    """
    first = loaded[0][1]
    if len(loaded) != 4 or any(s.labels is None or s.categories != first.categories for _, s in loaded):
        raise DataError(f"{first.where}: a mosaic takes four samples that have the same categories")
    height, width = size
    x, y = round(width * rng.uniform(0.3, 0.7)), round(height * rng.uniform(0.3, 0.7))
    cells = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    canvas = np.full((height, width, 3), 114, np.uint8)
    boxes, labels = [], []
    for (image, sample), (x1, y1, x2, y2) in zip(loaded, cells, strict=True):
        factor = min((x2 - x1) / image.shape[1], (y2 - y1) / image.shape[0])
        h, w = max(1, int(image.shape[0] * factor)), max(1, int(image.shape[1] * factor))
        # each picture touches the common point, so that objects of all four meet there
        left, top = (x2 - w if x1 == 0 else x1), (y2 - h if y1 == 0 else y1)
        canvas[top : top + h, left : left + w] = resize(image, (h, w))
        scaled = bx.scale(sample.boxes, w / image.shape[1], h / image.shape[0])
        boxes.append(scaled + np.array([left, top, left, top], np.float32))
        labels.append(sample.labels)
    absent = set.intersection(*(set(s.negatives) for _, s in loaded))
    joined = dataclasses.replace(
        first,
        size=size,
        boxes=np.concatenate(boxes),
        labels=np.concatenate(labels),
        caption=None,
        phrase_spans=None,
        scores=None,
        exhaustive=all(s.exhaustive for _, s in loaded),
        negatives=tuple(name for name in first.negatives if name in absent),
    )
    return canvas, joined
