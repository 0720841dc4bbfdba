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
from dataclasses import dataclass
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from openglip import __version__
from openglip.data.files import read_lines
from openglip.errors import ConfigError
from openglip.evaluation.leakage import setting
from openglip.evaluation.odinw import summary
from openglip.evaluation.read import Source, describe, source_sha256
from openglip.evaluation.report import Report, published, read_report
from openglip.evaluation.tasks import Benchmark, Options, Task, make_tasks
from openglip.files import file_sha256, whole_file
from openglip.prompts.tables import PromptTable
from openglip.runtime import num_threads, pick_device, process_group, rank, wait_for_others, world_size

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
    options = Options(split, prompts, sets, labelled_only, plus_one, chunk_size, batch_size)
    tasks = make_tasks(benchmark, annotations, chosen, options, images)
    run = _Run(benchmark, tasks, annotations, images, None if output is None else Path(output), title, render, begin)
    if predictions is not None:
        said = {"predictions": describe(predictions, "predictions"), "predictions_sha256": source_sha256(predictions)}
        return run.judge([predictions] * len(tasks), {**said, **run.claim(training_data)})
    from openglip.predict.detector import Detector, load

    if isinstance(model, Detector):
        detector, known = model, None
        said = {"model": str(detector.backend.name)}
    else:
        detector = load(str(model), weights, device=device, precision=precision)
        digest, known = _weights(str(model), weights)
        said = {"model": str(model), "weights": str(weights) if weights else None, "weights_file_sha256": digest}
    return run.predict_and_judge(detector, {**said, **run.claim(training_data or known)}, progress)


@dataclass(frozen=True)
class _Run:
    """What stays the same whether a model or a file is judged. begin: of the run, on the clock."""

    benchmark: str
    tasks: Sequence[Task]
    annotations: Source
    images: StrPath | None
    output: Path | None
    title: str | None
    render: bool
    begin: float

    @property
    def ids(self) -> list[object]:
        return [i for task in self.tasks for i in task.files]

    @property
    def annotations_sha256(self) -> str | None:
        """Of the file; of a folder, of what was read from it."""
        digests = [task.digest for task in self.tasks if task.digest]
        return source_sha256(self.annotations) or (
            hashlib.sha256("".join(digests).encode()).hexdigest() if digests else None
        )

    def claim(self, training_data: TrainingData | None) -> dict[str, object]:
        """What may be said of the training. Raises ConfigError for a title that calls a trained system zero-shot."""
        found = setting(self.benchmark, training_data, self.ids, self.annotations_sha256)
        claims = "zeroshot" in (self.title or "").casefold().replace("-", "").replace(" ", "")
        if claims and found.zero_shot is False:
            raise ConfigError(f"the title {self.title!r} claims zero-shot, but {'; '.join(found.meets)}")
        listed = [e if isinstance(e, str) else e.get("name", "?") for e in training_data or ()]
        return {
            "training_data": listed or None,
            "zero_shot": found.zero_shot,
            "training_meets_benchmark": list(found.meets),
            "training_notes": list(found.notes),
        }

    def predict_and_judge(self, detector: Detector, said: Mapping[str, object], progress: Progress | None) -> Report:
        """Predict with all processes, judge with the first; each returns the report."""
        from openglip.evaluation.predict import check_settings, find_pictures, predict

        asked = {task.name: dict(task.asked) for task in self.tasks}
        model = {
            "weights_sha256": detector.backend.weights_sha256(),
            "precision": detector.precision,
            "device": detector.device,
            "preparation": str(detector.backend.preparation),
            **(asked[self.tasks[0].name] if len(asked) == 1 else {"asked": asked}),
        }
        pictures = [[str(i) for i in task.files] for task in self.tasks]
        settings = {"benchmark": self.benchmark, "annotations": self.annotations_sha256, "pictures": pictures, **model}
        with ExitStack() as stack:
            stack.enter_context(process_group(pick_device("cpu")))
            if world_size() > 1 and self.output is None:
                raise ConfigError("several processes need an output folder to meet in")
            folder = self.output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if rank() == 0:
                check_settings(folder, settings)
            wait_for_others()
            sources = []
            for task in self.tasks:
                place = task.folder or self.images
                found = find_pictures(place, task.files, task.about, task.pictures, any_suffix=task.any_suffix)
                sources.append(predict(task.name, found, task.ask(), detector, folder, progress))
            said = {**said, **model, "threads": num_threads()}
            report = self.judge(sources, said) if rank() == 0 else None
            wait_for_others()
            return report or read_report(folder)

    def judge(self, sources: Sequence[Source], said: Mapping[str, object]) -> Report:
        """Score, report, and write what is asked for."""
        middle = time.perf_counter()
        scores = {t.name: t.score(source) for t, source in zip(self.tasks, sources, strict=True)}
        own = next(iter(scores.values()))
        figures, per_category, rules = own.figures, own.per_category, {**self.tasks[0].protocol, **own.protocol}
        if self.benchmark == "odinw":
            figures = summary({name: s.figures for name, s in scores.items()})
            per_category = {f"{name}/{k}": v for name, s in scores.items() for k, v in s.per_category.items()}
            rules = {"sets": {t.name: {**t.protocol, "sha256": t.digest} for t in self.tasks}, **own.protocol}
        protocol: dict[str, object] = {
            **({"title": self.title} if self.title else {}),
            "annotations": describe(self.annotations, "annotations"),
            "annotations_sha256": self.annotations_sha256,
            "split_sha256": hashlib.sha256("\n".join(map(str, self.ids)).encode()).hexdigest(),
            **said,
            **rules,
            "versions": _versions(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seconds_predicting": round(middle - self.begin, 3),
            "seconds_judging": round(time.perf_counter() - middle, 3),
        }
        report = Report(self.benchmark, figures, protocol, per_category, published(self.benchmark))
        if self.output is not None:
            self._write(report, self.output, sources)
        return report

    def _write(self, report: Report, folder: Path, sources: Sequence[Source]) -> None:
        report.save(folder)
        if "thresholds" in report.protocol:
            with whole_file(folder / "thresholds.json") as file:
                json.dump(report.protocol["thresholds"], file, indent=1, ensure_ascii=False)
        if self.render:
            from openglip.evaluation.page import write_page

            for task, source in zip(self.tasks, sources, strict=True):
                name = "report.html" if len(self.tasks) == 1 else f"report-{task.name}.html"
                write_page(folder / name, report, task, source, self.images)


def _versions() -> dict[str, str]:
    versions = {"openglip": __version__, "python": platform.python_version(), "numpy": np.__version__}
    return versions | ({"torch": metadata.version("torch")} if "torch" in sys.modules else {})


def _weights(model: str, weights: StrPath | None) -> tuple[str | None, TrainingData | None]:
    """Hash of the weights' file (of several: of their hashes), and the training list in its metadata or its record."""
    from openglip.weights.hub import cached, embedded_file
    from openglip.weights.metadata import locate, read_info
    from openglip.weights.records import BY_FILE, RECORDS

    record = RECORDS.get(model) or BY_FILE.get(model)
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
        listed = record.training_data
    hashes = [file_sha256(path) for path in files]
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else None
    return digest, listed
