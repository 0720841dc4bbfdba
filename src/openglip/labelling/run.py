"""`openglip.label`: images and captions become boxes with phrases, shard by shard; it can be stopped at any time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import openglip
from openglip.errors import ConfigError
from openglip.files import HOLDER_FILE, LOCK_FILE, StrPath, folder_lock, remove_temporary_files
from openglip.labelling.duplicates import compute_hashes, find_duplicates
from openglip.labelling.engine import Outcome, Row, Run, ShardFunction, in_process, on_processes, on_ray
from openglip.labelling.inputs import SHARD_SIZE, Shard, plan
from openglip.labelling.manifest import KINDS, NAME, Manifest
from openglip.labelling.shards import LabelSettings, label_shard
from openglip.labelling.teacher import Agreement, Model, Teacher, TeacherSettings, build_detector
from openglip.predict.options import DetectArguments, DetectOptions
from openglip.prompts.phrases import resolve_chunker
from openglip.prompts.text import check_names, parse_names
from openglip.runtime import Precision, Progress, gpu_count, processor_count, set_num_threads

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class LabelJob:
    """What a worker needs to label shards."""

    folder: Path
    model: Model
    weights: StrPath | None
    teacher: TeacherSettings
    labels: LabelSettings
    categories: Sequence[str] | None
    provenance: dict[str, Any]
    duplicates: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def start_worker(self, number: int) -> ShardFunction:
        """Build the teacher, on the GPU of this number where any will do.

        Raises:
            ConfigError: The weights differ from those of the run.
        """
        set_num_threads(self.teacher.threads)
        device = self.teacher.device
        if device == "cuda":
            device = f"cuda:{number % gpu_count()}"
        detector = build_detector(self.model, self.weights, device, self.teacher.precision)
        digest, expected = detector.backend.weights_sha256(), self.provenance["weights_sha256"]
        if digest != expected:
            raise ConfigError(f"the weights here have the sha256 {digest}, those of the run {expected}")
        teacher = Teacher(detector, self.teacher, self.categories)

        def label(shard: Shard, progress: Callable[[Progress], None]) -> Row:
            duplicates = self.duplicates.get(shard.name)
            return label_shard(
                shard, teacher, self.labels, self.folder, self.provenance, duplicates=duplicates, progress=progress
            )

        return label


def label(
    source: StrPath | Iterable[StrPath],
    output: StrPath,
    *,
    model: Model = "nano",
    weights: StrPath | None = None,
    categories: str | Sequence[str] | None = None,
    images: StrPath | None = None,
    workers: int | None = None,
    engine: Engine = "local",
    address: str | None = None,
    shard_size: int = SHARD_SIZE,
    labels: LabelSettings | None = None,
    drop_duplicates: bool = False,
    exclude: StrPath | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int = 1,
    agreement: Agreement | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
    options: DetectOptions | None = None,
    **arguments: Unpack[DetectArguments],
) -> Manifest:
    """Let a model label images with captions, or with a list of categories; see docs/labelling.md.

    Args:
        source: A folder of images, an archive, ...; see `labelling.inputs`. Several are labelled as one input.
        output: The folder to write. The same call on the same folder continues where the last one ended.
        model: Name of a model, path of a checkpoint, a `Detector`, or a function of a module that returns one. A
            `Detector` itself labels in this process only.
        weights: Checkpoint for a model that is given by name.
        categories: Names to look for instead of the phrases of captions.
        images: Folder or tar of the images, where they are not next to the captions.
        workers: Number of processes; 0 labels in this process. None: one per core or per GPU.
        engine: "local", or "ray".
        address: Address of a Ray cluster.
        shard_size: Pairs per shard, where the input is not divided.
        labels: Which captions, images, phrases and boxes are kept.
        drop_duplicates: Skip images that look like an earlier one.
        exclude: Another input, such as an evaluation set; images that look like one of its images are skipped.
        device: "auto", "cpu", "cuda", ... for a model that is given by name or path.
        precision: "fp32", "bf16" or "auto", likewise.
        threads: Threads of each worker.
        agreement: Keep only boxes that are found again on a second view, "flip" or "jitter".
        progress: Called with the number of shards that are done; its figures are "pairs", "seconds", and "seconds_left"
            as soon as a shard is done.
        options: Options of detection.
        **arguments: Single options, such as `threshold` (0.1 by default), `nms_iou` or `short_side`.

    Returns:
        The manifest of the run: `folder`, `figures`, `shards`, and `failed`, the shards that could not be processed.

    Raises:
        ConfigError: The folder holds a run with other settings, or the arguments do not fit together.
        DataError: The input can't be used.
    """
    if engine not in get_args(Engine):
        raise ConfigError(f"no engine {engine!r}: use {' or '.join(get_args(Engine))}")
    in_this_process_only = not isinstance(model, (str, PathLike)) and not callable(model)
    if in_this_process_only and (engine != "local" or workers):
        raise ConfigError(
            "a Detector labels in this process only: leave out workers and engine, or pass a model's name, the path of "
            "a checkpoint, or a function of a module that returns a Detector"
        )
    shards = plan(source, images, shard_size)
    detect_options = (options or DetectOptions()).with_arguments(arguments)
    teacher = TeacherSettings(detect_options, precision, device, threads, agreement)
    job, settings = _prepare(model, weights, categories, teacher, labels or LabelSettings(), Path(output))
    settings |= {"input_sha256": _input_sha256(shards), "drop_duplicates": drop_duplicates, "exclude": None}
    count = 0 if in_this_process_only else _worker_count(workers, job.teacher.device)
    run = _runner(engine, count, address, job.teacher.device)
    excluded = compute_hashes(plan(exclude), run) if exclude is not None else {}
    if exclude is not None:
        settings["exclude"] = hashlib.sha256(json.dumps(excluded, sort_keys=True).encode()).hexdigest()
    with _locked(job.folder):
        manifest = _open_manifest(job.folder, settings, shards)
        todo = [shard for shard in shards if not manifest.is_done(shard.name)]
        if todo and (drop_duplicates or excluded):
            job = replace(job, duplicates=find_duplicates(shards, excluded, drop_duplicates, run))
        for shard in todo:
            manifest.shards.pop(shard.name, None)
        manifest.save()
        with closing(run(todo, job.start_worker)) as outcomes:
            for outcome in _report_progress(outcomes, len(shards) - len(todo), len(shards), progress):
                if outcome.row is not None:
                    manifest.shards[outcome.shard.name] = outcome.row
                    manifest.failed.pop(outcome.shard.name, None)
                else:
                    manifest.failed[outcome.shard.name] = outcome.error or ""
                manifest.save()
    return manifest


def _prepare(
    model: Model,
    weights: StrPath | None,
    categories: str | Sequence[str] | None,
    teacher: TeacherSettings,
    labels: LabelSettings,
    folder: Path,
) -> tuple[LabelJob, dict[str, Any]]:
    """The job, and the settings that the output depends on."""
    if isinstance(categories, str):
        categories = parse_names(categories)
    if categories is not None:
        check_names(categories)
    detector = build_detector(model, weights, teacher.device, teacher.precision)
    device_type, options = detector.device.partition(":")[0], teacher.options
    if categories is None and (options.distractors or options.chunk_size is not None):
        raise ConfigError("distractors and chunk_size are for categories: a caption is read as it is")
    if device_type == "cpu" and options.batch_size is None:
        options = replace(options, batch_size=1)  # few shapes, so that memory stays flat
    teacher = replace(
        teacher,
        options=options,
        precision=detector.precision,
        device=device_type if teacher.device == "auto" else teacher.device,
    )
    chunker = None if categories is not None else resolve_chunker(labels.chunker)
    settings = {
        "teacher": detector.backend.name,
        "weights_sha256": detector.backend.weights_sha256(),
        "categories": None if categories is None else list(categories),
        **teacher.as_dict(),
        **asdict(labels),
        "device": device_type,
        "chunker": chunker,
        "version": openglip.__version__,
    }
    if chunker is not None:
        labels = replace(labels, chunker=chunker.partition(":")[0])  # type: ignore[arg-type]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    provenance = {
        "teacher": settings["teacher"],
        "weights_sha256": settings["weights_sha256"],
        "threshold": teacher.threshold,
        "prompt": "categories" if categories is not None else f"caption, {chunker}",
        "settings_sha256": digest,
        "version": settings["version"],
    }
    return LabelJob(folder, model, weights, teacher, labels, categories, provenance), settings


def _open_manifest(folder: Path, settings: dict[str, Any], shards: Sequence[Shard]) -> Manifest:
    """The manifest of the folder, or a new one for an empty folder."""
    if (folder / NAME).exists():
        manifest = Manifest.load(folder)
        manifest.check_settings(settings)
        return manifest
    foreign = sorted(
        p.name for p in folder.iterdir() if p.name not in (LOCK_FILE, HOLDER_FILE) and not p.name.endswith(".tmp")
    )
    if foreign:
        raise ConfigError(f"{folder} is not empty and holds no labelling run ({foreign[0]}): choose another --output")
    return Manifest(folder, settings, [shard.name for shard in shards])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the output folder, and remove the half-written files of a run that was killed."""

    def remove_half_written() -> None:
        for path in (folder, *(folder / kind for kind in KINDS)):
            remove_temporary_files(path)

    with folder_lock(folder):
        remove_half_written()
        try:
            yield
        finally:
            remove_half_written()


def _input_sha256(shards: Sequence[Shard]) -> str:
    """A digest of the names and contents of shards, without reading images or archives."""
    digest = hashlib.sha256()
    for shard in shards:
        rows = [[pair.filename, pair.id, pair.caption] for pair in shard.rows or ()]
        digest.update(json.dumps([shard.name, shard.size, rows], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _runner(engine: Engine, count: int, address: str | None, device: str) -> Run:
    if engine == "ray":
        gpus = 1 if device.startswith("cuda") else 0
        return lambda shards, job: on_ray(shards, job, max(1, count), address, gpus)
    if address is not None:
        raise ConfigError("an address is for the engine 'ray'")
    return in_process if count == 0 else lambda shards, job: on_processes(shards, job, count)


def _worker_count(workers: int | None, device: str) -> int:
    if workers is not None:
        if workers < 0:
            raise ConfigError(f"workers is {workers}; it must be 0 or more")
        return workers
    if device == "cuda":
        return gpu_count()
    return processor_count() if device == "cpu" else 1


def _report_progress(
    outcomes: Iterator[Outcome], done: int, total: int, progress: Callable[[Progress], None]
) -> Iterator[Outcome]:
    """Pass on finished shards, and call `progress` for each outcome."""
    begin, done_before = time.monotonic(), done
    finished_pairs, current_pairs = 0, {}
    for outcome in outcomes:
        if outcome.pairs is not None:
            current_pairs[outcome.shard.name] = outcome.pairs
        else:
            current_pairs.pop(outcome.shard.name, None)
            finished_pairs += outcome.row["counts"]["pairs"] if outcome.row is not None else 0
            done += 1
            yield outcome
        seconds = time.monotonic() - begin
        figures = {"pairs": finished_pairs + sum(current_pairs.values()), "seconds": seconds}
        if done > done_before:
            figures["seconds_left"] = seconds / (done - done_before) * (total - done)
        progress(Progress(done, total, "shards", figures=figures))
