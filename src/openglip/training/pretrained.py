"""Released weights of other models as the start of the encoders."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from openglip.errors import WeightsError
from openglip.weights.files import read_checkpoint

logger = logging.getLogger(__name__)


@torch.no_grad()
def load_parts(model: nn.Module, parts: Mapping[str, str], folder: Path) -> None:
    """Load parts of a model from the checkpoints of other models, by name and shape.

    Names match by their end ("bert.encoder..." matches "encoder..."). Tensors that a file lacks keep their initial
    values and are logged.

    Args:
        model: The model.
        parts: Checkpoints by the beginning of the names that they fill.
        folder: The checkpoints' paths are below it.

    Raises:
        WeightsError: A file has less than half of the tensors, so it is of another model.
    """
    for prefix, name in parts.items():
        state = read_checkpoint(folder / name).state
        state = {key.replace(".gamma", ".weight").replace(".beta", ".bias"): value for key, value in state.items()}
        part = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
        missing = []
        for key, value in part.items():
            end = key.removeprefix(prefix)
            matching = [other for other in state if other == end or other.endswith(f".{end}")]
            matching = [other for other in matching if state[other].shape == value.shape]
            if matching:
                value.copy_(state[min(matching, key=len)])
            else:
                missing.append(end)
        if not part or 2 * len(missing) > len(part):
            raise WeightsError(
                f"{folder / name} has only {len(part) - len(missing)} of the {len(part)} tensors of {prefix!r}: "
                f"it is of another model (missing: {', '.join(missing[:5])})"
            )
        if missing:
            logger.info("%s: initial values stay for %s", folder / name, ", ".join(missing))
