"""`openglip.convert`: from an official checkpoint to safetensors and back, with every tensor bit-equal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openglip.errors import ConfigError, WeightsError
from openglip.files import StrPath
from openglip.weights.files import Checkpoint, read_checkpoint, write_official, write_safetensors
from openglip.weights.keys import from_official, official_model, to_official
from openglip.weights.load import build_model, load_state
from openglip.weights.records import BY_FILE


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """A converted checkpoint; its text form is a sentence about it.

    Attributes:
        path: The written file.
        model: Name of the model; None in an official file, which does not contain it.
        tensors: Number of tensors.
        dropped: Entries of the official file that the model computes by itself or does not use.
    """

    path: Path
    model: str | None
    tensors: int
    dropped: int = 0

    def __str__(self) -> str:
        if self.model is None:
            return f"{self.path}: official container with {self.tensors} tensors"
        note = f"; {self.dropped} entries that the model computes by itself or does not use were left out"
        return f"{self.path}: {self.tensors} tensors of {self.model}{note if self.dropped else ''}"


def convert(
    source: StrPath, target: StrPath, *, model: str | None = None, averaged: bool = False
) -> ConvertedCheckpoint:
    """Convert an official checkpoint to safetensors, or one of ours to an official file.

    Args:
        source: The checkpoint to read.
        target: The file to write; its ending decides the direction: .safetensors (ours) or .pth (official).
        model: The architecture of an official file; not needed if the file has the name under which it was released.
        averaged: Take the moving average of an official training checkpoint.

    Returns:
        What was written.

    Raises:
        ConfigError: The names do not fit, or the model of an official file is not known.
        WeightsError: The checkpoint is damaged or does not fit the model.
    """
    target = Path(target)
    if target.suffix not in (".safetensors", ".pth"):
        raise ConfigError(f"{target}: the name must end in .safetensors (ours) or .pth (official)")
    checkpoint = read_checkpoint(source, averaged=averaged)
    if target.resolve() == checkpoint.path.resolve():
        raise ConfigError(f"{target} is the file to convert: give another name for the result")
    if not target.parent.is_dir():
        raise ConfigError(f"the folder {target.parent} does not exist: make it first")
    if target.suffix == ".pth":
        return _to_official_file(checkpoint, target)
    return _to_safetensors(checkpoint, target, model)


def _to_safetensors(checkpoint: Checkpoint, target: Path, model: str | None) -> ConvertedCheckpoint:
    if checkpoint.official:
        name = model or official_model(checkpoint.path)
        state, dropped = from_official(checkpoint.state)
    else:
        name, state, dropped = str(checkpoint.info["model"]), checkpoint.state, []
        if model not in (None, name):
            raise ConfigError(f"{checkpoint.path} holds a {name}, not a {model}: leave --model out")
    load_state(build_model(name), state, str(checkpoint.path))  # a file of another model should fail here, not in use
    write_safetensors(target, state, checkpoint.info or _official_info(name, checkpoint.path))
    return ConvertedCheckpoint(target, name, len(state), len(dropped))


def _to_official_file(checkpoint: Checkpoint, target: Path) -> ConvertedCheckpoint:
    if checkpoint.official:
        state = from_official(checkpoint.state)[0]
    elif str(checkpoint.info.get("model")) == "nano":
        raise WeightsError(
            f"{checkpoint.path} holds nano, which the official code can't build; only GLIP and DyHead can"
        )
    else:
        state = checkpoint.state
    official = to_official(state)
    write_official(target, official)
    return ConvertedCheckpoint(target, None, len(official))


def _official_info(model: str, path: Path) -> dict[str, Any]:
    """Metadata for weights of an official file."""
    record = BY_FILE.get(path.name)
    if record is None:
        return {"model": model, "source": path.name}
    return {
        "model": model,
        "source": f"{record.hub}/{record.file}",
        "licence": record.licence,
        "training_data": list(record.training_data),
        "figures": [vars(figure) for figure in record.figures],
    }
