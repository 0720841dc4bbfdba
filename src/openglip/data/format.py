"""`Format`: all that the package knows of one data format. Each file of `formats` defines one or two of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from openglip.data.files import read_json, read_yaml
from openglip.data.findings import Findings
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import ImageReference, Sample

Losses = Counter[str]
Read = Callable[[Path, StrPath | None, Findings], Iterable[Sample]]
SplitRead = Callable[[Findings], Iterable[Sample]]
Write = Callable[[Iterable[Sample], Path], Losses]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Pair:
    """An image with one caption, before anything else is known of it: what labelling works on.

    Attributes:
        filename: Name of the image, as its labels will give it.
        image: Where it is; None when it is missing.
        caption: Its caption without blanks around it; None when there is none.
        id: The pair's id in its file, if it has one.
        error: Why the pair can't be used; None when it can.
    """

    filename: str
    image: ImageReference | None = None
    caption: str | None = None
    id: str | int | None = None
    error: str | None = None


class Candidate:
    """A file or folder whose format is to be recognised. It is read once, however many formats look at it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_folder = path.is_dir()
        self.suffix = "" if self.is_folder else path.suffix.lower()

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the files and folders in a folder; none for a file."""
        return frozenset(entry.name for entry in self.path.iterdir()) if self.is_folder else frozenset()

    def has(self, *patterns: str) -> bool:
        """Whether a folder holds a file that matches one of these glob patterns."""
        return self.is_folder and any(any(self.path.glob(pattern)) for pattern in patterns)

    @cached_property
    def json(self) -> object:
        """The content of a .json file; None for other files and for what is not JSON."""
        try:
            return read_json(self.path) if self.suffix == ".json" else None
        except DataError:
            return None

    @cached_property
    def yaml(self) -> Mapping[str, Any]:
        """The content of a .yaml file, empty for other files. Raises DataError for what is not YAML."""
        return read_yaml(self.path) if self.suffix in (".yaml", ".yml") else {}


@dataclass(frozen=True)
class Format:
    """One data format. A new one is a file with its record, and a line in `formats/__init__.py`.

    Attributes:
        name: As the command line, messages and documents call it.
        read: Function of a path, the folder or tar of its images (None: it is searched) and a collector of findings;
            returns the samples.
        recognise: Whether a file or folder has this format. None: it has to be named.
        splits: The readers of the splits in one path by their names. None, or an empty result: the path is one split.
        write: Function of samples and a path; writes them and returns how many of each kind of information are lost.
        write_splits: Where one folder holds all splits: the writer of each split by their names. Raises ConfigError
            when the format can't hold them.
        suffixes: Of the file that `write` makes, the usual one first. Empty: it makes a folder, with copies of the
            images.
        pairs: Every image with each of its captions, whether it has boxes or not, from a path and the folder or tar of
            its images. None: labelling takes the samples that have a caption.
        scaled: Images are often stored smaller than annotated, so only their aspect ratio has to agree.
        repeated: An id may occur several times on purpose: one sample per caption, or resampled lists.
    """

    name: str
    read: Read
    recognise: Callable[[Candidate], bool] | None = None
    splits: Callable[[Path, StrPath | None], Mapping[str, SplitRead]] | None = None
    write: Write | None = None
    write_splits: Callable[[Sequence[str]], Mapping[str, Write]] | None = None
    suffixes: tuple[str, ...] = field(default=())
    pairs: Callable[[Path, StrPath | None], Iterator[Pair]] | None = None
    scaled: bool = False
    repeated: bool = False
