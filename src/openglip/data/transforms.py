"""Transforms of views: image, boxes, caption and spans change together. Source: docs/spec.md 8.4.11.

A transform is a function of a view and a generator (`views.Transform`); the two of the official recipes are here.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openglip.data.training_prompts import swap_left_right
from openglip.data.views import Transform, View
from openglip.images.prepare import resize, resized_size
from openglip.structures import boxes as bx


def compose(transforms: Sequence[Transform], view: View, rng: random.Random) -> View:
    """The view after all transforms in their order."""
    for transform in transforms:
        view = transform(view, rng)
    return view


@dataclass(frozen=True)
class Resize:
    """Resize to a random scale (multi-scale training).

    Attributes:
        short_sides: Lengths of the short side in pixels, of which one is drawn.
        max_side: The long side is at most about this long; None sets no limit.
    """

    short_sides: tuple[int, ...] = (480, 560, 640, 720, 800)
    max_side: int | None = 1333

    def __call__(self, view: View, rng: random.Random) -> View:
        """The resized view."""
        height, width = view.image.shape[:2]
        return resize_view(view, resized_size(height, width, rng.choice(self.short_sides), self.max_side))


@dataclass(frozen=True)
class Flip:
    """Mirror left to right with a probability; "left" and "right" change places in the caption."""

    probability: float = 0.5

    def __call__(self, view: View, rng: random.Random) -> View:
        """The view, mirrored or as it is."""
        return flip_view(view) if rng.random() < self.probability else view


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
