"""`openglip convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Official .pth, or our .safetensors.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Name of the result: .safetensors or .pth decides.")],
    model: Annotated[
        str | None,
        typer.Option(help="Architecture of an official file, as glip-t; not needed for a released name."),
    ] = None,
    averaged: Annotated[
        bool, typer.Option("--averaged", help="Take the moving average of an official training checkpoint.")
    ] = False,
) -> None:
    """Convert an official checkpoint to safetensors and back, bit by bit."""
    from openglip.weights.convert import convert as run

    typer.echo(run(source, target, model=model, averaged=averaged))
