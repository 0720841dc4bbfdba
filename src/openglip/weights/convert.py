"""`openglip convert`: an official checkpoint to our safetensors and back, every tensor bit-equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openglip.errors import ConfigError, WeightsError
from openglip.weights.files import Checkpoint, read_checkpoint, write_official, write_safetensors
from openglip.weights.keys import from_official, official_model, to_official
from openglip.weights.load import build_model, load_state
from openglip.weights.records import BY_FILE


def convert(source: str | Path, target: str | Path, *, model: str | None = None, averaged: bool = False) -> str:
    """Convert an official checkpoint to `.safetensors`, or one of ours to an official `.pth`; the name's end decides.

    model: the architecture of an official file; not needed when the file has its released name.
    averaged: take the moving average of an official training checkpoint.
    Returns what was done, in one sentence. Raises WeightsError and ConfigError.
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
        return _write_official(checkpoint, target)
    return _write_own(checkpoint, target, model)


def _write_own(checkpoint: Checkpoint, target: Path, model: str | None) -> str:
    if checkpoint.official:
        name = model or official_model(checkpoint.path)
        state, dropped = from_official(checkpoint.state)
    else:
        name, state, dropped = str(checkpoint.info["model"]), checkpoint.state, []
        if model not in (None, name):
            raise ConfigError(f"{checkpoint.path} holds a {name}, not a {model}: leave --model out")
    load_state(build_model(name), state, str(checkpoint.path))  # a file of another model must fail here, not when used
    write_safetensors(target, state, checkpoint.info or card(name, checkpoint.path))
    note = (
        f"; {len(dropped)} entries that the model computes by itself or does not use were left out" if dropped else ""
    )
    return f"{target}: {len(state)} tensors of {name}{note}"


def _write_official(checkpoint: Checkpoint, target: Path) -> str:
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
    return f"{target}: official container with {len(official)} tensors"


def card(model: str, path: Path) -> dict[str, Any]:
    """Metadata for weights that came from an official file."""
    record = BY_FILE.get(path.name)
    if record is None:
        return {"model": model, "source": path.name}
    return {
        "model": model,
        "source": f"{record.hub}/{record.file}",
        "licence": record.licence,
        "data": list(record.data),
        "figures": [vars(figure) for figure in record.figures],
    }
