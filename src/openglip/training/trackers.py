"""Copies of a run's figures for TensorBoard or Weights & Biases; the JSON lines stay the record."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from openglip.errors import ConfigError, MissingExtraError

Track = Callable[[str, int, Mapping[str, Any]], None]
"""Takes what kind of line it is ("train", "evaluation"), the step, and the line."""


def trackers(names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> list[Track]:
    """Open trackers by name. Raises ConfigError for an unknown one, MissingExtraError without its package."""
    known = {"tensorboard": _tensorboard, "wandb": _wandb}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no tracker {name!r}: {', '.join(known)}")
    return [known[name](folder, settings) for name in names]


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
    kept = folder / "wandb-id"  # of this run alone, the same after a resume
    if not kept.is_file():
        kept.write_text(uuid.uuid4().hex)
    run = wandb.init(
        dir=str(folder), config=dict(settings), resume="allow", id=kept.read_text(), name=folder.resolve().name
    )

    def track(kind: str, step: int, line: Mapping[str, Any]) -> None:
        run.log({f"{kind}/{name}": value for name, value in _numbers(line).items()}, step=step)

    return track
