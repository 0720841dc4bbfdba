"""`openglip label`: boxes for captions at scale; run, status, verify, publish, review, merge, audit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openglip.errors import DataError

if TYPE_CHECKING:
    from openglip.labelling.run import Progress

label_app = typer.Typer(
    no_args_is_help=True, help="Let a model label pictures with captions, shard by shard; safe to stop and to go on."
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that `label run` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No messages and no progress.")]


@label_app.command("run")
def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="A folder of pictures with NAME.txt beside them, a Flickr30k Entities root, COCO captions or a list "
            "(.json, .csv), WebDataset tars or parquet files (a folder, files, or a .txt list).",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder for shards, failures and the manifest.")],
    model: Annotated[str, typer.Option("--model", help="The teacher: a model's name or a checkpoint.")] = "nano",
    weights: Annotated[str | None, typer.Option("--weights", help="The teacher's checkpoint.")] = None,
    categories: Annotated[
        Path | None, typer.Option("--categories", help="File of names, one a line, to look for instead of captions.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder or tar of the pictures, if not beside the captions.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes; default one per core or GPU; 0: no process.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="local or ray.")] = "local",
    address: Annotated[str | None, typer.Option("--address", help="Address of a Ray cluster.")] = None,
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="Pairs of a shard where the input has none.")
    ] = 1000,
    threshold: Annotated[float, typer.Option("--threshold", min=0, max=1, help="Keep scores above it.")] = 0.1,
    chunker: Annotated[str, typer.Option("--chunker", help="auto, rules, spacy or grammar.")] = "auto",
    max_phrases: Annotated[int, typer.Option("--max-phrases", min=1, help="Of a caption.")] = 20,
    boxes_per_phrase: Annotated[int, typer.Option("--boxes-per-phrase", min=1, help="The best so many stay.")] = 20,
    phrase_nms: Annotated[
        float | None, typer.Option("--phrase-nms", help="Of boxes of any phrases that overlap more, keep the best.")
    ] = None,
    max_share: Annotated[
        float | None, typer.Option("--max-share", help="Drop boxes over this share of the picture.")
    ] = None,
    min_words: Annotated[int, typer.Option("--min-words", min=0, help="Leave out shorter captions.")] = 0,
    min_side: Annotated[int, typer.Option("--min-side", min=0, help="Leave out pictures with a shorter side.")] = 0,
    agreement: Annotated[
        str | None, typer.Option("--agreement", help="flip or jitter: keep boxes that a second view confirms.")
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave out pictures that repeat an earlier one.")
    ] = False,
    exclude: Annotated[
        Path | None, typer.Option("--exclude", help="Input (an evaluation set) whose pictures must not occur.")
    ] = None,
    short_side: Annotated[int | None, typer.Option("--short-side", help="Of the resized picture, in pixels.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Pictures of one pass.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="torch's threads of each worker.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or auto.")] = "fp32",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label INPUT; the same command goes on where it was stopped. Exit status 1 when a shard could not be done."""
    from openglip.labelling.run import label
    from openglip.labelling.shards import LabelSettings
    from openglip.labelling.teacher import TeacherSettings

    teacher = TeacherSettings(
        threshold=threshold,
        short_side=short_side,
        batch_size=batch_size,
        precision=precision,
        device=device,
        threads=threads,
        agreement=agreement,  # type: ignore[arg-type]
    )
    labels = LabelSettings(
        chunker=chunker,  # type: ignore[arg-type]
        max_phrases=max_phrases,
        min_words=min_words,
        min_side=min_side,
        max_share=max_share,
        boxes_per_phrase=boxes_per_phrase,
        phrase_nms=phrase_nms,
    )
    manifest = label(
        sources,
        output,
        model=model,
        weights=weights,
        categories=None if categories is None else _names(categories),
        images=images,
        workers=workers,
        engine=engine,  # type: ignore[arg-type]
        address=address,
        shard_size=shard_size,
        teacher=teacher,
        labels=labels,
        drop_duplicates=drop_duplicates,
        exclude=exclude,
        progress=(lambda progress: None) if quiet else _show,
    )
    if not quiet:
        sys.stderr.write("\n")
    _print_state(output, as_json)
    if manifest.failed:
        raise typer.Exit(1)


@label_app.command("status")
def status(folder: Folder, as_json: Json = False) -> None:
    """What of a run is done, its counts and its rate."""
    _print_state(folder, as_json)


@label_app.command("verify")
def verify(folder: Folder, as_json: Json = False) -> None:
    """Check every file of a run against its manifest; exit status 1 when a byte changed or a shard is missing."""
    from openglip.labelling.manifest import verify as check

    try:
        problems = check(folder)
    except DataError as error:
        problems = [str(error)]
    if as_json:
        typer.echo(json.dumps({"problems": problems}, ensure_ascii=False))
    else:
        typer.echo("\n".join(problems) if problems else f"{folder}: every file is as it was written")
    if problems:
        raise typer.Exit(1)


@label_app.command("publish")
def publish(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Empty folder for the training data.")],
    threshold: Annotated[float, typer.Option("--threshold", min=0, max=1, help="Labels must score above it.")] = 0.5,
    form: Annotated[str, typer.Option("--format", help="odvg or parquet.")] = "odvg",
) -> None:
    """Write the labels above a threshold as training data; the run itself keeps all of them."""
    from openglip.labelling.export import publish as write

    typer.echo(json.dumps(write(folder, out, threshold=threshold, form=form)))  # type: ignore[arg-type]


@label_app.command("review")
def review(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="TASKS.json", help="Label Studio tasks to write.")],
    threshold: Annotated[float, typer.Option("--threshold", min=0, max=1, help="Labels must score above it.")] = 0.5,
    prefix: Annotated[str, typer.Option("--prefix", help="What stands before a picture's name.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first so many pairs.")] = None,
) -> None:
    """Write the labels as Label Studio tasks, for a person to correct."""
    from openglip.labelling.export import to_review

    typer.echo(f"{out}: {to_review(folder, out, threshold=threshold, prefix=prefix, limit=limit)} tasks")


@label_app.command("merge")
def merge(
    tasks: Annotated[Path, typer.Argument(metavar="TASKS.json", help="Label Studio's json export of such tasks.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="ODVG file to write.")],
) -> None:
    """Turn corrected tasks into training data."""
    from openglip.labelling.export import from_review

    typer.echo(json.dumps(from_review(tasks, out)))


@label_app.command("audit")
def audit(
    folder: Folder,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder or tar of the pictures; not needed with --checked.")
    ] = None,
    page: Annotated[Path, typer.Option("--page", help="The page to write.")] = Path("audit.html"),
    count: Annotated[int, typer.Option("--count", min=1, help="Labels on the page.")] = 200,
    threshold: Annotated[float, typer.Option("--threshold", help="Only labels with a score above it.")] = 0.5,
    seed: Annotated[int, typer.Option("--seed", help="Another number: other labels.")] = 0,
    checked: Annotated[
        Path | None, typer.Option("--checked", help="Answers from a page: print the precision per word.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a page of random labels to check by eye, or read its answers: precision per word with an interval."""
    from openglip.errors import ConfigError
    from openglip.labelling.audit import read_answers, write_page

    if checked is None:
        if images is None:
            raise ConfigError("say where the pictures are: --images DIR")
        shown = write_page(folder, images, page, count=count, threshold=threshold, seed=seed)
        typer.echo(
            f"{page}: {shown} labels; check them, save the answers, then: openglip label audit {folder} --checked FILE"
        )
        return
    rows = read_answers(checked)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("word", "checked", "right", "precision", "95% interval")
    for row in rows:
        interval = f"{row['low']:.2f} to {row['high']:.2f}"
        table.add_row(row["word"], str(row["checked"]), str(row["right"]), f"{row['precision']:.2f}", interval)
    Console().print(table)


def _names(path: Path) -> list[str]:
    from openglip.data.files import read_lines

    return read_lines(path)


def _show(progress: Progress) -> None:
    """One line that is written over and over: shards, pairs, rate, time left."""
    rate = progress.pairs / progress.seconds if progress.seconds else 0.0
    left = "" if progress.seconds_left is None else f", {_clock(progress.seconds_left)} left"
    text = f"{progress.done} of {progress.total} shards, {progress.pairs} pairs, {rate:.1f} a second{left}"
    sys.stderr.write(f"\r{text:<79}" if sys.stderr.isatty() else f"{text}\n")
    sys.stderr.flush()


def _clock(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{round(seconds)} s"


def _print_state(folder: Path, as_json: bool) -> None:
    from openglip.labelling.manifest import Manifest

    manifest = Manifest.load(folder)
    state = _state(manifest)
    if as_json:
        typer.echo(json.dumps(state, ensure_ascii=False))
        return
    totals = state["totals"]
    typer.echo(f"{state['done']} of {state['planned']} shards done, {totals['pairs']} pairs, {totals['boxes']} boxes")
    for title, key in (
        ("left out", "failures"),
        ("phrases dropped", "dropped_phrases"),
        ("boxes dropped", "dropped_boxes"),
        ("boxes by score", "scores"),
    ):
        listed = ", ".join(f"{name} {n}" for name, n in totals[key].items() if n)
        if listed:
            typer.echo(f"{title}: {listed}")
    if state["pairs_per_worker_second"] is not None:
        typer.echo(f"{state['pairs_per_worker_second']:.1f} pairs a second of one worker")
    if (spent := state["cpu_milliseconds_per_picture"]) is not None:
        listed = ", ".join(f"{name} {spent[name]:.1f}" for name in ("model", "reading", "outside"))
        typer.echo(f"milliseconds of a core a picture: {listed}")
    for name, reason in manifest.failed.items():
        typer.echo(f"{name} failed: {reason}")


def _state(manifest: Any) -> dict[str, Any]:
    totals, rows = manifest.totals(), manifest.shards.values()
    seconds = sum(row["seconds"] for row in rows)
    spent = {key: sum(row["cpu_seconds"][key] for row in rows) for key in ("model", "reading", "outside")}
    return {
        "planned": len(manifest.planned),
        "done": len(manifest.shards),
        "failed": manifest.failed,
        "settings": manifest.settings,
        "totals": totals,
        "pairs_per_worker_second": totals["pairs"] / seconds if seconds else None,
        "cpu_milliseconds_per_picture": {key: 1000 * s / totals["pictures"] for key, s in spent.items()}
        if totals["pictures"]
        else None,
    }
