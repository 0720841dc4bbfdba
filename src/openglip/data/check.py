"""Look for what is wrong with a data set before it is trained on: annotations, pictures, names, leakage of splits.

Kinds of findings are listed in docs/formats.md. Everything is read once; pictures are decoded in threads.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from openglip.data.findings import Finding, Findings, readable
from openglip.data.formats import Split, open_splits
from openglip.data.views import same_aspect
from openglip.errors import DataError, ImageError
from openglip.files import StrPath
from openglip.images.read import read_image
from openglip.prompts.text import clean_name
from openglip.structures.sample import FileSlice, Sample

SCALED = ("flickr30k", "caption-tsv", "webdataset", "parquet")
"""Formats whose pictures are often stored smaller than annotated; only their aspect has to agree."""
REPEATED = ("flickr30k", "mdetr", "objects365-tsv", "caption-tsv")
"""Formats in which an id may come back on purpose: several captions, resampled lists."""
WINDOW = 256  # pictures that wait to be opened; where they lie in memory, no more than these are held
ALIKE_BITS, ALIKE_LEVELS = 24, 7.0
"""Pictures stored again, smaller and at quality 60, differ in up to 25 bits and 2 levels; other photos in 65 and 21."""
Size = tuple[int, int]


@dataclass(frozen=True)
class Report:
    """findings: every fault. counts: images and boxes, and how many findings (and notes) of each kind."""

    findings: list[Finding]
    counts: dict[str, int]


@dataclass(frozen=True)
class Fingerprint:
    """A picture's content: hash of its pixels, 256 signs of brightness steps, 16 x 16 x 3 thumbnail."""

    pixels: str
    steps: np.ndarray
    thumbnail: np.ndarray


@dataclass
class _Seen:
    """What is kept of a split: ids in their order, the file of each; of each file size (None: unreadable), content."""

    ids: list[str | int | None] = field(default_factory=list)
    files: dict[str | int | None, str] = field(default_factory=dict)
    sizes: dict[str, Size | None] = field(default_factory=dict)
    contents: dict[str, Fingerprint] = field(default_factory=dict)


def check(
    path: StrPath,
    *,
    format: str | None = None,
    images: StrPath | None = None,
    against: Mapping[str, StrPath] | None = None,
    threads: int = 4,
) -> Report:
    """Check every split of a path.

    against: further splits by name (another file or folder) that are checked too and must not share pictures; one that
    bears the name of a split of the path is called "NAME (against)". Raises DataError when nothing is there and
    ConfigError when the format can't be told; whatever is wrong inside is a finding.
    """
    findings, counts = Findings(), {"images": 0, "boxes": 0}
    splits = _named_splits(path, format, images, against or {})
    seen: dict[str, _Seen] = {}
    for name, split in splits.items():
        seen[name] = _check_split(split, findings, counts, threads)
    names = list(seen)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            _check_leakage(one, seen[one], other, seen[other], findings)
    return Report(findings.items, {**counts, **dict(sorted(findings.counts.items()))})


def _named_splits(
    path: StrPath, format: str | None, images: StrPath | None, against: Mapping[str, StrPath]
) -> dict[str, Split]:
    splits = open_splits(path, format, images)
    for given, other in against.items():
        others = open_splits(other)
        for inner, split in others.items():
            name = given if len(others) == 1 else f"{given}/{inner}"
            while name in splits:  # --against train=old/train.json beside the path's own train
                name += " (against)"
            splits[name] = split
    return splits


def _check_split(split: Split, findings: Findings, counts: dict[str, int], threads: int) -> _Seen:
    seen, waiting, vocabularies = _Seen(), dict[tuple[str, Size], Sample](), set[tuple[str, ...]]()
    known: set[tuple[str, Size]] = set()  # a picture may come back, with another size
    for number, sample in enumerate(_readable(split, findings)):
        counts["boxes"] += len(sample)
        file = _file(sample, number, split.path)
        if sample.image_id in seen.files and split.format not in REPEATED and sample.labels is not None:
            findings.add("duplicate_id", file, sample.image_id, f"two pictures have the id {sample.image_id!r}")
        if not _is_row(sample):
            seen.ids.append(sample.image_id)
            seen.files.setdefault(sample.image_id, file)
        if (file, sample.size) not in known:
            known.add((file, sample.size))
            waiting[file, sample.size] = sample
        if len(waiting) == WINDOW:
            _check_pictures(waiting, seen, split.format, findings, threads)
            waiting = {}
        if sample.categories is not None and sample.categories not in vocabularies:
            vocabularies.add(sample.categories)
            _check_names(sample.categories, split.path, findings)
    _check_pictures(waiting, seen, split.format, findings, threads)
    counts["images"] += len(seen.sizes)
    return seen


def _check_pictures(
    samples: Mapping[tuple[str, Size], Sample], seen: _Seen, format: str, findings: Findings, threads: int
) -> None:
    """Open each picture that is new and compare it with its annotations."""
    new = {file: sample for (file, _), sample in samples.items() if file not in seen.sizes}
    with ThreadPoolExecutor(threads) as pool:
        for file, found in zip(new, pool.map(_opened, new, new.values()), strict=True):
            if isinstance(found, Finding):
                findings.add(found.kind, found.file, found.id, found.message)
                seen.sizes[file] = None
            else:
                seen.sizes[file], seen.contents[file] = found
    for (file, annotated), sample in samples.items():
        size = seen.sizes[file]
        if size is None or (same_aspect(size, annotated) if format in SCALED else size == annotated):
            continue
        text = f"the picture is {size[1]} x {size[0]}, the annotation says {annotated[1]} x {annotated[0]}"
        turned = " (turned?)" if size == annotated[::-1] else ""
        findings.add("size_mismatch", file, sample.image_id, text + turned)


def _readable(split: Split, findings: Findings) -> Iterator[Sample]:
    """The samples of a split; an error of the reader becomes a finding."""
    try:
        yield from readable(split(findings), split.path, findings)
    except DataError as error:
        findings.add("unparsable", split.path, None, str(error))


def _opened(file: str, sample: Sample) -> tuple[Size, Fingerprint] | Finding:
    try:
        image = read_image(sample.image.read() if isinstance(sample.image, FileSlice) else sample.image)
    except (FileNotFoundError, ImageError, DataError, OSError) as error:
        kind = "missing_image" if isinstance(error, FileNotFoundError) else "unreadable_image"
        return Finding(kind, file, sample.image_id, str(error))
    return image.shape[:2], fingerprint(image)


def fingerprint(image: np.ndarray) -> Fingerprint:
    """Of H x W x 3 uint8 pixels."""
    picture = Image.fromarray(image)
    steps = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    thumbnail = np.asarray(picture.resize((16, 16), Image.Resampling.BOX))
    digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
    return Fingerprint(digest, (steps[:, 1:] > steps[:, :-1]).ravel(), thumbnail)


def _check_names(names: tuple[str, ...], file: object, findings: Findings) -> None:
    cleaned: dict[str, list[str]] = defaultdict(list)
    for name in names:
        cleaned[clean_name(name).strip().casefold()].append(name)
    for text, own in cleaned.items():
        if not text:
            findings.add("empty_name", file, own[0], f"nothing is left of the name {own[0]!r} after cleaning")
        elif len(own) > 1:
            listed = " and ".join(repr(name) for name in own)
            findings.add("colliding_names", file, own[0], f"the model can't tell apart {listed}: both read {text!r}")


def _check_leakage(one: str, first: _Seen, other: str, second: _Seen, findings: Findings) -> None:
    both = f"{one}, {other}"
    counted = _is_count(first.ids) and _is_count(second.ids)  # 1, 2, 3 in both: no identity of a picture
    for own in first.files.keys() & second.files.keys() - {None}:
        if not counted or first.files[own] == second.files[own]:
            findings.add("leak_id", both, own, f"{first.files[own]} and {second.files[own]} have the id {own!r}")
    by_pixels = defaultdict(list)
    for file, content in second.contents.items():
        by_pixels[content.pixels].append(file)
    exact = {file: by_pixels[content.pixels] for file, content in first.contents.items()}
    for file, twins in exact.items():
        for twin in twins:
            findings.add("leak_image", both, file, f"{file} and {twin} have equal pixels")
    for file, twin in _alike(first.contents, second.contents):
        if twin not in exact[file]:
            findings.add("leak_image", both, file, f"{file} and {twin} look alike (stored again?)")


def _alike(first: Mapping[str, Fingerprint], second: Mapping[str, Fingerprint]) -> Iterator[tuple[str, str]]:
    """Pairs of pictures with nearly equal brightness steps and colours; pictures without structure are left out."""
    ones, others = ([(f, c) for f, c in side.items() if 40 <= c.steps.sum() <= 216] for side in (first, second))
    if not ones or not others:
        return
    table = np.stack([c.steps for _, c in others]).astype(np.float32)
    for file, content in ones:
        steps = content.steps.astype(np.float32)
        differing = steps.sum() + table.sum(1) - 2 * (table @ steps)
        for i in np.flatnonzero(differing <= ALIKE_BITS):
            levels = np.abs(others[i][1].thumbnail.astype(np.int16) - content.thumbnail).mean()
            if levels <= ALIKE_LEVELS:
                yield file, others[i][0]


def _is_count(ids: Sequence[str | int | None]) -> bool:
    """Whether ids only number the pictures of their split: from 0 or 1 on, without gaps."""
    numbers = {int(str(i)) for i in ids if str(i).isdecimal()}
    return (
        len(numbers) == len(set(ids))
        and bool(numbers)
        and min(numbers) <= 1
        and max(numbers) - min(numbers) < len(numbers)
    )


def _is_row(sample: Sample) -> bool:
    """Whether the id is only the number of a row in one of several parquet files: FILE/NUMBER."""
    file, _, row = str(sample.image_id).rpartition("/")
    return isinstance(sample.image, bytes) and file == sample.source and row.isdecimal()


def _file(sample: Sample, number: int, path: Path) -> str:
    if not isinstance(sample.image, bytes):
        return str(sample.image)
    return f"picture {number} of {(path if path.is_dir() else path.parent) / sample.source}"
