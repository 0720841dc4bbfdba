"""Fill a model with the goldens' synthetic weights and read their arrays.

The full set lies in ../shared; a small committed subset in tests/goldens serves where that is absent.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

TESTS = Path(__file__).resolve().parents[1]
FOLDERS = (TESTS.parents[1] / "shared" / "goldens", TESTS / "goldens")


def golden_path(name: str) -> Path:
    """A golden file: the full one, else the committed one, else the test is skipped."""
    for folder in FOLDERS:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"golden {name} is neither in ../shared nor in the committed subset")


def golden_arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(golden_path(name), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def golden_json(name: str) -> dict:
    return json.loads(golden_path(name).read_text())


def load_fill(path: Path | None = None):
    """The module fill.py."""
    spec = importlib.util.spec_from_file_location("golden_fill", path or golden_path("fill.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill_model(model: nn.Module) -> nn.Module:
    """Give every parameter the golden value of its official key."""
    fill = load_fill()
    state = {key: torch.from_numpy(fill.tensor(key, tuple(value.shape))) for key, value in model.state_dict().items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def network_input(images: list[np.ndarray], height: int, width: int) -> Tensor:
    """Images at their own size, normalised, in the top left corners of one zero batch."""
    from openglip.images.prepare import normalise
    from openglip.model.builders import OFFICIAL_INPUT

    batch = torch.zeros(len(images), 3, height, width)
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(normalise(image, OFFICIAL_INPUT))
    return batch
