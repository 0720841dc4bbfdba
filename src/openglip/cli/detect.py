"""`openglip detect` and `openglip ground`."""

from __future__ import annotations

import gc
import glob
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openglip.cli.output import Output
from openglip.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from rich.console import Console

    from openglip.structures.detections import Detections

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")

Images = Annotated[
    list[str], typer.Argument(metavar="IMAGES...", help="Files, folders (with their sub-folders), or quoted globs.")
]
Model = Annotated[str, typer.Option(help="A model's name (see `openglip models`), or a checkpoint's path.")]
Weights = Annotated[str | None, typer.Option(metavar="FILE", help="Checkpoint for --model; 'random' for timing.")]
Threshold = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|FILE.json",
        help="Least score of a box, 0 to 1; a json file may hold {name: number}. Default: the model's own.",
    ),
]
OutputFolder = Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder of the results.")]
Format = Annotated[Literal["jsonl", "coco", "csv", "label-studio"], typer.Option(help="Format of the results.")]
NoPictures = Annotated[bool, typer.Option("--no-pictures", help="Write no annotated pictures.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON per image instead of the table.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No messages and no progress on stderr.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[Literal["fp32", "bf16", "auto"], typer.Option(help="auto: bf16 where the device is fast at it.")]


@dataclass(frozen=True)
class _Job:
    """What `detect` and `ground` share."""

    images: list[str]
    model: str
    weights: str | None
    device: str
    precision: Literal["fp32", "bf16", "auto"]
    threshold: str | None
    output: Path
    form: str
    pictures: bool
    as_json: bool
    quiet: bool


def detect(
    images: Images,
    prompt: Annotated[
        str | None, typer.Option(help='Names in one text, parted at full stops and commas: "cat. remote control".')
    ] = None,
    category: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One name as it is; repeat it.")] = None,
    categories: Annotated[Path | None, typer.Option(metavar="FILE", help="A file with one name a line.")] = None,
    model: Model = "nano",
    weights: Weights = None,
    threshold: Threshold = None,
    output: OutputFolder = Path("openglip-output"),
    format: Format = "jsonl",
    no_pictures: NoPictures = False,
    as_json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Find every object that the names name, on photos.

    Example: openglip detect street.jpg --prompt "person. traffic light"
    """
    names = _names(prompt, category, categories)
    job = _Job(images, model, weights, device, precision, threshold, output, format, not no_pictures, as_json, quiet)
    _run(job, {"categories": names})


def ground(
    images: Images,
    caption: Annotated[str, typer.Option(help="A sentence about the photos.")],
    phrase: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A part of the caption to find; repeat it. Default: its noun phrases."),
    ] = None,
    model: Model = "nano",
    weights: Weights = None,
    threshold: Threshold = None,
    output: OutputFolder = Path("openglip-output"),
    format: Format = "jsonl",
    no_pictures: NoPictures = False,
    as_json: Json = False,
    quiet: Quiet = False,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> None:
    """Find what the phrases of a sentence speak of, on photos.

    Example: openglip ground street.jpg --caption "a woman in a red coat crosses the road"
    """
    job = _Job(images, model, weights, device, precision, threshold, output, format, not no_pictures, as_json, quiet)
    _run(job, {"captions": caption, "phrases": phrase or None})


def _run(job: _Job, words: dict[str, Any]) -> None:
    """Detect on every image, write and print; exit status 1 when an image failed."""
    threshold = _threshold(job.threshold)
    sources = list(expand(job.images, job.output))
    if job.quiet:
        warnings.simplefilter("ignore")
    import openglip  # late: brings torch
    from openglip.runtime import no_collection

    with no_collection():
        detector = openglip.load(job.model, job.weights, device=job.device, precision=job.precision)
        gc.freeze()  # later collections would find nothing among torch's objects either
    found = detector.stream(sources, **words, threshold=threshold, on_error="record")
    failed = boxes = 0
    with Output(job.output, job.form, pictures=job.pictures) as out, _progress(len(sources), job.quiet) as bar:
        console, advance = bar
        for result in found:
            problem = out.add(result)
            if error := result.error or problem:
                failed += 1
                sys.stderr.write(f"error: {error}\n")
            boxes += len(result)
            if job.as_json:
                sys.stdout.write(result.to_json() + "\n")
                sys.stdout.flush()
            else:
                _show(result, console)
            advance()
    if not job.quiet:
        pictures = f", pictures in {out.folder}" if job.pictures and failed < len(sources) else ""
        sys.stderr.write(f"{len(sources)} images, {boxes} boxes, {failed} failed: {out.path}{pictures}\n")
    if failed:
        raise typer.Exit(1)


def expand(images: Sequence[str], output: Path | None = None) -> Iterator[str]:
    """Paths of all images: files as they are, pictures of folders by name, matches of globs by name.

    output: folder whose annotated pictures are no input, unless named one by one: they are of an earlier run.
    What does not exist stays in, so that it is reported in its place. Raises ConfigError for a folder without pictures.
    """

    def ours(path: Path) -> bool:
        return output is not None and path.name.endswith(".boxes.jpg") and path.parent.resolve() == output.resolve()

    for item in images:
        path = Path(item)
        if os.path.isdir(item):
            inside = sorted(
                str(p) for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and not ours(p)
            )
            if not inside:
                raise ConfigError(f"the folder {item} holds no picture ({', '.join(SUFFIXES)})")
            yield from inside
        elif os.path.exists(item) or "://" in item or not glob.has_magic(item):
            yield item
        else:
            yield from sorted(p for p in glob.glob(item, recursive=True) if not ours(Path(p))) or [item]


def _names(prompt: str | None, category: list[str] | None, file: Path | None) -> list[str]:
    """The categories, given in exactly one of three ways."""
    given = [option for option in (prompt, category, file) if option]
    if len(given) != 1:
        raise typer.BadParameter("give the names by one of --prompt, --category (repeated) or --categories FILE")
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PromptError(f"--categories {file} can't be read as text with one name a line: {error}") from error
        category = [line for line in lines if line.strip()]
        if not category:
            raise PromptError(f"--categories {file} holds no name: write one a line")
    if category:
        return category
    from openglip.prompts.text import parse_names

    names = parse_names(prompt or "")
    if not names:
        raise PromptError(f"--prompt {prompt!r} holds no name: write for instance 'cat. remote control'")
    return names


def _threshold(text: str | None) -> Any:
    """A number, or what a json file holds; what names it may have is checked against the words later."""
    if text is None:
        return None
    try:
        value: Any = float(text)
    except ValueError:
        try:
            value = json.loads(Path(text).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = f"is neither a number nor a json file that can be read: {error}"
            raise ConfigError(f"--threshold {text!r} {reason}") from error
    numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
            form = "0.5, or in a file also [0.5, ...] or {name: 0.5}"
            raise ConfigError(f"--threshold {text}: {number!r} is not a number from 0 to 1; write {form}")
    return value


def _show(found: Detections, console: Console) -> None:
    """Print the boxes of one image."""
    from rich.markup import escape
    from rich.table import Table

    if found.error is not None or found.image_size is None:
        return
    height, width = found.image_size
    nothing = "" if len(found) else ": nothing found"
    console.print(f"[bold]{escape(str(found.source))}[/]  {width} x {height}{nothing}", soft_wrap=True)
    if not len(found):
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", overflow="fold")
    for column in ("score", "x1", "y1", "x2", "y2"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found:
        table.add_row(escape(one.name), f"{one.score:.3f}", *(f"{side:.1f}" for side in one.box))
    console.print(table)


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[tuple[Console, Callable[[], None]]]:
    """Where tables go, and what to call after each image.

    More than one image have a bar on stderr when it is a terminal. Where stdout is that terminal too, tables are
    printed by way of the bar, which else would be drawn over them.
    """
    from rich.console import Console

    results = Console(highlight=False)
    if quiet or total < 2 or not sys.stderr.isatty():
        yield results, lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shared = sys.stdout.isatty()
    with Progress(
        *columns, console=Console(stderr=True, highlight=False), redirect_stdout=shared, transient=True
    ) as bar:
        task = bar.add_task("images", total=total)
        yield bar.console if shared else results, lambda: bar.advance(task)
