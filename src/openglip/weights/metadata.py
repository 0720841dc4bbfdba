"""Paths and metadata of checkpoint files, read without torch and without the tensors."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from openglip.errors import WeightsError, WeightsNotFoundError
from openglip.files import StrPath
from openglip.weights.hub import cached, embedded_file
from openglip.weights.records import WeightsRecord

FORMAT_VERSION = 2  # 2: other keys of `nano`
RUN_FILE = "model.safetensors"


def locate(path: StrPath) -> Path:
    """The checkpoint at a path: the file itself, or the weights of a finished training run if it is a folder.

    Raises:
        WeightsNotFoundError: There is no such file, or the run is not finished.
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        file = path / RUN_FILE
        if file.is_file():
            return file
        started = (path / "recipe.json").is_file()
        advice = f"finish it with: openglip train --resume {path}" if started else "give the checkpoint's file"
        kind = "is a training run that is not finished" if started else "is a folder"
        raise WeightsNotFoundError(f"{path} {kind} and holds no {RUN_FILE}: {advice}")
    if not path.is_file():
        raise WeightsNotFoundError(f"there is no checkpoint at {path}: give the path of a .pth or .safetensors file")
    return path


def read_info(path: StrPath) -> dict[str, Any]:
    """Metadata of a safetensors file that openglip wrote; empty for any other file.

    Raises:
        WeightsNotFoundError: There is no such file.
        WeightsError: The file is damaged or of a newer format.
    """
    path = locate(path)
    with path.open("rb") as file:
        if file.read(9)[8:9] != b"{":
            return {}
    try:
        with safe_open(path, framework="np") as file:
            return parse_info(file.metadata(), path)
    except SafetensorError as error:
        raise damaged(path, error) from error


def parse_info(metadata: Mapping[str, str] | None, path: Path) -> dict[str, Any]:
    """The part of a safetensors file's metadata that openglip wrote; empty if there is none.

    Raises:
        WeightsError: It is damaged or of a newer format.
    """
    if not metadata or "openglip" not in metadata:
        return {}
    try:
        info = json.loads(metadata["openglip"])
    except json.JSONDecodeError as error:
        raise WeightsError(
            f"{path}: its metadata does not parse ({error}); the file is damaged, get it again"
        ) from error
    version = info.get("format") if isinstance(info, dict) else None
    if not isinstance(version, int):
        raise WeightsError(f"{path}: its metadata has no format version; the file is damaged, get it again")
    if version > FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format {version}, this openglip reads up to {FORMAT_VERSION}: pip install --upgrade openglip"
        )
    return info


def damaged(path: Path, error: Exception) -> WeightsError:
    """The error for a file that can't be read."""
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return WeightsError(
        f"{path} can't be read: it is cut short, damaged or no checkpoint ({path.stat().st_size:,} bytes; {reason}). "
        "Get the file again; `openglip models verify NAME` checks a download"
    )


def weights_state(record: WeightsRecord) -> str:
    """Where the weights of a model are, in words."""
    if record.random:
        return "random, fixed"
    if record.embedded:
        return "embedded" if all(embedded_file(name).is_file() for name in record.embedded) else "missing"
    if record.hub is None:
        return "none released"
    return "on this machine" if cached(record) else "to download"


def model_card(record: WeightsRecord) -> dict[str, Any]:
    """Everything known about a model and its weights, as JSON values.

    Licence, training data and figures of embedded weights are those of their metadata.
    """
    card: dict[str, Any] = dataclasses.asdict(record)
    path = cached(record)
    card |= {"state": weights_state(record), "path": str(path) if path else None}
    if card["state"] == "embedded":
        files = [embedded_file(name) for name in record.embedded]
        card["path"] = str(files[0].parent)
        for info in map(read_info, files):
            card |= {key: info[key] for key in ("training_data", "licence", "figures") if key in info}
    return card
