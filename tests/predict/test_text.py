"""Words that the text encoder does not know, and names that look like several: one warning per call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from openglip.predict.detector import Detector
from openglip.weights.load import build_model

IMAGE = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(build_model("debug"))


@contextmanager
def one_warning(*parts: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    (message,) = (str(warning.message) for warning in caught)
    assert all(part in message for part in parts), message


CALLS: dict[str, Callable[[Detector], object]] = {
    "a list": lambda d: d.detect(IMAGE, ["cat", "🐱", "猫 on a mat"]),
    "one string": lambda d: d.detect(IMAGE, "cat, 🐱, 猫"),
    "several images": lambda d: d.detect([IMAGE, IMAGE, IMAGE], ["🐱", "猫"]),
    "one list per image": lambda d: d.detect([IMAGE, IMAGE], [["🐱", "猫"], ["猫", "cat"]]),
    "distractors": lambda d: d.detect(IMAGE, ["cat"], distractors=["🐱", "猫"]),
    "encoded": lambda d: d.encode_text(["🐱", "猫"]),
    "a caption": lambda d: d.ground(IMAGE, "a cat 🐱 and a 猫", phrases=["a cat"]),
    "one caption per image": lambda d: d.ground([IMAGE, IMAGE], ["a cat 🐱 and a 猫", "a 猫"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_unknown_words_are_named_once_per_call(detector: Detector, call: str) -> None:
    with one_warning("does not know '🐱', '猫'"):
        CALLS[call](detector)


def test_known_words_cause_no_warning(detector: Detector) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.detect(IMAGE, ["Kühlschrank", "St. Bernard", "traffic_light (red)"])
        detector.ground(IMAGE, "a café, and a cat.")


def test_a_separator_in_a_list_is_warned_of_once(detector: Detector) -> None:
    with one_warning("'cat. dog', 'cup, table' is one name of the list"):
        assert detector.detect(IMAGE, ["cat. dog", "cup, table"]).vocabulary == ("cat. dog", "cup, table")
