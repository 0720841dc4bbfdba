"""Options that several commands have, and the line that shows their progress."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from openglip import runtime

Model = Annotated[
    str, typer.Option(metavar="NAME|PATH", help="A model's name (see `openglip models`) or a checkpoint.")
]
Weights = Annotated[str | None, typer.Option(metavar="FILE", help="Checkpoint for --model; 'random' for timing.")]
Images = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Folder or tar of the images.")]
ShortSide = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="Short side of the resized image. Default: the model's own.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[runtime.Precision, typer.Option(help="auto: bf16 where the device is fast at it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No messages and no progress on stderr.")]


def show_progress(progress: runtime.Progress) -> None:
    """Write how far a command is to stderr, on a terminal always in the same line."""
    text = f"{progress.message}: " if progress.message else ""
    text += f"{progress.done} of {progress.total} {progress.unit}"
    figures = dict(progress.figures)
    seconds, seconds_left = figures.pop("seconds", 0), figures.pop("seconds_left", None)
    for name, count in figures.items():
        text += f", {count:g} {name}" + (f", {count / seconds:.1f} per second" if seconds else "")
    if seconds_left is not None:
        text += f", {_duration(seconds_left)} left"
    sys.stderr.write(f"\r{text:<79}" if sys.stderr.isatty() else f"{text}\n")
    sys.stderr.flush()


def end_progress() -> None:
    """Begin a new line after the last one of `show_progress`."""
    if sys.stderr.isatty():
        sys.stderr.write("\n")


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{round(seconds)} s"
