"""`openglip data`: check a data set, convert it, draw what the model will see of it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from openglip.errors import ConfigError

data_app = typer.Typer(no_args_is_help=True, help="Check, convert and draw data sets of fifteen formats.")

Place = Annotated[Path, typer.Argument(metavar="PATH", help="Annotation file, or folder of a data set.")]
Format = Annotated[str | None, typer.Option(metavar="NAME", help="Format, where PATH does not tell it.")]
Images = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder or tar of the pictures.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No messages on stderr.")]


@data_app.command("check")
def check_command(
    path: Place,
    format: Format = None,
    images: Images = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A further split that must not share pictures; repeat it."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for faults in annotations, pictures, names and between splits. Exit status 1 when there are any."""
    from openglip.data.check import check

    _must_exist(path, images)
    report = check(path, format=format, images=images, against=_named(against or []))
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in report.findings]
        typer.echo(json.dumps({"findings": findings, "counts": report.counts}, ensure_ascii=False))
    else:
        _print_findings(report.findings)
        _say(quiet, ", ".join(f"{number} {kind}" for kind, number in report.counts.items()))
    raise typer.Exit(1 if report.findings else 0)


@data_app.command("convert")
def convert_command(
    path: Place,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File (.json: COCO, .jsonl: ODVG) or folder to write.")],
    format: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Format of OUT: coco, odvg, yolo, voc, webdataset, label-studio."),
    ] = None,
    source_format: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="Format of PATH, where it does not tell it.")
    ] = None,
    images: Images = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a data set in another format, and say what that format can't hold."""
    from openglip.data.convert import convert

    _must_exist(path, images)
    done = convert(path, out, format=format, source_format=source_format, images=images)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(done), ensure_ascii=False))
    else:
        _print_findings(done.findings)
        _say(quiet, f"{done.samples} samples written to {', '.join(done.written.values())}")
        for kind, number in done.lost.items():
            _say(quiet, f"the format can't hold: {kind.replace('_', ' ')} ({number})")
        for kind, number in done.left_out.items():
            _say(quiet, f"left out or changed: {kind.replace('_', ' ')} ({number})")
    raise typer.Exit(1 if done.findings else 0)


@data_app.command("render")
def render_command(
    path: Place,
    format: Format = None,
    images: Images = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pictures.")] = Path("openglip-output"),
    number: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures per split.")] = 8,
    seed: Annotated[int, typer.Option(help="Which samples, and which absent names.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw pictures with their prompt, its phrases in the colours of their boxes, as the model will see them."""
    from openglip.data.render import render_splits

    _must_exist(path, images)
    written, failed = [], 0
    for drawn in render_splits(path, output, format=format, images=images, number=number, seed=seed):
        written.append(dataclasses.asdict(drawn))
        failed += drawn.error is not None
        if drawn.error is not None:
            _say(False, f"{drawn.split}, {drawn.id}: {drawn.error}")
        elif not as_json:
            typer.echo(drawn.file)
    if as_json:
        typer.echo(json.dumps({"pictures": written}, ensure_ascii=False))
    _say(quiet, f"{len(written) - failed} pictures in {output}")
    raise typer.Exit(1 if failed else 0)


def _print_findings(findings: list) -> None:
    if not findings:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("kind", "file", "id", "message")
    for finding in findings:
        table.add_row(
            finding.kind, *(Text(str(v), overflow="fold") for v in (finding.file, finding.id, finding.message))
        )
    Console().print(table)


def _named(against: list[str]) -> dict[str, Path]:
    named = {}
    for item in against:
        name, equals, place = item.partition("=")
        if not equals or not name or not Path(place).exists():
            raise ConfigError(f"--against {item}: give NAME=PATH with a path that is there")
        if name in named:
            raise ConfigError(f"--against {item}: {name} is given twice, give each split its own name")
        named[name] = Path(place)
    return named


def _must_exist(path: Path, images: Path | None) -> None:
    for given in (path, images):
        if given is not None and not given.exists():
            raise ConfigError(f"{given}: there is no such file or folder")


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        sys.stderr.write(text + "\n")
