"""Official keys and ours. Submodules have the official names, so only the prefix and some buffers differ.

Official files also contain tables that a model computes by itself (window positions, token positions, anchors): they
are dropped when a file is read and computed again when one is written. Source: docs/spec.md 7.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from openglip.errors import ConfigError
from openglip.model.swin import relative_position_index
from openglip.weights.records import BY_FILE

PREFIX = "module."  # of the official distributed wrapper
_REGENERATED = re.compile(r"relative_position_index$|embeddings\.position_ids$|anchor_generator\.cell_anchors\.\d+$")
# Parts of the official training set-up that no prediction uses.
_IGNORED = re.compile(r"^language_backbone\.body\.model\.pooler\.|(^|\.)(mlm_head|resizer)\.|\.cls\.predictions\.")
_BIAS_TABLE = "relative_position_bias_table"
_POSITIONS = "embeddings.position_embeddings.weight"
_FINEST_STRIDE, _ANCHOR, _LEVELS = 8, 64, 5


def current_keys(state: Mapping[str, Tensor], model: str | None, version: int) -> dict[str, Tensor]:
    """A state dict of an earlier format under today's keys; the tensors stay as they are.

    Args:
        state: The file's tensors.
        model: Name of the architecture in its metadata.
        version: Its format version.
    """
    if model != "nano" or version > 1:
        return dict(state)
    return {_nano_key(key): value for key, value in state.items()}


@cache
def nano_format_1() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Keys of the embedded model in files of format 1 (openglip 0.1), each with today's.

    Returns:
        First parts of keys, and later parts by the first part of the old key.
    """
    table = json.loads((files("openglip.weights") / "nano_format_1.json").read_text("utf-8"))
    return table["first"], table["later"]


def _nano_key(key: str) -> str:
    names, later_names = nano_format_1()
    first, *rest = key.split(".")
    later = later_names.get(first, {})
    return ".".join([names.get(first, first), *(later.get(part, part) for part in rest)])


def from_official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """An official state dict under our keys.

    The prefix "module." is removed only if all keys have it.

    Returns:
        The state dict, and the official keys that were dropped.
    """
    cut = len(PREFIX) if all(key.startswith(PREFIX) for key in state) else 0
    converted: dict[str, Tensor] = {}
    dropped: list[str] = []
    for key, value in state.items():
        if _REGENERATED.search(key) or _IGNORED.search(key[cut:]):
            dropped.append(key)
        else:
            converted[key[cut:]] = value
    return converted, dropped


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official state dict of a GLIP or DyHead model: with the prefix and the tables that official files contain."""
    official: dict[str, Tensor] = {}
    for key, value in state.items():
        official[PREFIX + key] = value
        if key.endswith(_BIAS_TABLE):
            window = (round(value.shape[0] ** 0.5) + 1) // 2
            table = key.removesuffix(_BIAS_TABLE) + "relative_position_index"
            official[PREFIX + table] = relative_position_index(window)
        elif key.endswith(_POSITIONS):
            ids = key.removesuffix(_POSITIONS) + "embeddings.position_ids"
            official[PREFIX + ids] = torch.arange(value.shape[0])[None]
    for level in range(_LEVELS):
        official[f"{PREFIX}rpn.anchor_generator.cell_anchors.{level}"] = _cell_anchor(level)
    return official


def _cell_anchor(level: int) -> Tensor:
    """The anchor of a level's first cell, 1 x 4, in the official pixel convention (a side is x2 - x1 + 1)."""
    stride, side = _FINEST_STRIDE << level, _ANCHOR << level
    low, high = (stride - side) / 2, (stride + side) / 2 - 1
    return torch.tensor([[low, low, high, high]])


def official_model(path: Path) -> str:
    """The model of an official file, by the name under which it was released.

    Raises:
        ConfigError: The file has another name.
    """
    if path.name not in BY_FILE:
        raise ConfigError(
            f"{path} does not say which model it is (an official file never does): name the model, for instance "
            f"glip-t. Recognised names are {', '.join(BY_FILE)}"
        )
    return BY_FILE[path.name].model
