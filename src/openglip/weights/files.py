"""Checkpoint files: official containers and our safetensors, read without running code, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from openglip.errors import WeightsError
from openglip.files import StrPath, whole_path
from openglip.weights.keys import current_keys
from openglip.weights.metadata import FORMAT_VERSION, damaged, locate, parse_info

# What torch.load raises for bytes that are no checkpoint, besides UnpicklingError, by which it refuses code.
_LOAD_ERRORS = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        state: The tensors by key, on the CPU.
        info: The metadata of a file that openglip wrote; empty for official files.
        path: The file.
    """

    state: dict[str, Tensor]
    info: dict[str, Any]
    path: Path

    @property
    def official(self) -> bool:
        """Whether the file is without our metadata, so that its keys are the official ones."""
        return not self.info


def read_checkpoint(path: StrPath, *, averaged: bool = False) -> Checkpoint:
    """Read a `.safetensors` or an official `.pth` file, told apart by content. No code in it is run.

    Args:
        path: The file, or the folder of a finished training run.
        averaged: Take the moving average ("model_ema") of an official training checkpoint instead of its weights.

    Raises:
        WeightsNotFoundError: There is no such file.
        WeightsError: The file is cut short, damaged, no checkpoint, or contains code.
    """
    path = locate(path)
    with path.open("rb") as file:
        head = file.read(64)
    if head[8:9] == b"{":  # after the header's length, which may be any eight bytes, so this is the first check
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":  # a zip file, or a pickle as before torch 1.6
        return Checkpoint(_official_state(_load_pickle(path), path, averaged), {}, path)
    raise WeightsError(f"{path} is not a checkpoint: {_guess(path, head)}")


def write_safetensors(path: StrPath, state: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write a safetensors file, whole or not at all.

    Args:
        path: The file to write.
        state: The tensors by key.
        info: JSON values for the metadata; "model" names the architecture.
    """
    document = json.dumps({**info, "format": FORMAT_VERSION}, ensure_ascii=False)
    # The format stores the bytes of each key, so tensors that share memory are copied.
    storages: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        tensors[key] = value.clone() if value.untyped_storage().data_ptr() in storages else value
        storages.add(tensors[key].untyped_storage().data_ptr())
    with whole_path(path) as part:
        part.touch()
        mode = part.stat().st_mode
        save_file(tensors, part, metadata={"format": "pt", "openglip": document})
        part.chmod(mode)  # the library creates files that only their owner can read


def write_official(path: StrPath, state: Mapping[str, Tensor]) -> None:
    """Write an official container, {"model": state}, whole or not at all."""
    with whole_path(path) as part:
        torch.save({"model": dict(state)}, part)


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's parameters and buffers, whatever file they came from.

    Reports and labelling manifests contain it, so that they can be traced to the same weights.

    Args:
        state: A state dict, in any order.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _load_pickle(path: Path) -> object:
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "nsupported" in line or "lobal" in line), str(error))
        raise WeightsError(
            f"{path} is refused: it holds more than tensors and plain values, and loading that could run code; nothing "
            f"of it was run ({reason.strip()[:160]}). Take the file from its origin, or save its state dict alone"
        ) from error
    except _LOAD_ERRORS as error:
        raise damaged(path, error) from error


def _official_state(content: object, path: Path, averaged: bool) -> dict[str, Tensor]:
    """State dict of a container {"model": ...}, of one with only an averaged copy, or a bare one."""
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a state dict")
    names = ("model_ema",) if averaged else ("model", "model_ema")
    name = next((key for key in names if isinstance(content.get(key), Mapping)), None)
    if averaged and name is None:
        raise WeightsError(f"{path} holds no averaged copy (model_ema); it holds: {', '.join(map(str, content))[:200]}")
    state = content if name is None else content[name]
    if not state:
        raise WeightsError(f"{path} holds no tensors: its state dict is empty")
    others = [str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise WeightsError(
            f"{path} is not a checkpoint that openglip can read: it has no entry 'model', and these entries are no "
            f"tensors: {', '.join(others[:5])}{more}. Give a state dict, or a container with it as 'model'"
        )
    return dict(state)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            info = parse_info(file.metadata(), path)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return Checkpoint(current_keys(state, info.get("model"), info.get("format", 0)), info, path)
    except SafetensorError as error:
        raise damaged(path, error) from error


def _guess(path: Path, head: bytes) -> str:
    """What a file that is no checkpoint seems to be, in words."""
    if not head:
        return "the file is empty; get it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, the file itself was not fetched: git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, probably saved in place of the file; get it again"
    return f"it starts with {head[:8]!r}; a .pth (torch.save) or .safetensors file is needed"
