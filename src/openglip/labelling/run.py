"""`openglip.label`: pictures and captions become boxes with phrases, shard by shard; it can be stopped at any time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

import openglip
from openglip.data.files import image_content
from openglip.errors import ConfigError, DataError, ImageError
from openglip.files import HOLDER_FILE, LOCK_FILE, StrPath, folder_lock, remove_temporary_files
from openglip.labelling.engine import Beat, Outcome, Work, in_process, on_processes, on_ray
from openglip.labelling.filters import near_duplicates, perceptual_hash
from openglip.labelling.inputs import SHARD_SIZE, Shard, plan
from openglip.labelling.manifest import KINDS, NAME, Manifest
from openglip.labelling.shards import LabelSettings, label_shard
from openglip.labelling.teacher import Model, Teacher, TeacherSettings, build_detector
from openglip.prompts.phrases import resolve_chunker
from openglip.prompts.text import check_names
from openglip.runtime import gpu_count, num_threads, processor_count, set_num_threads

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Progress:
    """done, total: shards. pairs: of this run so far, in all workers. seconds_left: None until a shard is done."""

    done: int
    total: int
    pairs: int
    seconds: float
    seconds_left: float | None


@dataclass(frozen=True)
class LabelJob:
    """All that a worker needs to label shards."""

    folder: Path
    model: Model
    weights: str | None
    teacher: TeacherSettings
    labels: LabelSettings
    categories: tuple[str, ...] | None
    provenance: dict[str, Any]
    repeated: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def worker(self, number: int = 0) -> Work:
        """Build the teacher, on the GPU of this number if it is to be any. Raises ConfigError for other weights."""
        set_num_threads(self.teacher.threads)
        device = self.teacher.device
        if device == "cuda":
            device = f"cuda:{number % gpu_count()}"
        detector = build_detector(self.model, self.weights, device, self.teacher.precision)
        found, wanted = detector.backend.weights_sha256(), self.provenance["weights_sha256"]
        if found != wanted:
            raise ConfigError(f"the weights here have the sha256 {found}, those of the run {wanted}")
        teacher = Teacher(detector, self.teacher, self.categories)

        def work(shard: Shard, beat: Beat) -> dict[str, Any]:
            repeated = self.repeated.get(shard.name)
            return label_shard(shard, teacher, self.labels, self.folder, self.provenance, repeated=repeated, beat=beat)

        return work


@dataclass(frozen=True)
class HashJob:
    """Perceptual hashes of a shard's pictures, with their names."""

    def worker(self, number: int = 0) -> Work:
        return lambda shard, beat: {"hashes": [_hash(pair) for pair in shard.pairs()]}


def label(
    source: StrPath | Iterable[StrPath],
    output: StrPath,
    *,
    model: Model = "nano",
    weights: str | None = None,
    categories: Sequence[str] | None = None,
    images: StrPath | None = None,
    workers: int | None = None,
    engine: Engine = "local",
    address: str | None = None,
    shard_size: int = SHARD_SIZE,
    teacher: TeacherSettings | None = None,
    labels: LabelSettings | None = None,
    drop_duplicates: bool = False,
    exclude: StrPath | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Manifest:
    """Let a model label pictures with captions, or with a list of categories; see docs/labelling.md.

    source: see `labelling.inputs`; images: where the pictures lie if not beside the captions. output: a folder; the
    same call on the same folder goes on where the last one ended. model: a name, a checkpoint, or a function of a
    module that returns a Detector. workers: processes; None: one per core, one per GPU; 0: this process. address: of a
    Ray cluster. drop_duplicates: leave out pictures that repeat an earlier one; exclude: or one of this input (an
    evaluation set). Returns the manifest; its `failed` names the shards that could not be done.
    Raises ConfigError for other settings than the folder's, DataError for an unusable input.
    """
    if engine not in get_args(Engine):
        raise ConfigError(f"no engine {engine!r}: use {' or '.join(get_args(Engine))}")
    shards = plan(source, images, shard_size)
    job, settings = _prepare(
        model, weights, categories, teacher or TeacherSettings(), labels or LabelSettings(), Path(output)
    )
    settings |= {"input_sha256": _input_sha256(shards), "drop_duplicates": drop_duplicates, "exclude": None}
    run = _runner(engine, _workers(workers, job.teacher.device), address, job.teacher.device)
    known = _hashes_of(plan(exclude), run) if exclude is not None else {}
    if exclude is not None:
        settings["exclude"] = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    with _folder(job.folder) as folder:
        manifest = _manifest(folder, settings, shards)
        todo = [shard for shard in shards if not manifest.is_done(shard.name)]
        if todo and (drop_duplicates or known):
            job = replace(job, repeated=_repeated(shards, known, drop_duplicates, run))
        for name in [s.name for s in todo]:
            manifest.shards.pop(name, None)
        manifest.save()
        with closing(run(todo, job)) as outcomes:
            for outcome in _counted(outcomes, len(shards) - len(todo), len(shards), progress):
                if outcome.row is not None:
                    manifest.shards[outcome.shard.name] = outcome.row
                    manifest.failed.pop(outcome.shard.name, None)
                else:
                    manifest.failed[outcome.shard.name] = outcome.error or ""
                manifest.save()
    return manifest


def _prepare(
    model: Model,
    weights: str | None,
    categories: Sequence[str] | None,
    teacher: TeacherSettings,
    labels: LabelSettings,
    folder: Path,
) -> tuple[LabelJob, dict[str, Any]]:
    """The job, and the settings that the output depends on."""
    if categories is not None:
        check_names(categories)
    detector = build_detector(model, weights, teacher.device, teacher.precision)
    if teacher.device == "auto":
        teacher = replace(teacher, device=detector.device.partition(":")[0])
    one = detector.device.partition(":")[0] == "cpu" and teacher.batch_size is None  # few shapes: flat memory
    teacher = replace(teacher, precision=detector.precision, batch_size=1 if one else teacher.batch_size)
    chunker = None if categories is not None else resolve_chunker(labels.chunker)
    settings = {
        "teacher": detector.backend.name,
        "weights_sha256": detector.backend.weights_sha256(),
        "categories": None if categories is None else list(categories),
        **asdict(teacher),
        **asdict(labels),
        "device": detector.device.partition(":")[0],
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
    names = None if categories is None else tuple(categories)
    return LabelJob(folder, model, weights, teacher, labels, names, provenance), settings


def _manifest(folder: Path, settings: dict[str, Any], shards: Sequence[Shard]) -> Manifest:
    """The folder's own manifest, or a new one for a folder that is empty."""
    if (folder / NAME).exists():
        manifest = Manifest.load(folder)
        manifest.refuse_other(settings)
        return manifest
    foreign = sorted(
        p.name for p in folder.iterdir() if p.name not in (LOCK_FILE, HOLDER_FILE) and not p.name.endswith(".tmp")
    )
    if foreign:
        raise ConfigError(f"{folder} is not empty and holds no labelling run ({foreign[0]}): choose another --output")
    return Manifest(folder, settings, [s.name for s in shards])


@contextmanager
def _folder(folder: Path) -> Iterator[Path]:
    """The output folder, for this run alone, without the half-written files of a run that was killed."""
    with folder_lock(folder):
        _remove_half_written(folder)
        try:
            yield folder
        finally:
            _remove_half_written(folder)


def _remove_half_written(folder: Path) -> None:
    for part in (folder, *(folder / kind for kind in KINDS)):
        remove_temporary_files(part)


def _input_sha256(shards: Sequence[Shard]) -> str:
    """A digest of what the shards are called and hold, without reading pictures or archives."""
    digest = hashlib.sha256()
    for shard in shards:
        rows = [[p.filename, p.id, p.caption] for p in shard.rows or ()]
        digest.update(json.dumps([shard.name, shard.size, rows], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


# --- workers -------------------------------------------------------------------------------------------------------

Run = Callable[[Sequence[Shard], Any], Generator[Outcome]]


def _runner(engine: Engine, workers: int, address: str | None, device: str) -> Run:
    if engine == "ray":
        return lambda shards, job: on_ray(
            shards, job, max(1, workers), address, gpus=1 if device.startswith("cuda") else 0
        )
    if address is not None:
        raise ConfigError("an address is for the engine 'ray'")
    return _here if workers == 0 else lambda shards, job: on_processes(shards, job, workers)


def _here(shards: Sequence[Shard], job: Any) -> Generator[Outcome]:
    """In this process, whose number of threads is the caller's again afterwards."""
    threads = num_threads()
    try:
        yield from in_process(shards, job)
    finally:
        set_num_threads(threads)


def _workers(workers: int | None, device: str) -> int:
    if workers is not None:
        if workers < 0:
            raise ConfigError(f"workers is {workers}; it must be 0 or more")
        return workers
    if device == "cuda":
        return gpu_count()
    return processor_count() if device == "cpu" else 1


def _counted(
    outcomes: Iterator[Outcome], done: int, total: int, progress: Callable[[Progress], None]
) -> Iterator[Outcome]:
    """Pass on finished shards and tell the progress."""
    begin, at_first = time.monotonic(), done
    finished, current = 0, {}
    for outcome in outcomes:
        if outcome.pairs is not None:
            current[outcome.shard.name] = outcome.pairs
        else:
            current.pop(outcome.shard.name, None)
            finished += outcome.row["counts"]["pairs"] if outcome.row is not None else 0
            done += 1
            yield outcome
        seconds = time.monotonic() - begin
        left = seconds / (done - at_first) * (total - done) if done > at_first else None
        progress(Progress(done, total, finished + sum(current.values()), seconds, left))


# --- near-duplicates -----------------------------------------------------------------------------------------------


def _hash(pair: Any) -> tuple[str, int | None]:
    try:
        return pair.filename, None if pair.image is None else perceptual_hash(image_content(pair.image))
    except (DataError, ImageError):
        return pair.filename, None


def _hashes_of(shards: Sequence[Shard], run: Run) -> dict[str, list[tuple[str, int | None]]]:
    """Per shard the name and hash of every pair's picture, in order."""
    rows: dict[str, Any] = {}
    with closing(run(shards, HashJob())) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise DataError(f"{outcome.shard.path}: its pictures can't be compared: {outcome.error}")
            if outcome.row is not None:
                rows[outcome.shard.name] = outcome.row["hashes"]
    return {shard.name: rows[shard.name] for shard in shards}


def _repeated(
    shards: Sequence[Shard], known: Mapping[str, list[tuple[str, int | None]]], own: bool, run: Run
) -> dict[str, dict[int, str]]:
    """Per shard the places of pairs whose picture repeats an earlier one (if `own`) or a known one, with its name."""
    hashes = _hashes_of(shards, run)
    # captions of one picture are no repetition; members of archives may bear equal names
    archives = {shard.name for shard in shards if shard.rows is None}
    places = [
        (name, i, (name if name in archives else "", f), h) for name, r in hashes.items() for i, (f, h) in enumerate(r)
    ]
    pictures = {key: value for _, _, key, value in reversed(places) if value is not None}
    keys = list(dict.fromkeys(key for _, _, key, _ in places if key in pictures))
    others = [item for row in known.values() for item in row if item[1] is not None]
    found = near_duplicates(
        np.array([pictures[key] for key in keys], np.uint64), np.array([h for _, h in others], np.uint64)
    )
    names = [name for _, name in keys] + [name for name, _ in others]
    repeats = {key: names[i] for key, i in zip(keys, found, strict=True) if i >= (0 if own else len(keys))}
    result: dict[str, dict[int, str]] = {}
    for shard, i, key, _ in places:
        if key in repeats:
            result.setdefault(shard, {})[i] = repeats[key]
    return result
