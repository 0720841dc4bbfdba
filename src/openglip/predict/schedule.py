"""Any number of images in constant memory: read a window of them, run equal sizes as batches, return them in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeVar

import numpy as np

from openglip.errors import ImageError, PromptError
from openglip.images.prepare import padded_size
from openglip.predict.backends.base import Backend, EncodedMaps
from openglip.predict.text import EncodedText
from openglip.structures.detections import Detections

Source = TypeVar("Source")

MAX_WINDOW = 64  # images that are open at a time


@dataclass(frozen=True, eq=False)
class OpenedImage:
    """An image that is read and resized but not yet encoded.

    Attributes:
        pixels: 3 x h x w float32, normalised, not padded.
        image_size: (height, width) of the upright original, in pixels.
        source: Its path, if it has one.
    """

    pixels: np.ndarray
    image_size: tuple[int, int]
    source: str | None

    @property
    def network_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the network's input."""
        return self.pixels.shape[1], self.pixels.shape[2]


@dataclass(frozen=True, eq=False)
class UnreadableImage:
    """What stands in for an image that can't be read, where errors are recorded."""

    source: str
    error: ImageError


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """The image side of a detection, for the detector that encoded it; with fusion that is backbone and pyramid only.

    Attributes:
        detector_id: Of the detector that encoded it.
        maps: What its backend made of the image.
        network_size: (height, width) of the network's input without padding, in pixels.
        image_size: (height, width) of the upright original, in pixels.
        source: The path of the original, if it has one.
    """

    detector_id: str
    maps: EncodedMaps
    network_size: tuple[int, int]
    image_size: tuple[int, int]
    source: str | None


Batch = tuple[Sequence["OpenedImage | EncodedImage"], Sequence[EncodedText]]


def detect_in_batches(
    backend: Backend,
    images: Iterator[Source],
    texts: Iterator[EncodedText],
    batch_size: int | None,
    open_image: Callable[[Source], OpenedImage | EncodedImage | UnreadableImage],
    detect: Callable[[Batch], list[Detections]],
) -> Iterator[Detections]:
    """Detections of images, in their order.

    Args:
        backend: Says how many images of a size run together, and has the threads.
        images: Any number of images.
        texts: One per image, or endless.
        batch_size: Images that run together on all threads; None: as the backend says.
        open_image: Reads one image.
        detect: Runs one batch: images of equal padded size, all of them encoded or none.

    Raises:
        PromptError: There are more images than texts.
    """
    number = 0
    window = min(4 * batch_size, MAX_WINDOW) if batch_size and batch_size > 1 else 1
    # One image alone on its thread is slower than two images on all threads.
    with backend.workers(batch_size // 2 if batch_size else None) as workers:
        while sources := list(islice(images, window)):
            words = list(islice(texts, len(sources)))
            if len(words) < len(sources):
                raise PromptError(f"image {number + len(words)} has no words: give one list or caption per image")
            opened = workers.map(open_image, sources)
            results: dict[int, Detections] = {}
            groups: dict[tuple[tuple[int, int], bool], list[int]] = {}
            for i, image in enumerate(opened):
                if isinstance(image, UnreadableImage):
                    results[i] = _nothing(image, words[i])
                    continue
                size = padded_size(*image.network_size, backend.preparation.multiple)
                groups.setdefault((size, isinstance(image, EncodedImage)), []).append(i)
            batches: list[list[int]] = []
            for (size, _), members in groups.items():
                step = max(1, batch_size // len(workers)) if batch_size else backend.batch_size(*size)
                if step > 1:
                    window = max(window, min(4 * step * len(workers), MAX_WINDOW))
                batches += _even_parts(members, step)
            detections = workers.map(detect, [([opened[i] for i in b], [words[i] for i in b]) for b in batches])  # type: ignore[misc]
            for batch, results_of_batch in zip(batches, detections, strict=True):
                results.update(zip(batch, results_of_batch, strict=True))
            yield from (results[i] for i in range(len(sources)))
            number += len(sources)


def _even_parts(items: list[int], most: int) -> list[list[int]]:
    """As few parts as hold at most `most` items each, of nearly equal length."""
    count = -(-len(items) // most)
    ends = [len(items) * n // count for n in range(count + 1)]
    return [items[start:end] for start, end in pairwise(ends)]


def _nothing(image: UnreadableImage, text: EncodedText) -> Detections:
    return Detections(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        labels=np.zeros(0, np.int64),
        vocabulary=text.vocabulary,
        image_size=None,
        caption=text.caption,
        phrase_spans=text.phrase_spans,
        source=image.source,
        error=str(image.error),
    )
