"""From a name or a path to a model with weights: strict, with an account of every key that does not fit."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openglip.errors import ConfigError, WeightsError, WeightsNotFoundError
from openglip.runtime import no_collection, no_initial_draws
from openglip.weights.files import read_checkpoint, read_info
from openglip.weights.hub import embedded_file, fetch
from openglip.weights.keys import from_official, official_model
from openglip.weights.records import BY_FILE, RECORDS, WeightsRecord, find_record

_log = logging.getLogger("openglip")
_UNUSED_CLASSES = ("rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias")
_SHOWN = 10


def load_model(
    name: str | os.PathLike[str] = "nano",
    weights: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """A model on the CPU in evaluation mode, float32, that needs no gradient.

    name: a model's name, an official file's name, or the path of a checkpoint or of a training run's folder (its
    metadata names the architecture). weights: a path, None (embedded, cached or downloaded), or "random".
    Raises ConfigError for an unknown name, WeightsError for a file that is not there, damaged, or does not fit.
    """
    architecture, source = _resolve(os.fspath(name), None if weights is None else os.fspath(weights))
    found = None if source is None else _read(architecture, source)
    with no_collection():
        with no_initial_draws() if found else nullcontext():
            model = build_model(architecture)
        if found:
            load_state(model, *found)
    if isinstance(source, str) and read_info(source).get("sub_sentences"):
        model.use_sub_sentences()  # type: ignore[operator]
    return model.eval().requires_grad_(False)


def model_builder(name: str) -> Callable[[], nn.Module]:
    """The function that builds a named model. Raises ConfigError for an unknown name."""
    module, _, function = find_record(name).builder.partition(":")
    return getattr(import_module(module), function)


def build_model(name: str, seed: int = 0) -> nn.Module:
    """A named model, freshly initialised from a seed; the global random state is left as it was.

    Raises ConfigError for an unknown name.
    """
    build = model_builder(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into the model; every key must fit.

    One exception, said as a warning: the class layer of text models, which nothing uses and which official
    fine-tuned files hold with another number of classes.
    Raises WeightsError that lists missing, unexpected and mis-shaped keys with the nearest names.
    """
    own = model.state_dict()
    state = dict(state)
    for key in _UNUSED_CLASSES:
        if (
            key in own
            and key in state
            and own[key].shape != state[key].shape
            and not getattr(model, "categories", None)
        ):
            _log.warning("%s: %s has another number of classes; words need no such layer, it is not taken", source, key)
            state[key] = torch.zeros_like(own[key])
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key}: {_shape(state[key])} in the file, {_shape(own[key])} in the model"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    problems = [
        *_account("missing", _with_near(missing, unexpected)),
        *_account("unexpected", _with_near(unexpected, missing)),
        *_account("of another shape", shapes),
    ]
    if problems:
        name = getattr(model, "name", type(model).__name__)
        raise WeightsError(
            f"{source} does not fit the model {name} ({len(own)} keys in the model, {len(state)} in the file):\n"
            + "\n".join(problems)
            + "\nName the model that the file belongs to, or give another file"
        )
    model.load_state_dict(state)


def _resolve(name: str, weights: str | None) -> tuple[str, str | WeightsRecord | None]:
    """(architecture, where the weights are); the second is None for random weights."""
    if name not in RECORDS and name not in BY_FILE and _looks_like_path(name):
        if weights is not None:
            raise ConfigError(f"{name} is a checkpoint already: give weights= together with a model's name, or neither")
        checkpoint = read_checkpoint(name)
        model = checkpoint.info.get("model") or official_model(checkpoint.path)
        return str(model), name
    record = find_record(name)
    if weights is None:
        return record.model, None if record.random else record
    return record.model, None if weights == "random" else weights


def _looks_like_path(name: str) -> bool:
    return os.sep in name or "/" in name or Path(name).suffix in (".pth", ".pt", ".safetensors") or Path(name).exists()


def _read(architecture: str, source: str | WeightsRecord) -> tuple[dict[str, Tensor], str]:
    """Our keys and a name of the source for messages."""
    if isinstance(source, WeightsRecord) and source.embedded:
        state: dict[str, Tensor] = {}
        for path in map(embedded_file, source.embedded):
            if not path.is_file():
                raise WeightsNotFoundError(
                    f"this installation lacks {path}: install openglip again, from a wheel or whole"
                )
            state.update(read_checkpoint(path).state)
        return state, f"the embedded {source.model}"
    checkpoint = read_checkpoint(fetch(source) if isinstance(source, WeightsRecord) else source)
    if checkpoint.official:
        return from_official(checkpoint.state)[0], str(checkpoint.path)
    holds = checkpoint.info.get("model")
    if holds != architecture and _shape_twins(holds) != _shape_twins(architecture):
        raise WeightsError(f"{checkpoint.path} holds a {holds}, not a {architecture}: load it by its path alone")
    return checkpoint.state, str(checkpoint.path)


def _shape_twins(name: Any) -> Any:
    """B, C and T of GLIP-T differ in their training data only, so that their files fit each other."""
    return "glip-t" if name in ("glip-t-b", "glip-t-c") else name


def _with_near(keys: Sequence[str], others: Sequence[str]) -> list[str]:
    """The keys, the first ones with the nearest name of the other side."""
    said = []
    for key in keys[:_SHOWN]:
        near = difflib.get_close_matches(key, others, n=1, cutoff=0.7)
        said.append(f"{key} (near: {near[0]})" if near else key)
    return said + list(keys[_SHOWN:])


def _account(what: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"    ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"  {len(lines)} {what}:", *(f"    {line}" for line in lines[:_SHOWN]), *more]


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "scalar"
