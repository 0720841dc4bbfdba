"""Encoders start from the released weights of other models: a part of a model is filled from a file of that part."""

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
    """Copy into the parameters whose names begin with a key the tensors of its file, by name and shape.

    Names match by their end ("bert.encoder..." serves "encoder..."). What the file lacks keeps its initial value and is
    logged. Raises WeightsError when less than half of a part is found: the file is of another model.
    """
    for prefix, name in parts.items():
        found = read_checkpoint(folder / name).state
        found = {key.replace(".gamma", ".weight").replace(".beta", ".bias"): value for key, value in found.items()}
        own = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
        missing = []
        for key, value in own.items():
            end = key.removeprefix(prefix)
            fitting = [other for other in found if other == end or other.endswith(f".{end}")]
            fitting = [other for other in fitting if found[other].shape == value.shape]
            if fitting:
                value.copy_(found[min(fitting, key=len)])
            else:
                missing.append(end)
        if not own or 2 * len(missing) > len(own):
            raise WeightsError(
                f"{folder / name} fits only {len(own) - len(missing)} of the {len(own)} tensors of {prefix!r}: "
                f"it is of another model (missing: {', '.join(missing[:5])})"
            )
        if missing:
            logger.info("%s: initial values stay for %s", folder / name, ", ".join(missing))
