"""`openglip data`: check a data set, convert it, draw what the model will see of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openglip.cli.options import Images, Json, Quiet
from openglip.cli.terminal import message, print_json, print_table, printable
from openglip.errors import ConfigError

if TYPE_CHECKING:
    from openglip.data import Finding

data_app = typer.Typer(no_args_is_help=True, help="Check, convert and draw data sets of any format.")

DataPath = Annotated[Path, typer.Argument(metavar="PATH", help="Annotation file, or folder of a data set.")]
Format = Annotated[str | None, typer.Option(metavar="NAME", help="Format, where PATH does not tell it.")]


@data_app.command("check")
def check_command(
    path: DataPath,
    format: Format = None,
    images: Images = None,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A further split that must not share images; repeat it."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Look for faults in annotations, images, names and between splits. Exit status 1 when there are any."""
    from openglip.data import check

    _must_exist(path, images)
    report = check(path, format=format, images=images, against=_named_paths(against or []))
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in report.findings]
        print_json({"findings": findings, "counts": report.counts})
    else:
        _print_findings(report.findings)
        _message(quiet, ", ".join(f"{number} {kind}" for kind, number in report.counts.items()))
    raise typer.Exit(1 if report.findings else 0)


@data_app.command("convert")
def convert_command(
    path: DataPath,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="File (.json: COCO, .jsonl: ODVG) or folder to write.")],
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="Format of OUT, where it does not tell it: yolo, voc, ...")
    ] = None,
    source_format: Annotated[
        str | None, typer.Option("--from", metavar="NAME", help="Format of PATH, where it does not tell it.")
    ] = None,
    images: Images = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a data set in another format, and report what that format can't hold."""
    from openglip.data import convert

    _must_exist(path, images)
    done = convert(path, output, format=format, source_format=source_format, images=images)
    if as_json:
        print_json(dataclasses.asdict(done))
    else:
        _print_findings(done.findings)
        _message(quiet, f"{done.samples} samples written to {', '.join(done.written.values())}")
        for kind, number in done.lost.items():
            _message(quiet, f"the format can't hold: {kind.replace('_', ' ')} ({number})")
        for kind, number in done.left_out.items():
            _message(quiet, f"left out or changed: {kind.replace('_', ' ')} ({number})")
    raise typer.Exit(1 if done.findings else 0)


@data_app.command("render")
def render_command(
    path: DataPath,
    format: Format = None,
    images: Images = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pictures.")] = Path("openglip-output"),
    number: Annotated[int, typer.Option(min=1, metavar="N", help="Pictures per split.")] = 8,
    seed: Annotated[int, typer.Option(help="Which samples, and which absent names.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw images with their prompt, its phrases in the colours of their boxes, as the model will see them."""
    from openglip.data import render

    _must_exist(path, images)
    rendered = render(path, output, format=format, images=images, number=number, seed=seed)
    failed = 0
    for one in rendered:
        if one.error is not None:
            failed += 1
            _message(False, f"{one.split}, {one.id}: {one.error}")
        elif not as_json:
            typer.echo(printable(one.file))
    if as_json:
        print_json({"pictures": [dataclasses.asdict(one) for one in rendered]})
    _message(quiet, f"{len(rendered) - failed} pictures in {output}")
    raise typer.Exit(1 if failed else 0)


def _print_findings(findings: Sequence[Finding]) -> None:
    if findings:
        rows = ((finding.kind, finding.file, finding.id, finding.message) for finding in findings)
        print_table(("kind", "file", "id", "message"), rows)


def _named_paths(against: list[str]) -> dict[str, Path]:
    named = {}
    for item in against:
        name, equals, path = item.partition("=")
        if not equals or not name or not Path(path).exists():
            raise ConfigError(f"--against {item}: give NAME=PATH with a path that is there")
        if name in named:
            raise ConfigError(f"--against {item}: {name} is given twice, give each split its own name")
        named[name] = Path(path)
    return named


def _must_exist(path: Path, images: Path | None) -> None:
    for given in (path, images):
        if given is not None and not given.exists():
            raise ConfigError(f"{given}: there is no such file or folder")


def _message(quiet: bool, text: str) -> None:
    if not quiet:
        message(text)
