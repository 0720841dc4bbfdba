"""Checkpoints on disk: official containers and our own safetensors, read without running code, written whole."""

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

from openglip.errors import WeightsError, WeightsNotFoundError
from openglip.files import whole_path
from openglip.weights.keys import current_keys

FORMAT_VERSION = 2  # 2: other keys of `nano`
RUN_FILE = "model.safetensors"

# What torch.load raises for bytes that are no checkpoint, besides its own refusal of code (UnpicklingError).
_DAMAGE = (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Checkpoint:
    """state: key -> tensor on the CPU; info: metadata of our own files, empty for official ones."""

    state: dict[str, Tensor]
    info: dict[str, Any]
    path: Path

    @property
    def official(self) -> bool:
        """True for a file without our metadata: its keys are the official ones."""
        return not self.info


def locate(path: str | Path) -> Path:
    """The checkpoint's file: `path` itself, or the weights of a finished training run when it is a folder.

    Raises WeightsNotFoundError.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        file = path / RUN_FILE
        if file.is_file():
            return file
        started = (path / "recipe.json").is_file()
        way_out = f"finish it with: openglip train --resume {path}" if started else "give the checkpoint's file"
        what = "is a training run that is not finished" if started else "is a folder"
        raise WeightsNotFoundError(f"{path} {what} and holds no {RUN_FILE}: {way_out}")
    if not path.is_file():
        raise WeightsNotFoundError(f"there is no checkpoint at {path}: give the path of a .pth or .safetensors file")
    return path


def read_checkpoint(path: str | Path, *, averaged: bool = False) -> Checkpoint:
    """Tensors and metadata of a `.safetensors` or an official `.pth` file, told apart by content.

    averaged: take the moving average ("model_ema") of an official training checkpoint instead of its weights.
    Nothing in the file is run. Raises WeightsError for files that are missing, cut short, foreign or hold code.
    """
    path = locate(path)
    with path.open("rb") as file:
        head = file.read(64)
    if head[8:9] == b"{":  # before it stands the header's length, any eight bytes: this is asked first
        return _read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":  # torch's zip, and the plain pickles before torch 1.6
        return Checkpoint(_official_state(_load_pickle(path), path, averaged), {}, path)
    raise WeightsError(f"{path} is not a checkpoint: {_guess(path, head)}")


def read_info(path: str | Path) -> dict[str, Any]:
    """Metadata of one of our files, without its tensors; empty for a file of another kind."""
    path = locate(path)
    with path.open("rb") as file:
        if file.read(9)[8:9] != b"{":
            return {}
    try:
        with safe_open(path, framework="pt") as file:
            return _parse_info(file.metadata(), path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def write_safetensors(path: str | Path, state: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write our own format: tensors as they are, `info` (JSON values; "model" names the architecture) as metadata.

    The file is there whole or not at all.
    """
    document = json.dumps({**info, "format": FORMAT_VERSION}, ensure_ascii=False)
    # Copies where tensors share memory: the format stores each key's bytes by itself.
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        tensors[key] = value.clone() if value.untyped_storage().data_ptr() in seen else value
        seen.add(tensors[key].untyped_storage().data_ptr())
    with whole_path(path) as part:
        part.touch()
        mode = part.stat().st_mode
        save_file(tensors, part, metadata={"format": "pt", "openglip": document})
        part.chmod(mode)  # the library makes files that only their owner can read


def write_official(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write an official container: {"model": state}. The file is there whole or not at all."""
    with whole_path(path) as part:
        torch.save({"model": dict(state)}, part)


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """A digest of a model's parameters and buffers, whatever file they came from.

    It stands in reports and in labelling manifests, so that both can be traced to the same weights.

    Args:
        state: A state dict; its order does not matter.
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
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _official_state(content: object, path: Path, averaged: bool) -> dict[str, Tensor]:
    """State dict of a container {"model": ...}, of one with only an averaged copy, or a bare one."""
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, not a state dict")
    wanted = ("model_ema",) if averaged else ("model", "model_ema")
    name = next((key for key in wanted if isinstance(content.get(key), Mapping)), None)
    if averaged and name is None:
        raise WeightsError(f"{path} holds no averaged copy (model_ema); it holds: {', '.join(map(str, content))[:200]}")
    state = content if name is None else content[name]
    if not state:
        raise WeightsError(f"{path} holds no tensors: its state dict is empty")
    strange = [str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strange:
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        raise WeightsError(
            f"{path} is not a checkpoint that is known here: it has no part named 'model', and these entries are no "
            f"tensors: {', '.join(strange[:5])}{more}. Give a state dict, or a container with it as 'model'"
        )
    return dict(state)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            info = _parse_info(file.metadata(), path)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return Checkpoint(current_keys(state, info.get("model"), info.get("format", 0)), info, path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _parse_info(metadata: Mapping[str, str] | None, path: Path) -> dict[str, Any]:
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


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
    return WeightsError(
        f"{path} can't be read: it is cut short, damaged or no checkpoint ({path.stat().st_size:,} bytes; {reason}). "
        "Get the file again; `openglip models verify NAME` checks a download"
    )


def _guess(path: Path, head: bytes) -> str:
    """What a foreign file seems to be, in words."""
    if not head:
        return "the file is empty; get it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, the file itself was not fetched: git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, probably saved in place of the file; get it again"
    return f"it starts with {head[:8]!r}; a .pth (torch.save) or .safetensors file is needed"
