"""Official key names <-> ours. Sub-modules carry the official names, so what is left is the prefix and the buffers.

Source: GLIP_SPEC section 7.1. Official files also hold tables that a model computes by itself (window positions,
token positions, anchors): they are dropped on the way in and computed anew on the way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from openglip.errors import ConfigError
from openglip.weights.records import BY_FILE

# Keys of the embedded model in files of format 1 (openglip 0.1), by the first part or parts of the key.
_NANO_BLOCKS = ("down", "up", "named", "placed")
NANO_FORMAT_1 = {
    "join": "lateral",
    "down": "top_down",
    "stride": "downsample",
    "up": "bottom_up",
    "named": "alignment_branch",
    "placed": "box_branch",
    "boxes": "box_regression",
    "central": "centerness",
    "words": "text_projection",
    "looks": "text_attention",
    "asks": "query_projection",
    "names": "class_embeddings",
    "others": "synonym_embeddings",
    "likeness": "class_similarity",
    "trust": "detector_weight",
    "prior": "prior_logit",
    "calibration": "tower_calibration",
    "own": "detector_calibration",
    "second_look": "second_stage",
}
# and by a later part, inside the modules whose keys begin with the first name
NANO_FORMAT_1_INNER = {
    **{block: {"depth": "depthwise", "widen": "pointwise1", "narrow": "pointwise2"} for block in _NANO_BLOCKS},
    "looks": {"keys": "key_value", "out": "output", "feed": "feed_forward"},
    "second_look": {
        "point": "point_projection",
        "shape": "grid_projection",
        "mean": "mean_projection",
        "fit": "alignment_projection",
        "place": "geometry_projection",
        "words": "text_projection",
        "gate": "text_gate",
        "mix": "mlp",
        "compare": "relations",
        "three": "qkv",
        "lie": "geometry",
        "out": "output",
        "feed": "feed_forward",
        "trust": "first_stage_weight",
    },
}
PREFIX = "module."  # of the official distributed wrapper
_REGENERATED = re.compile(r"relative_position_index$|embeddings\.position_ids$|anchor_generator\.cell_anchors\.\d+$")
# Parts of the official training set-up that no prediction uses.
_IGNORED = re.compile(r"^language_backbone\.body\.model\.pooler\.|(^|\.)(mlm_head|resizer)\.|\.cls\.predictions\.")
_BIAS_TABLE = "relative_position_bias_table"
_POSITIONS = "embeddings.position_embeddings.weight"
_FINEST_STRIDE, _ANCHOR, _LEVELS = 8, 64, 5


def current_keys(state: Mapping[str, Tensor], model: str | None, version: int) -> dict[str, Tensor]:
    """The keys of one of our files as this version has them; the tensors are not touched.

    Args:
        state: The file's tensors.
        model: Name of the architecture in its metadata.
        version: Its format version.
    """
    if model != "nano" or version > 1:
        return dict(state)
    return {_nano_key(key): value for key, value in state.items()}


def _nano_key(key: str) -> str:
    first, *rest = key.split(".")
    inner = NANO_FORMAT_1_INNER.get(first, {})
    return ".".join([NANO_FORMAT_1.get(first, first), *(inner.get(part, part) for part in rest)])


def from_official(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Our keys for an official state dict, and the official keys that were left out.

    "module." is cut off only when all keys have it.
    """
    cut = len(PREFIX) if all(key.startswith(PREFIX) for key in state) else 0
    own, dropped = {}, []
    for key, value in state.items():
        if _REGENERATED.search(key) or _IGNORED.search(key[cut:]):
            dropped.append(key)
        else:
            own[key[cut:]] = value
    return own, dropped


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official state dict of a GLIP or DyHead model: prefix added, tables that the official code stores rebuilt."""
    official: dict[str, Tensor] = {}
    for key, value in state.items():
        official[PREFIX + key] = value
        if key.endswith(_BIAS_TABLE):
            window = (round(value.shape[0] ** 0.5) + 1) // 2
            table = key.removesuffix(_BIAS_TABLE) + "relative_position_index"
            official[PREFIX + table] = _window_positions(window)
        elif key.endswith(_POSITIONS):
            ids = key.removesuffix(_POSITIONS) + "embeddings.position_ids"
            official[PREFIX + ids] = torch.arange(value.shape[0])[None]
    for level in range(_LEVELS):
        official[f"{PREFIX}rpn.anchor_generator.cell_anchors.{level}"] = _cell_anchor(level)
    return official


def _window_positions(window: int) -> Tensor:
    """Row of the bias table for each pair of positions in a window, window^2 x window^2. Source: Swin, section 3.2."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down = rows[:, None] - rows[None, :] + window - 1
    right = columns[:, None] - columns[None, :] + window - 1
    return down * (2 * window - 1) + right


def _cell_anchor(level: int) -> Tensor:
    """The anchor of the first cell of a level, 1 x 4, with the official pixel convention (a side is x2 - x1 + 1)."""
    stride, side = _FINEST_STRIDE << level, _ANCHOR << level
    low, high = (stride - side) / 2, (stride + side) / 2 - 1
    return torch.tensor([[low, low, high, high]])


def official_model(path: Path) -> str:
    """Architecture of an official file by its released name. Raises ConfigError for another name."""
    if path.name not in BY_FILE:
        raise ConfigError(
            f"{path} does not say which model it is (an official file never does): name the model, for instance "
            f"glip-t. Known by name are {', '.join(BY_FILE)}"
        )
    return BY_FILE[path.name].model
