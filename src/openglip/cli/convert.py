"""`openglip convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="An official .pth, or a .safetensors of openglip.")],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write; .safetensors or .pth decides the direction.")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Model of an official file, for instance glip-t; not needed for a released name."),
    ] = None,
    averaged: Annotated[
        bool, typer.Option("--averaged", help="Take the moving average of an official training checkpoint.")
    ] = False,
) -> None:
    """Convert an official checkpoint to safetensors or back; every tensor stays bit-equal."""
    import openglip

    typer.echo(openglip.convert(source, target, model=model, averaged=averaged))
