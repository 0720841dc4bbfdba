"""Any format to any other that has a writer, by way of samples; says what the other one can't hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openglip.data.files import image_content
from openglip.data.findings import Finding, Findings, readable
from openglip.data.formats import open_splits
from openglip.data.writers import WRITERS, write_yolo
from openglip.errors import ConfigError, DataError
from openglip.files import StrPath
from openglip.structures.sample import FileSlice, Sample

SUFFIX_OF = {"coco": ".json", "label-studio": ".json", "odvg": ".jsonl"}
FORMAT_OF = {".json": "coco", ".jsonl": "odvg", ".odvg": "odvg"}


@dataclass(frozen=True)
class Converted:
    """written: place of each split. samples: how many. lost: what the format can't hold, in samples (categories: in
    names). findings: annotations that could not be read, and counts of all that was left out.
    """

    written: dict[str, str]
    samples: int
    lost: dict[str, int]
    findings: list[Finding]
    left_out: dict[str, int]


def convert(
    path: StrPath,
    out: StrPath,
    *,
    format: str | None = None,
    source_format: str | None = None,
    images: StrPath | None = None,
) -> Converted:
    """Write every split of a data set in another format.

    out: a file (.json: COCO, .jsonl: ODVG), or a folder, which takes one file or folder per split. format: of `out`
    where its name does not say. source_format, images: as in `open_splits`. A picture that is not there is a finding
    and left out where the format holds pictures, a row of a TSV set or a part of a tar that can't be read everywhere.
    Raises ConfigError when `out` holds files already.
    """
    target = Path(out)
    name = format or FORMAT_OF.get(target.suffix.lower())
    if name not in WRITERS:
        raise ConfigError(f"{out}: can't write {name or 'it'}: give the format, one of {', '.join(WRITERS)}")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ConfigError(f"{out} is there already: give another place")
    splits = open_splits(path, source_format, images)
    if len(splits) > 1 and target.suffix:
        raise ConfigError(f"{path} has {len(splits)} splits ({', '.join(splits)}): give a folder instead of {out}")
    yolo = _yolo_splits(list(splits)) if name == "yolo" else {}
    findings, written, lost, samples = Findings(), dict[str, str](), dict[str, int](), 0
    for split, read in splits.items():
        place = _place(target, name, split, len(splits))
        readable_ones = readable(read(findings), read.path, findings)
        reading = _Counted(readable_ones, findings, needs_pictures=name not in SUFFIX_OF)
        found = write_yolo(reading, place, split=yolo[split]) if name == "yolo" else WRITERS[name](reading, place)
        written[split] = str(place)
        samples += reading.count
        for kind, number in found.items():
            lost[kind] = lost.get(kind, 0) + number
    return Converted(written, samples, lost, findings.items, dict(findings.counts))


class _Counted:
    """Samples on their way to a writer: counted, and without those whose picture can't be copied."""

    def __init__(self, samples: Iterable[Sample], findings: Findings, *, needs_pictures: bool) -> None:
        self.samples, self.findings, self.needs_pictures, self.count = samples, findings, needs_pictures, 0

    def __iter__(self) -> Iterator[Sample]:
        for sample in self.samples:
            if self.needs_pictures and isinstance(sample.image, str) and not Path(sample.image).is_file():
                self.findings.add("missing_image", sample.image, sample.image_id, f"{sample.image}: no such file")
                continue
            if isinstance(sample.image, FileSlice):  # every format copies it
                try:
                    image_content(sample.image)
                except DataError as error:
                    self.findings.add("unreadable_image", sample.image, sample.image_id, str(error))
                    continue
            self.count += 1
            yield sample


def _yolo_splits(names: list[str]) -> dict[str, str]:
    """Each split as YOLO calls it: train, val or test. Raises ConfigError where that can't be told."""
    words = {"train": "train", "val": "val", "dev": "val", "test": "test"}
    found: dict[str, list[str]] = {}
    for name in names:
        found[name] = [own for word, own in words.items() if word in name.lower().replace("trainval", "train")]
    if len(names) == 1 and not found[names[0]]:
        return {names[0]: "train"}
    told = {name: own[0] for name, own in found.items() if len(own) == 1}
    if len(told) < len(names) or len(set(told.values())) < len(names):
        raise ConfigError(f"YOLO knows train, val and test, and can't hold {', '.join(names)}: convert them one by one")
    return told


def _place(target: Path, name: str, split: str, splits: int) -> Path:
    if name == "yolo" or target.suffix:
        return target
    if name in SUFFIX_OF:
        return target / f"{split}{SUFFIX_OF[name]}"
    return target / split if splits > 1 else target
