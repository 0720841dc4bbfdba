"""Not run, but read by the type checker: what an editor knows of the public calls. See test_types.py."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

import openglip
from openglip.model.contract import Model
from openglip.model.head import TextFeatures
from openglip.predict.schedule import EncodedImage
from openglip.predict.text import EncodedText


def calls(detector: openglip.Detector, pixels: np.ndarray, picture: Image.Image) -> None:
    assert_type(openglip.load(), openglip.Detector)
    assert_type(detector.detect("a.jpg", ["cat"]), openglip.Detections)
    assert_type(detector.detect(Path("a.jpg"), "cat. dog", threshold=0.3, top_k=5), openglip.Detections)
    assert_type(detector.detect(b"...", ["cat"]), openglip.Detections)
    assert_type(detector.detect(pixels, ["cat"]), openglip.Detections)
    assert_type(detector.detect(picture, ["cat"]), openglip.Detections)
    assert_type(detector.detect(["a.jpg", "b.jpg"], ["cat"]), list[openglip.Detections])
    assert_type(detector.detect((p for p in [pixels]), [["cat"]]), list[openglip.Detections])
    assert_type(detector.ground("a.jpg", "a cat", phrases=["cat"]), openglip.Detections)
    assert_type(detector.ground("a.jpg", "a cat", phrases=[(2, 5), [(0, 1)]]), openglip.Detections)
    assert_type(detector.ground([pixels, picture], ["a cat", "a dog"]), list[openglip.Detections])
    image, words = detector.encode("a.jpg"), detector.encode_text(["cat"])
    assert_type(image, EncodedImage)
    assert_type(words, EncodedText)
    assert_type(detector.encode(["a.jpg"]), list[EncodedImage])
    assert_type(detector.detect(image, words), openglip.Detections)
    assert_type(detector.detect([image, image], words), list[openglip.Detections])
    options = openglip.DetectOptions(threshold={"cat": 0.3}, on_error="record")
    assert_type(detector.detect("a.jpg", ["cat"], options=options, top_k=None), openglip.Detections)
    assert_type(detector.model, Model)


def from_the_detector_to_the_network(model: Model, text: TextFeatures) -> None:
    """Following a call reaches the network's own methods with their types."""
    assert_type(model.max_tokens, int)
    assert_type(model.encode_text(text.hidden, text.mask), TextFeatures)


def mistakes(detector: openglip.Detector) -> None:
    detector.detect("a.jpg", ["cat"], treshold=0.3)  # pyright: ignore[reportCallIssue]
    detector.detect("a.jpg", ["cat"], top_k="many")  # pyright: ignore[reportCallIssue, reportArgumentType]
