"""Which format a path has, its named splits, and their samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from openglip.data.findings import Findings, collector, readable
from openglip.data.format import Candidate, Format, SplitRead
from openglip.data.formats import BY_NAME, FORMATS
from openglip.errors import ConfigError, DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample


@dataclass(frozen=True)
class Split:
    """A split of a data set that is not read yet.

    Attributes:
        format: The format of its file or folder.
        path: That file or folder.
        read: Function of a collector of findings that returns the samples. Those of a TSV set are a sequence.
    """

    format: Format
    path: Path
    read: SplitRead

    def samples(self, findings: Findings) -> Iterator[Sample]:
        """The samples that can be read; what is left out is recorded."""
        return readable(self.read(findings), self.path, findings)


def read(
    path: StrPath,
    *,
    split: str | None = None,
    format: str | None = None,
    images: StrPath | None = None,
    findings: Findings | None = None,
) -> Iterator[Sample]:
    """Read a data set in any format; docs/formats.md lists them.

    Args:
        path: A file or folder.
        split: Which split, where the path holds several.
        format: Name of the format, where the path does not tell it.
        images: Folder or uncompressed tar of the images, where they are not next to the annotations.
        findings: Collects what can't be used; None logs it.

    Returns:
        The samples, one after the other. Boxes are xyxy in pixels of the annotated size.

    Raises:
        DataError: The path does not exist, or can't be read.
        ConfigError: The format is unknown or can't be told, or the path holds several splits and none is named.
    """
    splits = open_splits(path, format, images)
    if split is None and len(splits) > 1:
        raise ConfigError(f"{path} holds {', '.join(splits)}: name one with split")
    name = split or next(iter(splits))
    if name not in splits:
        raise ConfigError(f"{path} has no split {name!r}; it holds {', '.join(splits)}")
    return _samples(splits[name], findings)


def open_splits(path: StrPath, format: str | None = None, images: StrPath | None = None) -> dict[str, Split]:
    """The splits of a path by their names, not read yet.

    A folder may hold several splits (train.json and val.json, YOLO's yaml, folders train and val); a file is one, named
    after itself, with its suffix where two would have one name. Arguments as `read`.

    Raises:
        DataError: The path does not exist.
        ConfigError: The format is unknown or can't be told.
    """
    folder_or_file = Path(path)
    if not folder_or_file.exists():
        raise DataError(f"{path}: no such file or folder")
    if format is not None and format not in BY_NAME:
        raise ConfigError(f"there is no format {format!r}; known are {', '.join(BY_NAME)}")
    chosen = BY_NAME[format] if format is not None else recognise(folder_or_file)
    if chosen is not None:
        return _splits(chosen, folder_or_file, images)
    parts = _parts(folder_or_file)
    if not parts:
        raise ConfigError(f"{path}: can't tell the format, give one of {', '.join(BY_NAME)}")
    opened = {key: open_splits(part, None, images) for key, part in parts.items()}
    return {
        key if len(splits) == 1 else f"{key}/{name}": split
        for key, splits in opened.items()
        for name, split in splits.items()
    }


def recognise(path: Path) -> Format | None:
    """The format of a file, or of a folder that is one data set; None when no format recognises it."""
    candidate = Candidate(path)
    return next((format for format in FORMATS if format.recognise is not None and format.recognise(candidate)), None)


def _samples(split: Split, findings: Findings | None) -> Iterator[Sample]:
    report = collector(findings)
    yield from split.samples(report)
    report.done(split.path)


def _splits(format: Format, path: Path, images: StrPath | None) -> dict[str, Split]:
    reads = dict(format.splits(path, images)) if format.splits is not None else {}
    if not reads:
        stem = path.stem if path.is_file() else path.name
        reads = {stem.removeprefix("instances_"): partial(format.read, path, images)}
    return {name: Split(format, path, read) for name, read in reads.items()}


def _parts(path: Path) -> dict[str, Path]:
    """The data sets inside a folder that is none itself: annotation files, else folders one level down."""
    if not path.is_dir():
        return {}
    patterns = ("annotations/*.json", "*.json", "*.jsonl", "*.csv", "*.yaml")
    files = [p for pattern in patterns for p in path.glob(pattern)]
    if any(p.name.startswith("instances_") for p in files):  # COCO as it is unzipped: the same images, other labels
        files = [p for p in files if not p.name.startswith("person_keypoints_")]
    files = [p for p in sorted(files) if recognise(p)]
    stems = [p.stem.removeprefix("instances_") for p in files]
    parts = {  # train.json and train.jsonl are two
        stem if stems.count(stem) == 1 else p.relative_to(path).as_posix(): p
        for stem, p in zip(stems, files, strict=True)
    }
    return parts or {p.name: p for p in sorted(path.iterdir()) if p.is_dir() and (recognise(p) or _parts(p))}
