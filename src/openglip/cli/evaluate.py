"""`openglip evaluate BENCHMARK` and `openglip evaluate compare`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from openglip.errors import ConfigError
from openglip.runtime import is_first_process

BENCHMARKS = {
    "coco": "COCO box figures, zero-shot or fine-tuned",
    "coco-ov": "open-vocabulary COCO: 48 base and 17 novel classes, AP50",
    "lvis": "LVIS v1: fixed AP and standard AP side by side",
    "flickr30k": "Flickr30k Entities: recall of phrases, any-box and merged-box",
    "odinw": "Object Detection in the Wild: 13 or 35 sets, mean and median",
    "refcoco": "RefCOCO, RefCOCO+ or RefCOCOg: P@1",
    "custom": "any COCO-style file: also thresholds by F1, false alarms, calibration",
}
app = typer.Typer(no_args_is_help=True, help="Judge a model, or predictions of any tool, on a benchmark.")


def evaluate_command(
    context: typer.Context,
    annotations: Annotated[Path, typer.Option(metavar="PATH", help="Annotation file, or the data set's root.")],
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder or tar of the pictures.")] = None,
    ids: Annotated[Path | None, typer.Option(metavar="FILE", help="Ids to judge, one a line. Default: all.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="A model's name, or a checkpoint.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Checkpoint for --model.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Judge this file instead of a model. odinw: a folder of SET.json."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the report; a stopped run goes on there.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="lvis: minival. odinw, refcoco: val, test, testA ...")] = None,
    prompts: Annotated[
        Literal["original", "paper-13", "repo-35"] | None, typer.Option(help="odinw: table of names and prompts.")
    ] = None,
    sets: Annotated[str | None, typer.Option(help="odinw: odinw-13, odinw-35, or names parted at commas.")] = None,
    labelled_only: Annotated[
        bool, typer.Option("--labelled-only", help="coco-ov: judge the 4,836 images with one of the 65 classes.")
    ] = False,
    plus_one: Annotated[
        bool, typer.Option("--plus-one", help="coco: widths x2 - x1 + 1, as the official code writes them.")
    ] = False,
    chunk_size: Annotated[int | None, typer.Option(metavar="N", help="Names a prompt. lvis: 40.")] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Pictures a batch. 1 is exact for models with fusion.")
    ] = 1,
    training_data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A data set the system was trained on; repeat it. Default: what the weights say."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Name of the row in tables.")] = None,
    render: Annotated[bool, typer.Option("--render", help="Write report.html with pictures of the errors.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16", "auto"], typer.Option(help="Numbers the model computes in.")] = "fp32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    """Judge a model, or predictions of any tool. Figures are printed in points, with the published rows."""
    from openglip.evaluation.run import evaluate

    for given, path in (
        ("--annotations", annotations),
        ("--images", images),
        ("--ids", ids),
        ("--predictions", predictions),
    ):
        if path is not None and not path.exists():
            raise ConfigError(f"{given} {path}: there is no such file or folder")
    benchmark: Any = context.info_name
    report = evaluate(
        benchmark,
        annotations,
        images=images,
        ids=ids,
        model=model,
        weights=weights,
        predictions=predictions,
        output=output,
        split=split,
        prompts=prompts,
        sets=sets,
        labelled_only=labelled_only,
        plus_one=plus_one,
        chunk_size=chunk_size,
        batch_size=batch_size,
        training_data=training_data,
        title=title,
        device=device,
        precision=precision,
        render=render,
        progress=None if quiet else _progress,
    )
    if is_first_process():
        typer.echo(json.dumps(report.to_json(), ensure_ascii=False) if as_json else report.table())


def _progress(name: str, done: int, total: int) -> None:
    sys.stderr.write(f"\r{name}: {done} of {total} pictures" + ("\n" if done == total else ""))
    sys.stderr.flush()


def compare(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="Folders or report.json files.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as one JSON list.")] = False,
) -> None:
    """Reports beside each other and beside the published rows; says where their protocols differ."""
    from openglip.evaluation import report as module

    read = [module.read_report(path) for path in reports]
    if as_json:
        typer.echo(json.dumps([r.to_json() for r in read], ensure_ascii=False))
    else:
        typer.echo(module.compare(read))


for _name, _help in BENCHMARKS.items():
    app.command(_name, help=f"{_help}. With --model NAME and --images DIR, or with --predictions FILE.")(
        evaluate_command
    )
app.command("compare")(compare)
