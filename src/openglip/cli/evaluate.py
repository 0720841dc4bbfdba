"""`openglip evaluate BENCHMARK` and `openglip evaluate compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from openglip.cli.options import Device, Images, Json, Precision, Quiet, Weights, end_progress, show_progress
from openglip.cli.terminal import print_json, print_lines
from openglip.errors import ConfigError
from openglip.runtime import is_first_process

BENCHMARKS = {
    "coco": "COCO box figures, zero-shot or fine-tuned",
    "coco-ov": "open-vocabulary COCO: 48 base and 17 novel classes, AP50",
    "lvis": "LVIS v1: fixed AP and standard AP",
    "flickr30k": "Flickr30k Entities: recall of phrases, any-box and merged-box",
    "odinw": "Object Detection in the Wild: 13 or 35 sets, mean and median",
    "refcoco": "RefCOCO, RefCOCO+ or RefCOCOg: P@1",
    "custom": "any data set with categories: also thresholds by F1, false alarms, calibration",
}
PromptTable = Literal["original", "paper-13", "repo-35"]

app = typer.Typer(no_args_is_help=True, help="Evaluate a model, or predictions of any tool, on a benchmark.")


def evaluate_command(
    context: typer.Context,
    annotations: Annotated[Path, typer.Option(metavar="PATH", help="Annotation file, or root of the data set.")],
    images: Images = None,
    ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ids to evaluate, one per line. Default: all.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="A model or a checkpoint. Default: nano.")
    ] = None,
    weights: Weights = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score this file instead of running a model. odinw: a folder of SET.json."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the report; a stopped run continues there.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="lvis: minival. odinw, refcoco, custom: val, test, testA ...")
    ] = None,
    prompts: Annotated[PromptTable | None, typer.Option(help="odinw: table of names and prompts.")] = None,
    sets: Annotated[str | None, typer.Option(help="odinw: odinw-13, odinw-35, or names separated by commas.")] = None,
    labelled_only: Annotated[
        bool, typer.Option("--labelled-only", help="coco-ov: only the 4,836 images with one of the 65 classes.")
    ] = False,
    plus_one: Annotated[
        bool, typer.Option("--plus-one", help="coco: widths x2 - x1 + 1, as in the official code.")
    ] = False,
    chunk_size: Annotated[int | None, typer.Option(metavar="N", help="Names per prompt. Default of lvis: 40.")] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images per batch; only 1 is exact with fusion.")] = 1,
    training_data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A data set that was trained on; repeat it. Default: as the weights say."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Name of the row in tables.")] = None,
    render: Annotated[bool, typer.Option("--render", help="Write report.html with images of the errors.")] = False,
    device: Device = "auto",
    precision: Precision = "fp32",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model, or predictions of any tool; prints figures in points next to published ones."""
    from openglip.evaluation.run import evaluate

    for option, path in (("annotations", annotations), ("images", images), ("ids", ids), ("predictions", predictions)):
        if path is not None and not path.exists():
            raise ConfigError(f"--{option} {path}: no such file or folder")
    benchmark: Any = context.info_name
    same_name = dict(context.params)  # the other options have the names of `evaluate`
    for name in ("annotations", "as_json", "quiet"):
        del same_name[name]
    report = evaluate(benchmark, annotations, **same_name, progress=None if quiet else show_progress)
    if not quiet:
        end_progress()
    if is_first_process():
        print_json(report.to_json()) if as_json else print_lines(report.table())


def compare(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Folders or report.json files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as one JSON list.")] = False,
) -> None:
    """Compare reports with each other and with published rows; shows where their protocols differ."""
    from openglip.evaluation.report import compare_reports, read_report

    opened = [read_report(path) for path in reports]
    if as_json:
        print_json([report.to_json() for report in opened])
    else:
        print_lines(compare_reports(opened))


for _name, _help in BENCHMARKS.items():
    app.command(_name, help=f"{_help}. With --images DIR for a model, or with --predictions FILE.")(evaluate_command)
app.command("compare")(compare)
