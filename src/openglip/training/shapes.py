"""Generated images of coloured shapes: training data that needs no download.

A category is a colour and a shape ("red circle"). Some pairs never occur in training, though their colour and their
shape do; only a model that has learned words rather than classes detects them.
"""

from __future__ import annotations

import io
import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from openglip.structures.sample import Sample

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "white": (245, 245, 245),
    "black": (10, 10, 10),
    "purple": (150, 50, 170),
    "orange": (240, 140, 30),
    "pink": (240, 150, 190),
    "cyan": (60, 200, 220),
    "brown": (120, 75, 40),
}
SHAPES = ("circle", "square", "triangle", "cross")
PAIRS = tuple(f"{colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES))
UNSEEN = ("red circle", "green square", "blue triangle", "yellow cross")
SEEN = tuple(pair for pair in PAIRS if pair not in UNSEEN)
SIDE = 96


class Shapes(Sequence[Sample]):
    """Images with three or four shapes; image i is always the same.

    Args:
        length: Number of images.
        pairs: The categories that occur.
        seed: Of the images.
        halves: Share of the images whose categories are colours alone or shapes alone.
    """

    def __init__(self, length: int, pairs: Sequence[str] = SEEN, seed: int = 0, halves: float = 0.0) -> None:
        self.length, self.pairs, self.seed, self.halves = length, tuple(pairs), seed, halves
        self.sizes = np.full((length, 2), SIDE)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng = random.Random(f"{self.seed}/{index}")
        grey = rng.randint(60, 130)
        image = Image.new("RGB", (SIDE, SIDE), tuple(grey + rng.randint(-15, 15) for _ in range(3)))
        boxes, labels = [], []
        for cell in rng.sample(range(4), rng.randint(3, 4)):  # one shape per quarter, so that none is covered
            label = rng.randrange(len(self.pairs))
            side = rng.randint(26, 42)
            left = (cell % 2) * (SIDE // 2) + rng.randint(2, SIDE // 2 - 4 - side)
            top = (cell // 2) * (SIDE // 2) + rng.randint(2, SIDE // 2 - 4 - side)
            colour, shape = self.pairs[label].split()
            _draw(ImageDraw.Draw(image), shape, _near(COLOURS[colour], rng), (left, top, left + side, top + side))
            boxes.append((left, top, left + side + 1, top + side + 1))
            labels.append(label)
        categories = self.pairs
        if rng.random() < self.halves:
            half = rng.randrange(2)
            categories = (tuple(COLOURS), SHAPES)[half]
            labels = [categories.index(self.pairs[label].split()[half]) for label in labels]
        encoded = io.BytesIO()
        image.save(encoded, "BMP")  # fast to encode
        return Sample(
            encoded.getvalue(),
            (SIDE, SIDE),
            np.array(boxes, np.float32),
            categories=categories,
            labels=np.array(labels),
            exhaustive=True,
            image_id=index,
            source="shapes",
        )


def _near(colour: tuple[int, int, int], rng: random.Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, channel + rng.randint(-10, 10))) for channel in colour)


def _draw(draw: ImageDraw.ImageDraw, shape: str, colour: tuple[int, ...], box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    thick = max(3, (right - left) // 4)
    if shape == "circle":
        draw.ellipse(box, fill=colour)
    elif shape == "square":
        draw.rectangle(box, fill=colour)
    elif shape == "triangle":
        draw.polygon([(left, bottom), (right, bottom), (math.floor((left + right) / 2), top)], fill=colour)
    else:
        middle_x, middle_y, half = (left + right) // 2, (top + bottom) // 2, thick // 2
        draw.rectangle((middle_x - half, top, middle_x + half, bottom), fill=colour)
        draw.rectangle((left, middle_y - half, right, middle_y + half), fill=colour)
