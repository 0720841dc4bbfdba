"""`openglip label`: boxes for captions at scale; run, status, verify, publish, review, merge, audit."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openglip.cli.options import (
    Device,
    Images,
    Json,
    Model,
    Precision,
    Quiet,
    ShortSide,
    Weights,
    end_progress,
    show_progress,
)
from openglip.cli.terminal import print_json, print_table
from openglip.errors import ConfigError, DataError

if TYPE_CHECKING:
    from openglip.labelling.manifest import Manifest

label_app = typer.Typer(
    no_args_is_help=True, help="Let a model label images with captions, shard by shard; can be stopped and continued."
)

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="A folder of images with NAME.txt next to each, a Flickr30k Entities root, COCO captions or a list "
        "(.json, .csv), WebDataset tars or parquet files (a folder, files, or a .txt list).",
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that `label run` wrote.")]
Threshold = Annotated[float, typer.Option(min=0, max=1, help="Only labels with a score above it.")]


@label_app.command("run")
def run(
    context: typer.Context,
    sources: Sources,
    output: Annotated[Path, typer.Option(help="Folder for shards, failures and the manifest.")],
    model: Model = "nano",
    weights: Weights = None,
    categories: Annotated[
        Path | None, typer.Option(help="File of names (one per line, JSON, YAML) to look for instead of captions.")
    ] = None,
    images: Images = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; 0: only this one. Default: one per core or GPU.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Pairs per shard, where the input is not divided.")] = 1000,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Keep boxes with a score above it.")] = 0.1,
    chunker: Annotated[str, typer.Option(help="What finds phrases: auto, rules, spacy or grammar.")] = "auto",
    max_phrases: Annotated[int, typer.Option(min=1, help="Phrases per caption.")] = 20,
    boxes_per_phrase: Annotated[int, typer.Option(min=1, help="Boxes per phrase, best first.")] = 20,
    phrase_nms: Annotated[
        float | None, typer.Option(help="Of boxes that overlap more than this, whatever the phrase, keep the best.")
    ] = None,
    max_share: Annotated[float | None, typer.Option(help="Drop boxes that cover more than this share.")] = None,
    min_words: Annotated[int, typer.Option(min=0, help="Skip captions with fewer words.")] = 0,
    min_side: Annotated[int, typer.Option(min=0, help="Skip images with a shorter side, in pixels.")] = 0,
    agreement: Annotated[
        Literal["flip", "jitter"] | None, typer.Option(help="Keep only boxes that a second view confirms.")
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Skip images that look like an earlier one.")
    ] = False,
    exclude: Annotated[
        Path | None, typer.Option(help="Input, such as an evaluation set, whose images are skipped.")
    ] = None,
    short_side: ShortSide = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per batch.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each worker.")] = 1,
    device: Device = "auto",
    precision: Precision = "fp32",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Label INPUT; the same command continues a stopped run. Exit status 1 when a shard could not be done."""
    from openglip.data.files import read_names
    from openglip.labelling.run import label
    from openglip.labelling.shards import LabelSettings

    # the other options have the names of the fields of LabelSettings or of the parameters of `label`
    same_name = {name: value for name, value in context.params.items() if name not in ("sources", "as_json", "quiet")}
    settings = {field.name: same_name.pop(field.name) for field in fields(LabelSettings) if field.name in same_name}
    if categories is not None:
        same_name["categories"] = read_names(categories)
    progress = (lambda progress: None) if quiet else show_progress
    manifest = label(sources, labels=LabelSettings(**settings), progress=progress, **same_name)
    if not quiet:
        end_progress()
    _print_status(manifest, as_json)
    if manifest.failed:
        raise typer.Exit(1)


@label_app.command("status")
def status(folder: Folder, as_json: Json = False) -> None:
    """Show what of a run is done, its counts and its rate."""
    from openglip.labelling.manifest import Manifest

    _print_status(Manifest.load(folder), as_json)


@label_app.command("verify")
def verify(folder: Folder, as_json: Json = False) -> None:
    """Check every file of a run against its manifest; exit status 1 when a byte changed or a shard is missing."""
    from openglip.labelling import manifest

    try:
        problems = manifest.verify(folder)
    except DataError as error:
        problems = [str(error)]
    if as_json:
        print_json({"problems": problems})
    else:
        typer.echo("\n".join(problems) if problems else f"{folder}: every file is as it was written")
    if problems:
        raise typer.Exit(1)


@label_app.command("publish")
def publish(
    folder: Folder,
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Empty folder for the training data.")],
    threshold: Threshold = 0.5,
    format: Annotated[str, typer.Option(help="odvg or parquet.")] = "odvg",
) -> None:
    """Write the labels above a threshold as training data; the run itself keeps all of them."""
    from openglip.labelling import export

    print_json(export.publish(folder, output, threshold=threshold, format=format))  # type: ignore[arg-type]


@label_app.command("review")
def review(
    folder: Folder,
    output: Annotated[Path, typer.Argument(metavar="TASKS.json", help="Label Studio tasks to write.")],
    threshold: Threshold = 0.5,
    prefix: Annotated[str, typer.Option(help="Text to put before the file name of each image.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Number of tasks. Default: all.")] = None,
) -> None:
    """Write the labels as Label Studio tasks, for a person to correct."""
    from openglip.labelling.export import write_review_tasks

    count = write_review_tasks(folder, output, threshold=threshold, prefix=prefix, limit=limit)
    typer.echo(f"{output}: {count} tasks")


@label_app.command("merge")
def merge(
    tasks: Annotated[Path, typer.Argument(metavar="TASKS.json", help="Label Studio's JSON export of such tasks.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="ODVG file to write.")],
) -> None:
    """Turn corrected tasks into training data."""
    from openglip.labelling.export import read_review_tasks

    print_json(read_review_tasks(tasks, output))


@label_app.command("audit")
def audit(
    folder: Folder,
    images: Images = None,
    page: Annotated[Path, typer.Option(help="The page to write.")] = Path("audit.html"),
    count: Annotated[int, typer.Option(min=1, help="Labels on the page.")] = 200,
    threshold: Threshold = 0.5,
    seed: Annotated[int, typer.Option(help="Selects the labels.")] = 0,
    checked: Annotated[
        Path | None, typer.Option(help="Answers that the page saved: print the precision per word.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a page of random labels to check by eye, or read its answers: precision per word with an interval."""
    from openglip.labelling.audit import read_answers, write_page

    if checked is None:
        if images is None:
            raise ConfigError("say where the images are: --images DIR")
        shown = write_page(folder, images, page, count=count, threshold=threshold, seed=seed)
        typer.echo(
            f"{page}: {shown} labels. Check them, save the answers, then: openglip label audit {folder} --checked FILE"
        )
    elif as_json:
        print_json(read_answers(checked))
    else:
        _print_precision(read_answers(checked))


def _print_precision(rows: list[dict[str, Any]]) -> None:
    columns = ("word", "checked", "right", "precision", "95% interval")
    figures = ((f"{row['precision']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}") for row in rows)
    print_table(columns, ((row["word"], row["checked"], row["right"], *next(figures)) for row in rows))


def _print_status(manifest: Manifest, as_json: bool) -> None:
    status = manifest.status()
    if as_json:
        print_json(status)
        return
    totals = status["totals"]
    typer.echo(f"{status['done']} of {status['planned']} shards done, {totals['pairs']} pairs, {totals['boxes']} boxes")
    for title, key in (
        ("pairs left out", "failures"),
        ("phrases dropped", "dropped_phrases"),
        ("boxes dropped", "dropped_boxes"),
        ("boxes by score", "scores"),
    ):
        if counts := ", ".join(f"{name} {count}" for name, count in totals[key].items() if count):
            typer.echo(f"{title}: {counts}")
    if status["pairs_per_worker_second"] is not None:
        typer.echo(f"{status['pairs_per_worker_second']:.1f} pairs per second and worker")
    if (spent := status["cpu_milliseconds_per_picture"]) is not None:
        times = ", ".join(f"{name} {spent[name]:.1f}" for name in ("model", "reading", "outside"))
        typer.echo(f"milliseconds of a core per image: {times}")
    for name, reason in manifest.failed.items():
        typer.echo(f"{name} failed: {reason}")
