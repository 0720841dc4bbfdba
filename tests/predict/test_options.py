"""The options of a detection: one record, checked where it is made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import get_type_hints

import numpy as np
import pytest

from openglip.errors import ConfigError
from openglip.predict.detector import Detector
from openglip.predict.options import DetectArguments, DetectOptions
from openglip.weights.load import build_model


def test_keyword_arguments_are_the_fields_of_the_record() -> None:
    assert get_type_hints(DetectArguments) == get_type_hints(DetectOptions)
    assert [field.name for field in fields(DetectOptions)] == list(DetectArguments.__annotations__)


def test_options_are_used_again_and_single_ones_replaced() -> None:
    model, image = build_model("debug"), np.zeros((60, 80, 3), np.uint8)
    model.score_cut = 0.0  # type: ignore[assignment]
    detector, options = Detector(model), DetectOptions(threshold=0, top_k=7)
    assert len(detector.detect(image, ["cat"], options=options)) >= 7
    assert detector.detect(image, ["cat"], options=options) == detector.detect(image, ["cat"], threshold=0, top_k=7)
    assert len(detector.detect(image, ["cat"], options=options, top_k=1)) == 1
    assert len(detector.ground(image, "a cat", options=options, top_k=1)) == 1
    with pytest.raises(FrozenInstanceError):
        options.top_k = 3  # type: ignore[misc]


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    detector, image = Detector(build_model("debug")), np.zeros((60, 80, 3), np.uint8)
    with pytest.raises(TypeError, match=r"no option 'treshold'; did you mean 'threshold'\?"):
        detector.detect(image, ["cat"], treshold=0.3)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="for categories"):
        detector.ground(image, "a cat", distractors=["dog"])


def test_thresholds_of_a_vocabulary() -> None:
    vocabulary = ("cat", "dog")
    assert DetectOptions().thresholds(vocabulary, 0.5).tolist() == [0.5, 0.5]
    assert DetectOptions(threshold=[0.25, 1]).thresholds(vocabulary, 0.5).tolist() == [0.25, 1]
    assert DetectOptions(threshold={"dog": 0}).thresholds(vocabulary, 0.5).tolist() == [0.5, 0]
    for wrong in ({"bird": 0.1}, [0.1], "high", float("nan"), 2):
        with pytest.raises(ConfigError):
            DetectOptions(threshold=wrong).thresholds(vocabulary, 0.5)  # type: ignore[arg-type]
