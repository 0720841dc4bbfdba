"""A run's figures in TensorBoard or Weights & Biases, in addition to its JSON lines."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openglip.errors import ConfigError, MissingExtraError

Track = Callable[[str, int, Mapping[str, Any]], None]
"""Receives the kind of a line ("train", "evaluation"), its step, and the line."""


def trackers(names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> list[Track]:
    """Open trackers by name.

    Args:
        names: "tensorboard", "wandb".
        folder: Of the run.
        settings: Of the run, for trackers that show them.

    Raises:
        ConfigError: There is no such tracker.
        MissingExtraError: Its package is not installed.
    """
    available = {"tensorboard": _tensorboard, "wandb": _wandb}
    for name in names:
        if name not in available:
            raise ConfigError(f"there is no tracker {name!r}: {', '.join(available)}")
    return [available[name](folder, settings) for name in names]


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if isinstance(value, int | float) and key != "step"}


def _tensorboard(folder: Path, settings: Mapping[str, Any]) -> Track:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train", "the tracker tensorboard") from error
    writer = SummaryWriter(str(folder / "tensorboard"))

    def track(kind: str, step: int, line: Mapping[str, Any]) -> None:
        for name, value in _numbers(line).items():
            writer.add_scalar(f"{kind}/{name}", value, step)
        if kind == "evaluation":
            writer.flush()

    return track


def _wandb(folder: Path, settings: Mapping[str, Any]) -> Track:
    try:
        import wandb  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingExtraError("wandb", "wandb", "the tracker wandb") from error
    id_file = folder / "wandb-id"  # the id stays the same after a resume
    if not id_file.is_file():
        id_file.write_text(uuid.uuid4().hex)
    run = wandb.init(
        dir=str(folder), config=dict(settings), resume="allow", id=id_file.read_text(), name=folder.resolve().name
    )

    def track(kind: str, step: int, line: Mapping[str, Any]) -> None:
        run.log({f"{kind}/{name}": value for name, value in _numbers(line).items()}, step=step)

    return track
