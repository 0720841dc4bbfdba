"""From pixels to the network's input: resized, normalised, padded. Source: docs/spec.md 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from openglip.errors import ConfigError


@dataclass(frozen=True)
class Preparation:
    """How a model wants its images; mean and std in its channel order, for values 0..255.

    short_side: pixels of the short side; max_side: limit of the long side, None for no limit; multiple: heights and
    widths are padded up to it.
    """

    short_side: int = 800
    max_side: int | None = 1333
    mean: tuple[float, float, float] = (103.530, 116.280, 123.675)
    std: tuple[float, float, float] = (57.375, 57.120, 58.395)
    bgr: bool = True
    multiple: int = 32

    def __post_init__(self) -> None:
        if self.short_side < 1 or (self.max_side is not None and self.max_side < 1) or self.multiple < 1:
            raise ConfigError(f"sides and multiple must be at least 1: {self}")
        if min(self.std) <= 0:
            raise ConfigError(f"std must be positive: {self.std}")


def resized_size(height: int, width: int, short_side: int, max_side: int | None) -> tuple[int, int]:
    """(height, width) after resizing: the short side to `short_side`, less where the long one would pass `max_side`.

    GLIP's rule with its roundings, so the long side may miss `max_side` by a few pixels; no side becomes 0.
    """
    short, long = min(height, width), max(height, width)
    if max_side is not None and long / short * short_side > max_side:
        short_side = round(max_side * short / long)
        if short_side == 0:  # narrower than one pixel
            return (1, max_side) if height < width else (max_side, 1)
    if short == short_side:
        return height, width
    other = int(short_side * long / short)
    return (short_side, other) if height <= width else (other, short_side)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """H x W x 3 uint8 to `size` (height, width), bilinear with antialiasing (Pillow's)."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def normalise(image: np.ndarray, preparation: Preparation) -> np.ndarray:
    """H x W x 3 uint8 RGB to 3 x H x W float32, (value - mean) / std in the model's channel order."""
    values = np.empty((3, *image.shape[:2]), np.float32)
    for plane, channel in enumerate((2, 1, 0) if preparation.bgr else (0, 1, 2)):
        values[plane] = image[:, :, channel]
    values -= np.array(preparation.mean, np.float32)[:, None, None]
    values /= np.array(preparation.std, np.float32)[:, None, None]
    return values


def prepare(image: np.ndarray, preparation: Preparation) -> np.ndarray:
    """H x W x 3 uint8 RGB to the normalised 3 x h x w of one image, not padded."""
    size = resized_size(image.shape[0], image.shape[1], preparation.short_side, preparation.max_side)
    return normalise(resize(image, size), preparation)


def padded_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """Height and width rounded up to `multiple`."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad_batch(images: Sequence[np.ndarray], multiple: int = 32) -> np.ndarray:
    """Images 3 x h x w in the top left corners of one B x 3 x H x W of zeros (the mean colour)."""
    height, width = padded_size(max(i.shape[1] for i in images), max(i.shape[2] for i in images), multiple)
    batch = np.zeros((len(images), 3, height, width), np.float32)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    return batch
