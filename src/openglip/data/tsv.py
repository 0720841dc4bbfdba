"""The TSV files of the official code, read by line without reading the file.

    x.tsv       one row a line, fields separated by tabs
    x.lineidx   the byte offset of each line, one a line
    x.yaml      img, label, hw, linelist, labelmap or jsondict, imageid2idx: files, relative to its folder

An image row is key ... base64 (the last field). An hw row is key and [{"height", "width"}] or "h w". A linelist row is
a line number from 0; it selects and repeats rows. imageid2idx is a JSON of image id to row of the image file.
Source: docs/spec.md 8.4.8.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from openglip.data.files import decode, read_json, read_lines, read_yaml
from openglip.data.findings import Findings, collector
from openglip.data.format import Candidate
from openglip.errors import DataError
from openglip.files import FileSlice, StrPath
from openglip.structures.sample import Sample


class TsvFile:
    """Rows of a TSV by number.

    Args:
        path: The .tsv file.
        make_index: Scan the file when its .lineidx is missing, which else is a DataError.
    """

    def __init__(self, path: StrPath, *, make_index: bool = False) -> None:
        self.path = Path(path)
        index = self.path.with_suffix(".lineidx")
        if not self.path.is_file():
            raise DataError(f"{path}: no such file")
        if index.is_file():
            offsets = _numbers(index)
        elif make_index:
            with open(self.path, "rb") as file:
                lengths = [len(line) for line in file]
            offsets = np.cumsum([0, *lengths[:-1]]) if lengths else np.zeros(0, np.int64)
        else:
            raise DataError(f"{index}: no such file; it holds the byte offset of each line of {self.path.name}")
        self.offsets = np.append(offsets, self.path.stat().st_size)
        if not (np.diff(self.offsets) > 0).all():
            raise DataError(f"{index}: offsets do not rise or leave the file of {self.offsets[-1]} bytes")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def line(self, number: int) -> FileSlice:
        """Where a line lies; read as an image it gives the decoded last field."""
        if not 0 <= number < len(self):
            raise DataError(f"{self.path}: there is no line {number}, it has {len(self)}")
        begin, end = (int(x) for x in self.offsets[number : number + 2])
        return FileSlice(str(self.path), begin, end - begin, is_base64=True)

    def row(self, number: int) -> list[str]:
        """The fields of a line, stripped."""
        line = self.line(number)
        content = FileSlice(line.path, line.offset, line.length).read()
        return [field.strip() for field in decode(content, f"{self.path}, line {number}").split("\t")]

    def key(self, number: int) -> str:
        """The first field of a line."""
        return self.row(number)[0]

    def parsed(self, number: int) -> Any:
        """The last field of a line as JSON. Raises DataError with file and line."""
        try:
            return json.loads(self.row(number)[-1])
        except json.JSONDecodeError as error:
            raise DataError(f"{self.path}, line {number}: not json: {error.msg}") from error


class TsvSet:
    """The files that a YAML names. Raises DataError when the YAML can't be read."""

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        self.files = {str(k): self.path.parent / v for k, v in read_yaml(path).items() if isinstance(v, str)}

    @cached_property
    def images(self) -> TsvFile:
        """The images; their lineidx must exist."""
        return TsvFile(self._file("img"))

    @cached_property
    def labels(self) -> TsvFile:
        """The labels."""
        return TsvFile(self._file("label"), make_index=True)

    @cached_property
    def rows(self) -> np.ndarray:
        """Line of each sample: the linelist's, or every line."""
        if "linelist" not in self.files:
            return np.arange(len(self.labels))
        rows = _numbers(self.files["linelist"])
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self.labels)):
            raise DataError(f"{self.files['linelist']}: a line number is not in 0..{len(self.labels) - 1}")
        return rows

    @cached_property
    def sizes(self) -> np.ndarray | None:
        """Per line (height, width) where there is an hw file."""
        if "hw" not in self.files:
            return None
        file = TsvFile(self.files["hw"])
        if len(file) != len(self.labels):
            raise DataError(f"{file.path}: {len(file)} lines, but {self.labels.path.name} has {len(self.labels)}")
        return np.array([_size(file, i) for i in range(len(file))], np.int64).reshape(-1, 2)

    @cached_property
    def row_of_id(self) -> dict[str, int] | None:
        """Row of the image file of each image id, where the YAML names imageid2idx."""
        if "imageid2idx" not in self.files:
            return None
        content = read_json(self.files["imageid2idx"])
        if not isinstance(content, dict) or not all(isinstance(v, int) for v in content.values()):
            raise DataError(f"{self.files['imageid2idx']}: no json of image id to row")
        return content

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Category names in the order of their numbers, without "__background__"."""
        file = self.files.get("labelmap") or self.files.get("jsondict")
        if file is None:
            raise DataError(f"{self.path}: names neither labelmap nor jsondict")
        if file.suffix == ".tsv":
            return tuple(line.split("\t")[0] for line in read_lines(file))
        content = read_json(file)
        table = content.get("label_to_idx", content) if isinstance(content, dict) else None
        if not isinstance(table, dict) or not all(isinstance(v, int) for v in table.values()):
            raise DataError(f"{file}: no label_to_idx with a number per name")
        return tuple(name for name in sorted(table, key=lambda n: table[n]) if name != "__background__")

    def check_rows(self) -> None:
        """Raise DataError when the linelist leaves the label file, or images and labels differ in their rows."""
        _ = self.rows  # a linelist that does not fit is reported first
        if len(self.images) != len(self.labels):
            raise DataError(f"{self.path}: {len(self.images)} image rows, but {len(self.labels)} label rows")

    def _file(self, key: str) -> Path:
        if key not in self.files:
            raise DataError(f"{self.path}: names no {key!r}")
        return self.files[key]


class TsvSamples(Sequence[Sample]):
    """Samples of a TSV set, each made when it is read.

    Args:
        path: The set's YAML.
        findings: Collects what is left out; None logs it.
        source: Name given to the samples.
        row_by_row: Each label row has the image row of its number; checked.

    Attributes:
        files: The set's files.
        source: Name given to the samples.
        findings: Collects what is left out.
        sizes: N x 2 heights and widths where the set has an hw file, else None.
    """

    def __init__(self, path: StrPath, findings: Findings | None, source: str, *, row_by_row: bool = False) -> None:
        self.files, self.source = TsvSet(path), source
        if row_by_row:
            self.files.check_rows()
        self.findings = collector(findings)
        sizes = self.files.sizes
        self.sizes = None if sizes is None else sizes[self.files.rows]

    def __len__(self) -> int:
        return len(self.files.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.sample(index, int(self.files.rows[index]))

    @abstractmethod
    def sample(self, index: int, row: int) -> Sample:
        """The sample at `index`, whose label is on line `row`. Raises DataError when it can't be read."""


def is_tsv_set(candidate: Candidate) -> bool:
    """Whether a file is the YAML of a TSV set. Raises DataError for a set of several label files."""
    if "label" not in candidate.yaml or "names" in candidate.yaml:
        return False
    if not isinstance(candidate.yaml["label"], str):
        raise DataError(f"{candidate.path}: label names no file; a set has one, so give a yaml to each of several")
    return True


def first_label(candidate: Candidate) -> Any:
    """The first label row that can be read; None when there is none."""
    labels = TsvSet(candidate.path).labels
    for number in range(len(labels)):
        try:
            return labels.parsed(number)
        except DataError:
            continue  # reported when the row is read
    return None


def _numbers(path: Path) -> np.ndarray:
    """A whole number a line. Raises DataError."""
    try:
        return np.array(read_lines(path), np.int64).reshape(-1)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: a line is no number: {error}") from error


def _size(file: TsvFile, number: int) -> tuple[int, int]:
    field = file.row(number)[-1]
    try:
        if field.startswith(("[", "{")):
            content = json.loads(field)
            content = content[0] if isinstance(content, list) else content
            return int(content["height"]), int(content["width"])
        height, width = field.split()
        return int(height), int(width)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(f"{file.path}, line {number}: not a height and width: {field!r:.60}") from error
