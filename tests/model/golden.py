"""Fill a model with the goldens' synthetic weights and read their arrays."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn


def load_fill(folder: Path):
    """The module fill.py of a golden folder."""
    spec = importlib.util.spec_from_file_location("golden_fill", folder / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill_model(model: nn.Module, folder: Path) -> nn.Module:
    """Give every parameter the golden value of its official key."""
    fill = load_fill(folder)
    state = {key: torch.from_numpy(fill.tensor(key, tuple(value.shape))) for key, value in model.state_dict().items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def read(folder: Path, name: str) -> tuple[dict[str, np.ndarray], dict]:
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        data = {key: arrays[key] for key in arrays.files}
    description = folder / f"{name}.json"
    return data, json.loads(description.read_text()) if description.exists() else {}
