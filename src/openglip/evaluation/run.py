"""`openglip.evaluate`: one benchmark, judged from a model's boxes or from a file of predictions, with one report."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from openglip import __version__
from openglip.data.files import read_lines, whole_file
from openglip.errors import ConfigError
from openglip.evaluation.coco import Figures, Scores
from openglip.evaluation.leakage import setting
from openglip.evaluation.odinw import summary
from openglip.evaluation.read import Source, describe, sha256
from openglip.evaluation.report import Report, published, read_report
from openglip.evaluation.tasks import Benchmark, Options, Task, make_tasks
from openglip.prompts.tables import PromptTable

if TYPE_CHECKING:
    from openglip.predict.detector import Detector

StrPath = str | PathLike[str]
TrainingData = Sequence[str | Mapping[str, object]]
Progress = Callable[[str, int, int], None]


def evaluate(
    benchmark: Benchmark,
    annotations: Source,
    *,
    images: StrPath | None = None,
    ids: StrPath | Sequence[object] | None = None,
    model: str | Detector | None = None,
    weights: StrPath | None = None,
    predictions: Source | None = None,
    output: StrPath | None = None,
    split: str | None = None,
    prompts: PromptTable | None = None,
    sets: str | None = None,
    labelled_only: bool = False,
    plus_one: bool = False,
    chunk_size: int | None = None,
    batch_size: int = 1,
    training_data: TrainingData | None = None,
    title: str | None = None,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "auto"] = "fp32",
    render: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Figures of a benchmark with their protocol.

    annotations: a file (a folder for `flickr30k`, `odinw`, RefCOCO as distributed), or parsed COCO annotations. images:
    folder or tar of the pictures, for a model. ids: a file with one id a line, or the ids; None: all. model: a name, a
    checkpoint or a `Detector`, or instead predictions: a file, or the parsed list. output: folder for `report.json` and
    the predictions; a run that was stopped goes on there. split: "minival" of LVIS; "val", "test", "testA" ... of ODinW
    and RefCOCO. prompts, sets: of ODinW, see `docs/evaluation.md`. labelled_only: judge the 4,836 images of OV-COCO.
    plus_one: widths x2 - x1 + 1 on COCO, as the official code. chunk_size: names a prompt. batch_size: pictures a
    batch; 1 is exact for models with fusion. training_data: what the judged system was trained on, where
    its weights do not say. title: the row's name in tables. render: write `report.html`, too. progress: called with a
    name, pictures done, pictures in all. Under torchrun the processes share the pictures.
    Raises ConfigError for settings that do not fit, DataError naming file and id for what can't be judged.
    """
    if benchmark not in get_args(Benchmark):
        raise ConfigError(f"there is no benchmark {benchmark!r}: {', '.join(get_args(Benchmark))}")
    if (model is None) == (predictions is None):
        raise ConfigError("give either a model or predictions")
    if render and (output is None or benchmark in ("flickr30k", "refcoco")):
        raise ConfigError("render needs an output folder, and a benchmark with categories")
    begin = time.perf_counter()
    chosen = read_lines(ids) if isinstance(ids, (str, PathLike)) else ids
    tasks = make_tasks(
        benchmark, annotations, chosen, Options(split, prompts, sets, labelled_only, plus_one, chunk_size, batch_size)
    )
    hashes = {n: sha256(s) for n, s in (("annotations", annotations), ("predictions", predictions)) if s is not None}

    def judge(sources: Sequence[Source], about: Mapping[str, object], trained_on: TrainingData | None) -> Report:
        middle = time.perf_counter()
        judged = [i for task in tasks for i in task.files]
        protocol: dict[str, object] = {
            **({"title": title} if title else {}),
            "annotations": describe(annotations, "annotations"),
            "split_sha256": hashlib.sha256("\n".join(map(str, judged)).encode()).hexdigest(),
            **{f"{name}_sha256": value for name, value in hashes.items()},
            **({"predictions": describe(predictions, "predictions")} if predictions is not None else {}),
            **about,
        }
        protocol |= _claim(benchmark, trained_on, judged, hashes["annotations"], title)
        scores = [task.score(source) for task, source in zip(tasks, sources, strict=True)]
        report = _report(benchmark, tasks, scores, protocol)
        seconds = {"seconds_predicting": middle - begin, "seconds_judging": time.perf_counter() - middle}
        report.protocol.update({name: round(value, 3) for name, value in seconds.items()})
        if output is not None:
            _write(report, Path(output), tasks, sources, images, render)
        return report

    if model is None:
        assert predictions is not None
        return judge([predictions] * len(tasks), {}, training_data)
    return _with_model(
        benchmark, tasks, hashes, model, weights, images, output, device, precision, training_data, judge, progress
    )


Judge = Callable[[Sequence[Source], Mapping[str, object], TrainingData | None], Report]


def _with_model(
    benchmark: str,
    tasks: Sequence[Task],
    hashes: Mapping[str, str | None],
    model: str | Detector,
    weights: StrPath | None,
    images: StrPath | None,
    output: StrPath | None,
    device: str,
    precision: Literal["fp32", "bf16", "auto"],
    training_data: TrainingData | None,
    judge: Judge,
    progress: Progress | None,
) -> Report:
    """Predict with all processes, judge with the first; each returns the report."""
    import torch

    from openglip.evaluation.predict import (
        check_settings,
        find_pictures,
        predict,
        processes,
        state_sha256,
    )
    from openglip.predict.detector import Detector, load

    detector = model if isinstance(model, Detector) else load(str(model), weights, device=device, precision=precision)
    file_hash, known = _weights(model, weights) if not isinstance(model, Detector) else (None, None)
    asked = [dict(task.asked) for task in tasks]
    about: dict[str, object] = {
        "model": str(detector.model.name) if isinstance(model, Detector) else str(model),
        "weights": str(weights) if weights else None,
        "weights_sha256": file_hash,
        "state_sha256": state_sha256(detector),
        "precision": detector.precision,
        "device": str(detector.device),
        "threads": torch.get_num_threads(),
        "preparation": str(detector.model.preparation),
        **(asked[0] if len(tasks) == 1 else {"asked": {t.name: a for t, a in zip(tasks, asked, strict=True)}}),
    }
    settings = {"benchmark": benchmark, **hashes, "pictures": [[str(i) for i in t.files] for t in tasks], **about}
    for free in ("model", "weights", "threads"):
        settings.pop(free)
    with ExitStack() as stack:
        group = stack.enter_context(processes())
        if group.size > 1 and output is None:
            raise ConfigError("several processes need an output folder to meet in")
        folder = Path(output if output is not None else stack.enter_context(tempfile.TemporaryDirectory()))
        if group.rank == 0:
            check_settings(folder, settings)
        group.barrier()
        sources = []
        for task in tasks:
            place = task.folder or images
            found = find_pictures(place, task.files, task.about, task.pictures, any_suffix=task.any_suffix)
            sources.append(predict(task.name, found, task.ask(), detector, folder, group, progress))
        report = judge(sources, about, training_data or known) if group.rank == 0 else None
        group.barrier()
        return report or read_report(folder)


def _weights(model: str, weights: StrPath | None) -> tuple[str | None, TrainingData | None]:
    """Hash of the weights' file (of several: of their hashes), and the training list in its metadata or its record."""
    from openglip.weights.files import locate, read_info
    from openglip.weights.hub import cached, embedded_file
    from openglip.weights.records import BY_FILE, RECORDS

    record = RECORDS.get(str(model)) or BY_FILE.get(str(model))
    if weights == "random":
        return None, None
    if weights is not None or record is None:
        files = [locate(Path(weights or model))]
    elif record.embedded:
        files = [embedded_file(name) for name in record.embedded]
    else:
        files = [path] if (path := cached(record)) else []
    listed = next((data for path in files if (data := read_info(path).get("training_data"))), None)
    if listed is None and record is not None and weights is None and not record.embedded:
        listed = record.data
    hashes = [str(sha256(path)) for path in files]
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None
    return digest, listed


def _claim(
    benchmark: str,
    training_data: TrainingData | None,
    image_ids: Sequence[object],
    annotations_sha256: str | None,
    title: str | None,
) -> dict[str, object]:
    """What may be said of the training; a title that calls a trained system zero-shot is refused."""
    found = setting(benchmark, training_data, image_ids, annotations_sha256)
    if title and found.zero_shot is False and "zeroshot" in title.casefold().replace("-", "").replace(" ", ""):
        raise ConfigError(f"the title {title!r} claims zero-shot, but {'; '.join(found.meets)}")
    listed = [e if isinstance(e, str) else e.get("name", "?") for e in training_data or ()]
    return {
        "training_data": listed or None,
        "zero_shot": found.zero_shot,
        "training_meets_benchmark": list(found.meets),
        "training_notes": list(found.notes),
    }


def _report(benchmark: str, tasks: Sequence[Task], scores: Sequence[Scores], protocol: Mapping[str, object]) -> Report:
    figures: Figures
    if benchmark == "odinw":
        figures = summary({t.name: s.figures for t, s in zip(tasks, scores, strict=True)})
        per_category = {
            f"{t.name}/{k}": v for t, s in zip(tasks, scores, strict=True) for k, v in s.per_category.items()
        }
        own = {"sets": {t.name: dict(t.protocol) for t in tasks}, **scores[0].protocol}
    else:
        figures, per_category = scores[0].figures, scores[0].per_category
        own = {**tasks[0].protocol, **scores[0].protocol}
    program = [Path(sys.argv[0]).name, *sys.argv[1:]]
    versions = {"openglip": __version__, "python": platform.python_version(), "numpy": np.__version__}
    if "torch" in sys.modules:
        versions["torch"] = metadata.version("torch")
    whole = {**protocol, **own, "versions": versions, "command": shlex.join(program)}
    return Report(benchmark, figures, whole, per_category, published(benchmark))


def _write(
    report: Report,
    folder: Path,
    tasks: Sequence[Task],
    sources: Sequence[Source],
    images: StrPath | None,
    render: bool,
) -> None:
    report.save(folder)
    if "thresholds" in report.protocol:
        with whole_file(folder / "thresholds.json") as file:
            json.dump(report.protocol["thresholds"], file, indent=1, ensure_ascii=False)
    if render:
        from openglip.evaluation.page import write_page

        for task, source in zip(tasks, sources, strict=True):
            name = "report.html" if len(tasks) == 1 else f"report-{task.name}.html"
            write_page(folder / name, report, task, source, images)
