"""A detector without a network: its boxes follow from image and words, so that runs can be compared byte by byte."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from openglip.errors import ImageError
from openglip.images.read import read_image
from openglip.predict.options import DetectOptions
from openglip.structures.detections import Detections


class StubDetector:
    device = "cpu"
    id = "stub"
    precision = "fp32"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.backend = SimpleNamespace(name="stub", reads_phrases_alone=False, weights_sha256=lambda: "0" * 64)

    def encode_text(self, names: list[str], **options: Any) -> tuple[str, ...]:
        return tuple(names)

    def encode(self, content: bytes, **sides: Any) -> np.ndarray:
        return read_image(content)

    def stream(
        self, images: Any, categories: Any = None, *, captions: Any = None, phrases: Any = None, options: DetectOptions
    ) -> Iterator[Detections]:
        for i, image in enumerate(images):
            time.sleep(self.seconds)
            caption, spans = (None, None) if captions is None else (captions[i], tuple((s,) for s in phrases[i]))
            words = tuple(categories) if caption is None else tuple(caption[b:e] for ((b, e),) in spans)
            try:
                pixels = read_image(image)
            except ImageError as error:
                yield Detections([], [], [], words, None, caption, spans, error=str(error))  # type: ignore[arg-type]
                continue
            yield self._found(pixels, words, caption, spans, options.threshold)

    def _found(
        self, pixels: np.ndarray, words: tuple[str, ...], caption: str | None, spans: Any, threshold: float
    ) -> Detections:
        height, width = pixels.shape[:2]
        generator = np.random.default_rng(zlib.crc32(f"{pixels.mean():.3f} {caption} {words}".encode()))
        count = 2 * len(words)
        corners = np.sort(generator.uniform(0, 1, (count, 2, 2)), axis=1).reshape(count, 4) * (
            width,
            height,
            width,
            height,
        )
        scores = -np.sort(-generator.uniform(0, 1, count))
        keep = scores > threshold
        labels = generator.integers(0, max(1, len(words)), count)
        return Detections(corners[keep], scores[keep], labels[keep], words, (height, width), caption, spans)


def fast() -> Any:
    return StubDetector()


def slow() -> Any:
    return StubDetector(0.004)


def deadly() -> Any:
    """Ends its process with the first image, as a crash in native code does."""
    detector = StubDetector()
    detector.stream = lambda *_, **__: os._exit(3)  # type: ignore[method-assign]
    return detector
