"""From a name or a path to a model with its weights. Every key has to fit; those that do not are listed."""

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
from openglip.files import StrPath
from openglip.runtime import no_collection, no_initial_draws
from openglip.weights.files import Checkpoint, read_checkpoint
from openglip.weights.hub import embedded_file, fetch
from openglip.weights.keys import from_official, official_model
from openglip.weights.records import BY_FILE, RECORDS, WeightsRecord, find_record

logger = logging.getLogger(__name__)
_UNUSED_CLASSES = ("rpn.head.cls_logits.weight", "rpn.head.cls_logits.bias")
_MOST_LISTED = 10


def load_model(name: StrPath = "nano", weights: StrPath | None = None) -> nn.Module:
    """A model on the CPU in evaluation mode, float32, whose parameters need no gradient.

    Args:
        name: A model's name, an official file's name, or the path of a checkpoint or of a training run's folder, whose
            metadata names the architecture.
        weights: A path; None: embedded, cached or downloaded weights; "random": random weights.

    Raises:
        ConfigError: There is no such model.
        WeightsError: The file is missing, damaged, or does not fit.
    """
    for argument, value in (("name", name), ("weights", "random" if weights is None else weights)):
        if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
            raise ConfigError(f"{argument} is {value!r:.60}; give a model's name or the path of a checkpoint")
    architecture, source = _resolve(os.fspath(name), None if weights is None else os.fspath(weights))
    loaded = None if source is None else _read(architecture, source)
    with no_collection():
        with no_initial_draws() if loaded else nullcontext():
            model = build_model(architecture)
        if loaded:
            state, label, info = loaded
            load_state(model, state, label)
            if info.get("sub_sentences"):
                model.use_sub_sentences()  # type: ignore[operator]
    return model.eval().requires_grad_(False)


def model_builder(name: str) -> Callable[[], nn.Module]:
    """The function that builds a named model.

    Raises:
        ConfigError: There is no such model.
    """
    module, _, function = find_record(name).builder.partition(":")
    return getattr(import_module(module), function)


def build_model(name: str, seed: int = 0) -> nn.Module:
    """A named model with initial weights drawn from a seed; the global random state is not changed.

    Raises:
        ConfigError: There is no such model.
    """
    build = model_builder(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def start_state(model: str | None, weights: str | None) -> tuple[dict[str, Tensor], str] | None:
    """The weights that a training starts from.

    Args:
        model: The model's name; None for one that is not in the records.
        weights: Path of a checkpoint, name of a model whose weights are taken, or "random". None: the embedded weights
            of the model, if it has some.

    Returns:
        A state dict and a name of its source for messages; None for random weights.

    Raises:
        WeightsError: The checkpoint is missing or damaged.
    """
    if weights == "random":
        return None
    if weights is None:
        record = RECORDS.get(model or "")
        return _read(record.model, record)[:2] if record is not None and record.embedded else None
    if weights in RECORDS:
        record = RECORDS[weights]
        return None if record.random else _read(record.model, record)[:2]
    checkpoint = read_checkpoint(weights)
    state = from_official(checkpoint.state)[0] if checkpoint.official else checkpoint.state
    return state, weights


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy a state dict into a model; every key has to fit.

    The exception is the class layer of models that take words. It is not used, and official fine-tuned files have it
    with another number of classes; then it is set to 0, with a warning.

    Args:
        model: The model.
        state: The tensors by key.
        source: Name of the file, for messages.

    Raises:
        WeightsError: Keys are missing, unexpected or of another shape or type; the message lists them with
            similar keys.
    """
    expected, state = model.state_dict(), dict(state)
    differs = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    for key in _UNUSED_CLASSES:
        if key in differs and not getattr(model, "categories", None):
            logger.warning("%s: %s has another number of classes; words need no such layer, it is skipped", source, key)
            state[key] = torch.zeros_like(expected[key])
            differs.remove(key)
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    types = [
        key
        for key, value in state.items()
        if key in expected and value.dtype.is_floating_point != expected[key].dtype.is_floating_point
    ]
    shapes = [f"{key}: {_shape(state[key])} in the file, {_shape(expected[key])} in the model" for key in differs]
    problems = [
        *_listed("missing", _with_similar(missing, unexpected)),
        *_listed("unexpected", _with_similar(unexpected, missing)),
        *_listed("of another shape", shapes),
        *_listed("of another type (quantised weights are not read)", [f"{key}: {state[key].dtype}" for key in types]),
    ]
    if problems:
        name = getattr(model, "name", type(model).__name__)
        raise WeightsError(
            f"{source} does not fit the model {name} ({len(expected)} keys in the model, {len(state)} in the file):\n"
            + "\n".join(problems)
            + "\nName the model that the file belongs to, or give another file"
        )
    model.load_state_dict(state)


def check_finite(model: nn.Module, name: str) -> None:
    """Refuse a model with weights that are no numbers.

    Raises:
        WeightsError: A tensor contains NaN or infinity; the message names its key.
    """
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f"the weights of {name} contain NaN or infinity in {key}: get the file again")


def _resolve(name: str, weights: str | None) -> tuple[str, str | Checkpoint | WeightsRecord | None]:
    """The architecture, and the path, record or content of the weights; None for random weights."""
    if name not in RECORDS and name not in BY_FILE and _looks_like_path(name):
        if weights is not None:
            raise ConfigError(f"{name} is a checkpoint already: give weights= together with a model's name, or neither")
        checkpoint = read_checkpoint(name)
        model = checkpoint.info.get("model") or official_model(checkpoint.path)
        return str(model), checkpoint
    record = find_record(name)
    if weights is None:
        return record.model, None if record.random else record
    return record.model, None if weights == "random" else weights


def _looks_like_path(name: str) -> bool:
    return os.sep in name or "/" in name or Path(name).suffix in (".pth", ".pt", ".safetensors") or Path(name).exists()


def _read(
    architecture: str, source: str | Checkpoint | WeightsRecord
) -> tuple[dict[str, Tensor], str, Mapping[str, Any]]:
    """The tensors under our keys, a name of the file for messages, and the metadata of one file."""
    if isinstance(source, WeightsRecord) and source.embedded:
        state: dict[str, Tensor] = {}
        for path in map(embedded_file, source.embedded):
            if not path.is_file():
                raise WeightsNotFoundError(
                    f"this installation lacks {path}: install openglip again, from a wheel or whole"
                )
            state.update(read_checkpoint(path).state)
        return state, f"the embedded {source.model}", {}
    path = fetch(source) if isinstance(source, WeightsRecord) else source
    checkpoint = path if isinstance(path, Checkpoint) else read_checkpoint(path)
    if checkpoint.official:
        return from_official(checkpoint.state)[0], str(checkpoint.path), {}
    trained = checkpoint.info.get("model")
    if trained != architecture and not _have_equal_shapes(str(trained), architecture):
        raise WeightsError(f"{checkpoint.path} holds a {trained}, not a {architecture}: load it by its path alone")
    return checkpoint.state, str(checkpoint.path), checkpoint.info


def _have_equal_shapes(one: str, other: str) -> bool:
    """Whether files of one model fit the other: B, C and T of GLIP-T differ in their training data only."""
    counts = [RECORDS[name].parameters if name in RECORDS else None for name in (one, other)]
    return counts[0] is not None and counts[0] == counts[1]


def _with_similar(keys: Sequence[str], others: Sequence[str]) -> list[str]:
    """The keys, the first ones of them with the most similar one of the others."""
    lines: list[str] = []
    for key in keys[:_MOST_LISTED]:
        similar = difflib.get_close_matches(key, others, n=1, cutoff=0.7)
        lines.append(f"{key} (near: {similar[0]})" if similar else key)
    return lines + list(keys[_MOST_LISTED:])


def _listed(kind: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = [f"    ... and {len(lines) - _MOST_LISTED} more"] if len(lines) > _MOST_LISTED else []
    return [f"  {len(lines)} {kind}:", *(f"    {line}" for line in lines[:_MOST_LISTED]), *more]


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "scalar"
