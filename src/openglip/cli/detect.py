"""`openglip detect` and `openglip ground`."""

from __future__ import annotations

import gc
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openglip.cli.arguments import expand_records
from openglip.cli.options import Device, Model, Precision, Quiet, Weights
from openglip.cli.output import Output
from openglip.cli.terminal import message, open_console, printable
from openglip.errors import ConfigError, PromptError
from openglip.predict.options import DetectOptions

if TYPE_CHECKING:
    from rich.console import Console

    from openglip.structures.detections import Detections


@dataclass(frozen=True)
class Job:
    """What `detect` and `ground` have in common: images, model, output."""

    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES...", help="Files, folders (with their sub-folders), globs; - is stdin."),
    ] = None
    images_from: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="A file, or stdin, with the path of one image per line.")
    ] = None
    model: Model = "nano"
    weights: Weights = None
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|FILE.json",
            help="Least score of a box, 0 to 1; a JSON file may hold several. Default: the model's own.",
        ),
    ] = None
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")] = Path("openglip-output")
    format: Annotated[Literal["jsonl", "coco", "csv", "label-studio"], typer.Option(help="Format of the results.")] = (
        "jsonl"
    )
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Write no annotated pictures.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per image instead of the table.")] = (
        False
    )
    quiet: Quiet = False
    device: Device = "auto"
    precision: Precision = "fp32"


def detect(
    prompt: Annotated[
        str | None,
        typer.Option(
            help='Names in one text, separated by full stops, commas, semicolons or line breaks: "cat. remote control".'
        ),
    ] = None,
    category: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One name as it is; repeat it.")] = None,
    categories: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of names: one per line, JSON or YAML.")
    ] = None,
    *,
    job: Job,
    options: DetectOptions,
) -> None:
    """Find all objects of the given names in images.

    Example: openglip detect street.jpg --prompt "person. traffic light"
    """
    _run(job, options, categories=_names(prompt, category, categories))


def ground(
    caption: Annotated[str, typer.Option(help="A sentence about the images.")],
    phrase: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A phrase of the caption to find; repeat it. Default: its noun phrases."),
    ] = None,
    *,
    job: Job,
    options: DetectOptions,
) -> None:
    """Find the objects that the phrases of a sentence describe in images.

    Example: openglip ground street.jpg --caption "a woman in a red coat crosses the road"
    """
    _run(job, options, captions=caption, phrases=phrase or None)


# Images that fail are recorded, and `Job` has the threshold, which may also be a file.
DETECT_LEAVES_OUT = ("options.on_error", "options.threshold")
GROUND_LEAVES_OUT = (*DETECT_LEAVES_OUT, "options.chunk_size", "options.distractors")
detect_command = expand_records(detect, leave_out=DETECT_LEAVES_OUT)
ground_command = expand_records(ground, leave_out=GROUND_LEAVES_OUT)


def _run(job: Job, options: DetectOptions, **words: Any) -> None:
    """Detect in every image, write and print; exit status 1 if an image failed."""
    options = replace(options, threshold=_threshold(job.threshold), on_error="record")
    from openglip.cli.images import describe_left_out, find_images, read_list, read_pipe  # late: imports Pillow

    if not job.images and job.images_from is None:
        raise typer.BadParameter("give IMAGES, or --images-from FILE")
    sources, left_out = find_images(
        [*(job.images or ()), *(read_list(job.images_from) if job.images_from is not None else ())], job.output
    )
    pipes = [read_pipe(source) for source in sources]
    if job.quiet:
        warnings.simplefilter("ignore")
    import openglip  # late: imports torch
    from openglip.runtime import no_collection

    with no_collection():
        detector = openglip.load(job.model, job.weights, device=job.device, precision=job.precision)
        gc.freeze()  # later collections would find nothing among torch's objects either
    images = [pipe or source for pipe, source in zip(pipes, sources, strict=True)]
    results = detector.stream(images, **words, options=options)
    failed = boxes = 0
    pictures = not job.no_pictures
    with (
        Output(job.output, job.format, pictures=pictures) as output,
        _progress(len(sources), job.quiet) as (console, advance),
    ):
        for source, pipe, result in zip(sources, pipes, results, strict=True):
            result = replace(result, source=source) if pipe else result
            problem = output.add(result, pipe)
            if error := result.error or problem:
                failed += 1
                message(f"error: {error}")
            boxes += len(result)
            if job.as_json:
                sys.stdout.write(result.to_json() + "\n")
                sys.stdout.flush()
            else:
                _print(result, console)
            advance()
    if not job.quiet:
        folder = f", pictures in {output.folder}" if pictures and failed < len(sources) else ""
        done = f"{len(sources)} images, {boxes} boxes, {failed} failed: {output.path}{folder}"
        message(done + describe_left_out(left_out))
    if failed:
        raise typer.Exit(1)


def _names(prompt: str | None, category: list[str] | None, file: Path | None) -> list[str]:
    """The categories, which exactly one of three options gives."""
    if sum(bool(option) for option in (prompt, category, file)) != 1:
        raise typer.BadParameter("give the names by one of --prompt, --category (repeated) or --categories FILE")
    if file is not None:
        from openglip.data.files import read_names

        return read_names(file)
    if category:
        return category
    from openglip.prompts.text import parse_names

    names = parse_names(prompt or "")
    if not names:
        raise PromptError(f"--prompt {prompt!r} holds no name: write for instance 'cat. remote control'")
    return names


def _threshold(text: str | None) -> Any:
    """A number, or the content of a JSON file; `DetectOptions` checks it."""
    if text is None:
        return None
    try:
        value: Any = float(text)
    except ValueError:
        try:
            value = json.loads(Path(text).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            reason = f"is neither a number nor a readable JSON file: {error}"
            raise ConfigError(f"--threshold {text!r} {reason}") from error
    return value


def _print(detections: Detections, console: Console) -> None:
    """Print the boxes of one image."""
    from rich.table import Table
    from rich.text import Text

    if detections.error is not None or detections.image_size is None:
        return
    height, width = detections.image_size
    nothing = "" if len(detections) else ": nothing found"
    title = Text(printable(detections.source), "bold").append(f"  {width} x {height}{nothing}", "not bold")
    console.print(title, soft_wrap=True)
    if not len(detections):
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("name", overflow="fold")
    for column in ("score", "x1", "y1", "x2", "y2"):
        table.add_column(column, justify="right", no_wrap=True)
    for detection in detections:
        table.add_row(
            Text(printable(detection.name)), f"{detection.score:.3f}", *(f"{side:.1f}" for side in detection.box)
        )
    console.print(table)


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[tuple[Console, Callable[[], None]]]:
    """The console for tables, and what to call after each image.

    For more than one image there is a progress bar, if stderr is a terminal. If stdout is a terminal too, tables are
    printed through the bar; otherwise the bar would overwrite them.
    """
    results = open_console()
    if quiet or total < 2 or not sys.stderr.isatty():
        yield results, lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shared = sys.stdout.isatty()
    with Progress(*columns, console=open_console(stderr=True), redirect_stdout=shared, transient=True) as bar:
        task = bar.add_task("images", total=total)
        yield bar.console if shared else results, lambda: bar.advance(task)
