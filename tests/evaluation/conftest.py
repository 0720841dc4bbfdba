"""A detector whose random weights find something."""

from __future__ import annotations

from pathlib import Path

import pytest

import openglip
from openglip.predict.detector import Detector
from openglip.weights.files import write_safetensors


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`debug` with a higher bias, so that its scores pass the cut."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    state = openglip.load("debug", device="cpu").model.state_dict()
    state["rpn.head.bias0"] += 4.6
    write_safetensors(path, state, {"model": "debug", "training_data": [{"name": "COCO train2017"}]})
    return path


@pytest.fixture(scope="session")
def detector(weights: Path) -> Detector:
    return openglip.load(str(weights), device="cpu")
