"""Weights that no builder makes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openglip.weights.load import build_model


@pytest.fixture(scope="session")
def state() -> dict[str, Tensor]:
    """Random weights of the debug model."""
    generator = torch.Generator().manual_seed(3)
    shapes = {key: value.shape for key, value in build_model("debug").state_dict().items()}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
