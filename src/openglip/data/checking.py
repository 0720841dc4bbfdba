"""Look for what is wrong with a data set before it is trained on: annotations, images, names, leakage between splits.

Kinds of findings are listed in docs/formats.md. Everything is read once; images are decoded in threads.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from openglip.data.findings import Finding, Findings
from openglip.data.reading import Split, open_splits
from openglip.data.views import same_aspect
from openglip.errors import DataError, ImageError
from openglip.files import StrPath
from openglip.images.read import read_image
from openglip.prompts.text import clean_name
from openglip.runtime import Progress
from openglip.structures.sample import Sample

WINDOW = 256  # images that wait to be opened; where they lie in memory, no more than these are held
ALIKE_BITS, ALIKE_LEVELS = 24, 7.0
"""Images stored again, smaller and at quality 60, differ in up to 25 bits and 2 levels; other photos in 65 and 21."""
Size = tuple[int, int]


@dataclass(frozen=True)
class CheckReport:
    """What `check` found.

    Attributes:
        findings: Every fault.
        counts: Images and boxes, and how many findings and notes of each kind.
    """

    findings: list[Finding]
    counts: dict[str, int]


@dataclass(frozen=True)
class Fingerprint:
    """An image's content: hash of its pixels, 256 signs of brightness steps, 16 x 16 x 3 thumbnail."""

    pixels: str
    steps: np.ndarray
    thumbnail: np.ndarray


def check(
    path: StrPath,
    *,
    format: str | None = None,
    images: StrPath | None = None,
    against: Mapping[str, StrPath] | None = None,
    threads: int = 4,
    progress: Callable[[Progress], None] | None = None,
) -> CheckReport:
    """Check every split of a data set: annotations, images, names, and images that occur in two splits.

    Args:
        path: A file or folder.
        format: Name of the format, where the path does not tell it.
        images: Folder or uncompressed tar of the images, where they are not next to the annotations.
        against: Further splits by name (another file or folder) that are checked too and must not share images. One
            with the name of a split of the path is called "NAME (against)".
        threads: Threads that decode images.
        progress: Called with the number of images read so far.

    Returns:
        The report. Whatever is wrong inside the files is a finding in it.

    Raises:
        DataError: The path does not exist.
        ConfigError: The format is unknown or can't be told.
    """
    findings = Findings()
    checks: list[_SplitCheck] = []
    for name, split in _named_splits(path, format, images, against or {}).items():
        before = sum(len(check.sizes) for check in checks)
        checks.append(_SplitCheck(name, split, findings, threads))
        for done in checks[-1].run():
            if progress is not None:
                progress(Progress(before + done, None, "images", name))
    for one, other in combinations(checks, 2):
        _check_leakage(one, other, findings)
    counts = {"images": sum(len(check.sizes) for check in checks), "boxes": sum(check.boxes for check in checks)}
    return CheckReport(findings.items, counts | dict(sorted(findings.counts.items())))


def _named_splits(
    path: StrPath, format: str | None, images: StrPath | None, against: Mapping[str, StrPath]
) -> dict[str, Split]:
    splits = open_splits(path, format, images)
    for further, other in against.items():
        others = open_splits(other)
        for inner, split in others.items():
            name = further if len(others) == 1 else f"{further}/{inner}"
            while name in splits:  # --against train=old/train.json and a train in the path
                name += " (against)"
            splits[name] = split
    return splits


@dataclass
class _SplitCheck:
    """Checks one split, and holds what has to be compared with other splits.

    Attributes:
        boxes: Number of boxes.
        ids: The ids in their order.
        files: The file of each id.
        sizes: The size of each file, None where it can't be read.
        fingerprints: The content of each file that can be read.
    """

    name: str
    split: Split
    findings: Findings
    threads: int
    boxes: int = 0
    ids: list[str | int | None] = field(default_factory=list)
    files: dict[str | int | None, str] = field(default_factory=dict)
    sizes: dict[str, Size | None] = field(default_factory=dict)
    fingerprints: dict[str, Fingerprint] = field(default_factory=dict)

    def run(self) -> Iterator[int]:
        """Check the split; yields the number of images now and then."""
        waiting = dict[tuple[str, Size], Sample]()
        annotated = set[tuple[str, Size]]()  # an image may come back, with another size
        vocabularies = set[tuple[str, ...]]()
        for number, sample in enumerate(self._samples()):
            self.boxes += len(sample)
            file, image_id = _file(sample, number, self.split.path), sample.image_id
            if image_id in self.files and sample.labels is not None and not self.split.format.repeated:
                self.findings.add("duplicate_id", file, image_id, f"two images have the id {image_id!r}")
            if not _is_row(sample):
                self.ids.append(image_id)
                self.files.setdefault(image_id, file)
            if (file, sample.size) not in annotated:
                annotated.add((file, sample.size))
                waiting[file, sample.size] = sample
            if len(waiting) == WINDOW:
                yield self._check_images(waiting)
                waiting = {}
            if sample.categories is not None and sample.categories not in vocabularies:
                vocabularies.add(sample.categories)
                _check_names(sample.categories, self.split.path, self.findings)
        yield self._check_images(waiting)

    def _samples(self) -> Iterator[Sample]:
        """The samples of the split; an error of the reader becomes a finding."""
        try:
            yield from self.split.samples(self.findings)
        except DataError as error:
            self.findings.add("unparsable", self.split.path, None, str(error))

    def _check_images(self, samples: Mapping[tuple[str, Size], Sample]) -> int:
        """Open each image that is new and compare it with its annotations; returns the number of images so far."""
        new = {file: sample for (file, _), sample in samples.items() if file not in self.sizes}
        with ThreadPoolExecutor(self.threads) as pool:
            for file, opened in zip(new, pool.map(_opened, new, new.values()), strict=True):
                if isinstance(opened, Finding):
                    self.findings.add(opened.kind, opened.file, opened.id, opened.message)
                    self.sizes[file] = None
                else:
                    self.sizes[file], self.fingerprints[file] = opened
        for (file, annotated), sample in samples.items():
            size = self.sizes[file]
            if size is None or size == annotated or (self.split.format.scaled and same_aspect(size, annotated)):
                continue
            text = f"the image is {size[1]} x {size[0]}, the annotation says {annotated[1]} x {annotated[0]}"
            turned = " (turned?)" if size == annotated[::-1] else ""
            self.findings.add("size_mismatch", file, sample.image_id, text + turned)
        return len(self.sizes)


def _opened(file: str, sample: Sample) -> tuple[Size, Fingerprint] | Finding:
    try:
        image = read_image(sample.image)
    except (ImageError, DataError, OSError) as error:
        kind = "missing_image" if isinstance(error, FileNotFoundError) else "unreadable_image"
        return Finding(kind, file, sample.image_id, str(error))
    return image.shape[:2], fingerprint(image)


def fingerprint(image: np.ndarray) -> Fingerprint:
    """The fingerprint of H x W x 3 uint8 pixels.

    Labelling compares images by `labelling.filters.perceptual_hash`, which need not decode them whole: it finds copies
    among millions of images, this finds them for certain between the splits of a data set.
    """
    picture = Image.fromarray(image)
    steps = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    thumbnail = np.asarray(picture.resize((16, 16), Image.Resampling.BOX))
    digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
    return Fingerprint(digest, (steps[:, 1:] > steps[:, :-1]).ravel(), thumbnail)


def _check_names(names: tuple[str, ...], file: object, findings: Findings) -> None:
    by_text: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_text[clean_name(name).strip().casefold()].append(name)
    for text, same in by_text.items():
        if not text:
            findings.add("empty_name", file, same[0], f"nothing is left of the name {same[0]!r} after cleaning")
        elif len(same) > 1:
            listed = " and ".join(repr(name) for name in same)
            findings.add("colliding_names", file, same[0], f"the model can't tell apart {listed}: both read {text!r}")


def _check_leakage(one: _SplitCheck, other: _SplitCheck, findings: Findings) -> None:
    both = f"{one.name}, {other.name}"
    counted = _is_count(one.ids) and _is_count(other.ids)  # 1, 2, 3 in both: the ids identify no image
    for image_id, file in one.files.items():
        twin = other.files.get(image_id)
        if image_id is not None and twin is not None and (file == twin or not counted):
            findings.add("leak_id", both, image_id, f"{file} and {twin} have the id {image_id!r}")
    by_pixels = defaultdict(list)
    for file, content in other.fingerprints.items():
        by_pixels[content.pixels].append(file)
    exact = {file: by_pixels[content.pixels] for file, content in one.fingerprints.items()}
    for file, twins in exact.items():
        for twin in twins:
            findings.add("leak_image", both, file, f"{file} and {twin} have equal pixels")
    for file, twin in _alike(one.fingerprints, other.fingerprints):
        if twin not in exact[file]:
            findings.add("leak_image", both, file, f"{file} and {twin} look alike (stored again?)")


def _alike(first: Mapping[str, Fingerprint], second: Mapping[str, Fingerprint]) -> Iterator[tuple[str, str]]:
    """Pairs of images with nearly equal brightness steps and colours; images without structure are left out."""
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
    """Whether ids only number the images of their split: from 0 or 1 on, without gaps."""
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
    return f"image {number} of {(path if path.is_dir() else path.parent) / sample.source}"
