"""What to label, cut into shards; a shard yields its pairs of image and caption one after the other.

Inputs: a folder of images, NAME.txt or NAME.json next to each; a table of captions (.csv, .tsv, .json); a folder, glob
or .txt list of WebDataset tars, as img2dataset writes them, or of parquet files; a Flickr30k Entities root; a file of
any other format that has captions. The files are parsed by `openglip.data.formats`, so labelling sees the pairs that
training and evaluation see. It reads a format's `Pair`s where it has them and not its samples: an image that can't be
read, or has no caption, is no sample, but a failure with its reason here.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openglip.data.files import read_lines
from openglip.data.findings import collector, readable
from openglip.data.format import Format, Pair
from openglip.data.formats.captions import CAPTIONS, with_caption_file
from openglip.data.formats.flickr30k import FLICKR30K
from openglip.data.formats.parquet import PARQUET
from openglip.data.formats.webdataset import WEBDATASET
from openglip.data.reading import recognise
from openglip.errors import DataError
from openglip.files import StrPath

SHARD_SIZE = 1000
ARCHIVES = {".tar": WEBDATASET, ".parquet": PARQUET}


@dataclass(frozen=True)
class Shard:
    """A unit of work.

    Attributes:
        name: Names its files in the output.
        path: The input that it is from.
        rows: The pairs themselves (a caption that has a file of its own is read when it is needed), or None for an
            archive at `path`.
    """

    name: str
    path: str
    rows: tuple[Pair, ...] | None = None

    @property
    def size(self) -> int:
        """Pairs, or bytes of the archive: the weight of a shard among its like."""
        return len(self.rows) if self.rows is not None else Path(self.path).stat().st_size

    def pairs(self) -> Iterator[Pair]:
        """The pairs in the order of the input. An archive that breaks off ends with a pair that says so."""
        if self.rows is not None:
            yield from map(with_caption_file, self.rows)
            return
        path = Path(self.path)
        try:
            yield from _pairs(ARCHIVES[path.suffix], path, None)
        except DataError as error:
            yield Pair(path.name, error=str(error).removeprefix(f"{path}: "))


def plan(
    source: StrPath | Iterable[StrPath], images: StrPath | None = None, shard_size: int = SHARD_SIZE
) -> list[Shard]:
    """The shards of an input, in order.

    Args:
        source: One input or several; see the module's description.
        images: The folder or tar of the images, where they are not next to the captions.
        shard_size: Pairs per shard, where the input has no shards.

    Raises:
        DataError: There is nothing to label, or two shards would get one name; the message names the file.
    """
    paths = [source] if isinstance(source, str) or hasattr(source, "__fspath__") else list(source)  # type: ignore[arg-type]
    shards = [shard for path in paths for shard in _plan(str(path), images, shard_size)]
    if not shards:
        raise DataError(f"{source}: no images, tars or parquet files in it")
    names = [shard.name for shard in shards]
    if twice := next((n for n in names if names.count(n) > 1), None) if len(set(names)) < len(names) else None:
        raise DataError(f"two shards are called {twice!r}: {', '.join(s.path for s in shards if s.name == twice)}")
    return shards


def _plan(text: str, images: StrPath | None, shard_size: int) -> list[Shard]:
    path = Path(text)
    if not path.exists():
        paths = sorted(glob.glob(text))
        if not paths:
            raise DataError(f"{text}: no such file or folder")
        return [shard for file in paths for shard in _plan(file, images, shard_size)]
    if path.suffix == ".txt" and path.is_file():
        return [shard for line in read_lines(path) for shard in _plan(str(path.parent / line), images, shard_size)]
    is_entities = any((path / name).exists() for name in ("Sentences", "Sentences.tar"))
    archives = [] if is_entities else _archives(path)
    if archives:
        return [Shard(archive.stem, text if archive == path else str(archive)) for archive in archives]
    format = FLICKR30K if is_entities else CAPTIONS if path.is_dir() else recognise(path) or CAPTIONS
    rows = tuple(_pairs(format, path, images))
    begins = range(0, len(rows), shard_size)
    return [Shard(f"{number:06d}", text, rows[begin : begin + shard_size]) for number, begin in enumerate(begins)]


def _archives(path: Path) -> list[Path]:
    """The archives of a folder by their names, or the archive itself."""
    if not path.is_dir():
        return [path] if path.suffix in ARCHIVES else []
    files = sorted(p for p in path.iterdir() if p.suffix in ARCHIVES)
    tars = {p.stem for p in files if p.suffix == ".tar"}
    # next to each tar img2dataset puts a table of its name, without images
    return [p for p in files if p.suffix == ".tar" or p.stem not in tars]


def _pairs(format: Format, path: Path, images: StrPath | None) -> Iterator[Pair]:
    if format.pairs is not None:
        yield from format.pairs(path, images)
        return
    findings = collector(None)
    for sample in readable(format.read(path, images, findings), path, findings):
        yield Pair(sample.file_name, sample.image, (sample.caption or "").strip(), sample.image_id)
    findings.done(path)
