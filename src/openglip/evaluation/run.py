"""`openglip.evaluate`: one benchmark, scored from a model's boxes or from a file of predictions, as one report."""

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
from dataclasses import dataclass, replace
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Unpack, get_args

import numpy as np

from openglip import __version__
from openglip.data.files import read_lines
from openglip.errors import ConfigError
from openglip.evaluation.benchmarks import DETECT, Benchmark, BenchmarkOptions, BenchmarkSet, benchmark_sets
from openglip.evaluation.inference import check_settings, find_images, write_predictions
from openglip.evaluation.leakage import training_overlap
from openglip.evaluation.odinw import summary
from openglip.evaluation.read import JsonSource, source_name, source_sha256
from openglip.evaluation.report import EvaluationReport, published_rows, read_report
from openglip.files import StrPath, file_sha256, whole_file
from openglip.predict.detector import Detector, load
from openglip.predict.options import DetectArguments, DetectOptions
from openglip.prompts.tables import PromptTable
from openglip.runtime import Precision, Progress, num_threads, sharing_processes

TrainingData = Sequence[str | Mapping[str, object]]


def evaluate(
    benchmark: Benchmark,
    annotations: JsonSource,
    *,
    images: StrPath | None = None,
    ids: StrPath | Sequence[object] | None = None,
    model: StrPath | Detector | None = None,
    weights: StrPath | None = None,
    predictions: JsonSource | None = None,
    output: StrPath | None = None,
    split: str | None = None,
    prompts: PromptTable | None = None,
    sets: str | None = None,
    labelled_only: bool = False,
    plus_one: bool = False,
    training_data: TrainingData | None = None,
    title: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    render: bool = False,
    progress: Callable[[Progress], None] | None = None,
    options: DetectOptions | None = None,
    **arguments: Unpack[DetectArguments],
) -> EvaluationReport:
    """Evaluate a model, or predictions of any tool, on a benchmark.

    Under torchrun the processes share the images; each returns the same report.

    Args:
        benchmark: "coco", "coco-ov", "lvis", "flickr30k", "odinw", "refcoco" or "custom"; see docs/evaluation.md.
        annotations: The annotation file (a folder for "flickr30k", "odinw" and RefCOCO as distributed), or parsed COCO
            annotations.
        images: Folder or tar of the images, for a model.
        ids: Ids of the images to evaluate, or a file with one id per line; None takes all.
        model: Name of a model, path of a checkpoint, or a `Detector`; None takes the embedded model unless there are
            predictions.
        weights: Checkpoint for a model that is given by name.
        predictions: Predictions to score instead of running a model: a file, or the parsed list.
        output: Folder for `report.json` and the predictions. A run that was stopped continues there.
        split: "minival" of LVIS; "val", "test", "testA", ... of ODinW, RefCOCO and folders of several splits.
        prompts: Table of names and prompts for ODinW.
        sets: "odinw-13", "odinw-35", or names of ODinW's sets separated by commas; None takes all that exist.
        labelled_only: Score open-vocabulary COCO on the 4,836 images with an object of its classes.
        plus_one: Count widths as x2 - x1 + 1 on COCO, as the official code does.
        training_data: Data sets that the evaluated system was trained on; None takes what its weights say.
        title: Name of the row in tables.
        device: "auto", "cpu", "cuda", ... for a model that is given by name or path.
        precision: "fp32", "bf16" or "auto", likewise.
        render: Also write `report.html` with images of the errors.
        progress: Called with the number of images that are done.
        options: Options of detection.
        **arguments: Single options, such as `chunk_size` (40 by default for LVIS) or `batch_size` (1 by default,
            because the boxes of models with fusion depend on the padding of a batch). The protocols fix `threshold`
            and `top_k`.

    Raises:
        ConfigError: The arguments do not fit together.
        DataError: Annotations, images or predictions can't be used; the message names file and id.
    """
    if benchmark not in get_args(Benchmark):
        raise ConfigError(f"there is no benchmark {benchmark!r}: {', '.join(get_args(Benchmark))}")
    if model is not None and predictions is not None:
        raise ConfigError("give either a model or predictions, not both")
    if render and (output is None or benchmark in ("flickr30k", "refcoco")):
        raise ConfigError("render needs an output folder, and a benchmark with categories")
    begin = time.perf_counter()
    chosen_ids = read_lines(ids) if isinstance(ids, (str, PathLike)) else ids
    detect_options = (options or DETECT).with_arguments(arguments)
    detect_options = replace(detect_options, batch_size=detect_options.batch_size or 1)
    benchmark_options = BenchmarkOptions(split, prompts, sets, labelled_only, plus_one, detect_options)
    subsets = benchmark_sets(benchmark, annotations, chosen_ids, benchmark_options, images)
    run = _Run(benchmark, subsets, annotations, images, None if output is None else Path(output), title, render, begin)
    if predictions is not None:
        name, digest = source_name(predictions, "predictions"), source_sha256(predictions)
        system = {"predictions": name, "predictions_sha256": digest, **run.training(training_data)}
        return run.score([predictions] * len(subsets), system)
    if model is None or isinstance(model, (str, PathLike)):
        name = "nano" if model is None else str(model)
        detector = load(name, weights, device=device, precision=precision)
        digest, listed_data = _weights_file(name, weights)
        system = {"model": name, "weights": str(weights) if weights else None, "weights_file_sha256": digest}
        training_data = training_data or listed_data
    else:
        detector, system = model, {"model": model.backend.name}
    return run.predict_and_score(detector, {**system, **run.training(training_data)}, progress)


@dataclass(frozen=True)
class _Run:
    """One call of `evaluate`.

    Attributes:
        benchmark: Name of the benchmark.
        sets: Its sets.
        annotations: Its annotations.
        images: Folder or tar of the images.
        output: Folder of the report.
        title: Name of the row in tables.
        render: Whether to write pages of the errors.
        begin: When the call began, by the performance counter.
    """

    benchmark: Benchmark
    sets: Sequence[BenchmarkSet]
    annotations: JsonSource
    images: StrPath | None
    output: Path | None
    title: str | None
    render: bool
    begin: float

    @property
    def image_ids(self) -> list[object]:
        return [image_id for benchmark_set in self.sets for image_id in benchmark_set.files]

    @property
    def annotations_sha256(self) -> str | None:
        """Digest of the annotation file; of a folder, digest of what was read from it."""
        digests = [benchmark_set.digest for benchmark_set in self.sets if benchmark_set.digest]
        return source_sha256(self.annotations) or (
            hashlib.sha256("".join(digests).encode()).hexdigest() if digests else None
        )

    def training(self, training_data: TrainingData | None) -> dict[str, object]:
        """What the report says of the training data.

        Raises:
            ConfigError: The title calls a system zero-shot that was trained on the benchmark's data.
        """
        training_data = [training_data] if isinstance(training_data, str) else training_data
        overlap = training_overlap(self.benchmark, training_data, self.image_ids, self.annotations_sha256)
        claims_zero_shot = "zeroshot" in (self.title or "").casefold().replace("-", "").replace(" ", "")
        if claims_zero_shot and overlap.zero_shot is False:
            raise ConfigError(f"the title {self.title!r} claims zero-shot, but {'; '.join(overlap.overlaps)}")
        names = [entry if isinstance(entry, str) else entry.get("name", "?") for entry in training_data or ()]
        return {
            "training_data": names or None,
            "zero_shot": overlap.zero_shot,
            "training_meets_benchmark": list(overlap.overlaps),
            "training_notes": list(overlap.notes),
        }

    def predict_and_score(
        self, detector: Detector, system: Mapping[str, object], progress: Callable[[Progress], None] | None
    ) -> EvaluationReport:
        """Predict with all processes and score with the first; each returns the report."""
        inference = {benchmark_set.name: dict(benchmark_set.inference) for benchmark_set in self.sets}
        settings = {
            "weights_sha256": detector.backend.weights_sha256(),
            "precision": detector.precision,
            "device": detector.device,
            "preparation": str(detector.backend.preparation),
            **(inference[self.sets[0].name] if len(inference) == 1 else {"asked": inference}),
        }
        image_ids = [[str(image_id) for image_id in benchmark_set.files] for benchmark_set in self.sets]
        inputs = {"benchmark": self.benchmark, "annotations": self.annotations_sha256, "pictures": image_ids}
        with ExitStack() as stack:
            processes = stack.enter_context(sharing_processes())
            if processes.size > 1 and self.output is None:
                raise ConfigError("several processes need an output folder to meet in")
            folder = self.output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if processes.rank == 0:
                check_settings(folder, {**inputs, **settings})
            processes.wait()
            predictions = []
            for subset in self.sets:
                images = find_images(subset.folder or self.images, subset.files, subset.prompts, subset.references)
                predictions.append(
                    write_predictions(subset.name, images, subset.predictor, detector, folder, processes, progress)
                )
            system = {**system, **settings, "threads": num_threads()}
            report = self.score(predictions, system) if processes.rank == 0 else None
            processes.wait()
            return report or read_report(folder)

    def score(self, predictions: Sequence[JsonSource], system: Mapping[str, object]) -> EvaluationReport:
        """Score the predictions of each set, and write what the output folder is to hold.

        Args:
            predictions: One file or list per set.
            system: What the report says of the evaluated system.
        """
        middle = time.perf_counter()
        scores = {subset.name: subset.score(source) for subset, source in zip(self.sets, predictions, strict=True)}
        first = next(iter(scores.values()))
        figures, per_category, rules = first.figures, first.per_category, {**self.sets[0].protocol, **first.protocol}
        if self.benchmark == "odinw":
            figures = summary({name: s.figures for name, s in scores.items()})
            per_category = {f"{name}/{k}": v for name, s in scores.items() for k, v in s.per_category.items()}
            rules = {"sets": {p.name: {**p.protocol, "sha256": p.digest} for p in self.sets}, **first.protocol}
        protocol: dict[str, object] = {
            **({"title": self.title} if self.title else {}),
            "annotations": source_name(self.annotations, "annotations"),
            "annotations_sha256": self.annotations_sha256,
            "split_sha256": hashlib.sha256("\n".join(map(str, self.image_ids)).encode()).hexdigest(),
            **system,
            **rules,
            "versions": _versions(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "seconds_predicting": round(middle - self.begin, 3),
            "seconds_judging": round(time.perf_counter() - middle, 3),
        }
        report = EvaluationReport(self.benchmark, figures, protocol, per_category, published_rows(self.benchmark))
        if self.output is not None:
            self._write(report, self.output, predictions)
        return report

    def _write(self, report: EvaluationReport, folder: Path, predictions: Sequence[JsonSource]) -> None:
        report.save(folder)
        if "thresholds" in report.protocol:
            with whole_file(folder / "thresholds.json") as file:
                json.dump(report.protocol["thresholds"], file, indent=1, ensure_ascii=False)
        if self.render:
            from openglip.evaluation.page import write_page

            for subset, source in zip(self.sets, predictions, strict=True):
                name = "report.html" if len(self.sets) == 1 else f"report-{subset.name}.html"
                write_page(folder / name, report, subset, source, self.images)


def _versions() -> dict[str, str]:
    versions = {"openglip": __version__, "python": platform.python_version(), "numpy": np.__version__}
    return versions | ({"torch": metadata.version("torch")} if "torch" in sys.modules else {})


def _weights_file(model: str, weights: StrPath | None) -> tuple[str | None, TrainingData | None]:
    """Digest of the weights' file (of several: of their digests), and the training data that the weights list."""
    from openglip.weights.hub import cached, embedded_file
    from openglip.weights.metadata import locate, model_card, read_info
    from openglip.weights.records import BY_FILE, RECORDS

    record = RECORDS.get(model) or BY_FILE.get(model)
    if weights == "random":
        return None, None
    if weights is not None or record is None:
        path = locate(Path(weights or model))
        return file_sha256(path), read_info(path).get("training_data")
    path = cached(record)
    files = [embedded_file(name) for name in record.embedded] or ([path] if path else [])
    digests = [file_sha256(path) for path in files]
    if len(digests) > 1:
        digests = [hashlib.sha256("".join(digests).encode()).hexdigest()]
    return next(iter(digests), None), model_card(record)["training_data"]
