"""Pictures and captions to label, cut into shards; a shard yields its pairs one after the other.

- a folder of pictures, NAME.txt or NAME.json ("caption") beside each; a folder of Flickr30k Entities (mark-up stripped)
- .csv (columns filename and caption), .json (COCO captions, {filename: caption}, or a list of objects)
- a folder, glob or .txt list of WebDataset tars as img2dataset writes them, or of parquet files
"""

from __future__ import annotations

import csv
import glob
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openglip.data.files import IMAGE_SUFFIXES, Files, decode, read_json, read_lines
from openglip.data.readers.annotations import record
from openglip.data.readers.flickr30k import parse_sentence
from openglip.errors import DataError, MissingExtraError
from openglip.files import StrPath
from openglip.structures.sample import FileSlice, ImageReference

SHARD_SIZE = 1000
DAMAGED = "damaged archive"
_CAPTION_KEYS = ("caption", "text", "TEXT")
_IMAGE_KEYS = ("filename", "file_name", "image", "image_path", "path")


@dataclass(frozen=True)
class Pair:
    """One picture with one caption (None: not given, and not needed with categories), or what went wrong with it."""

    filename: str
    image: ImageReference | None = None
    caption: str | None = None
    id: str | int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Shard:
    """A unit of work. rows: the pairs themselves (a caption that ends in a file is read when it is needed), or None for
    a tar or parquet file at `path`."""

    name: str
    path: str
    rows: tuple[Pair, ...] | None = None

    @property
    def size(self) -> int:
        """Pairs, or bytes of the file: what a shard weighs among its like."""
        return len(self.rows) if self.rows is not None else Path(self.path).stat().st_size

    def pairs(self) -> Iterator[Pair]:
        """The pairs in the order of the input. A file that breaks off ends with a pair that says so."""
        if self.rows is not None:
            return map(_with_caption_file, self.rows)
        return _parquet_pairs(self.path) if self.path.endswith(".parquet") else _tar_pairs(self.path)


def plan(
    source: StrPath | Iterable[StrPath], images: StrPath | None = None, shard_size: int = SHARD_SIZE
) -> list[Shard]:
    """Shards of an input, in order. images: the folder or tar of the pictures where they lie apart from the captions.

    Raises DataError that names the file when there is nothing to label or two shards would get one name.
    """
    paths = [source] if isinstance(source, str) or hasattr(source, "__fspath__") else list(source)  # type: ignore[arg-type]
    shards = [shard for path in paths for shard in _plan(str(path), images, shard_size)]
    if not shards:
        raise DataError(f"{source}: no pictures, tars or parquet files in it")
    names = [s.name for s in shards]
    if twice := next((n for n in names if names.count(n) > 1), None) if len(set(names)) < len(names) else None:
        raise DataError(f"two shards are called {twice!r}: {', '.join(s.path for s in shards if s.name == twice)}")
    return shards


def _plan(text: str, images: StrPath | None, shard_size: int) -> list[Shard]:
    path = Path(text)
    if path.is_dir():
        tars = {
            p.stem for p in path.glob("*.tar")
        }  # beside each img2dataset puts a table of its name, without pictures
        archives = sorted(p for p in path.iterdir() if p.suffix in (".tar", *([] if p.stem in tars else [".parquet"])))
        if any((path / name).exists() for name in ("Sentences", "Sentences.tar")):
            return _cut(_flickr_rows(path, images), text, shard_size)
        if archives:
            return [Shard(p.stem, str(p)) for p in archives]
        return _cut(_folder_rows(path), text, shard_size)
    if not path.exists():
        found = sorted(glob.glob(text))
        if not found:
            raise DataError(f"{text}: no such file or folder")
        return [shard for file in found for shard in _plan(file, images, shard_size)]
    if path.suffix in (".tar", ".parquet"):
        return [Shard(path.stem, text)]
    if path.suffix == ".txt":
        return [shard for line in read_lines(path) for shard in _plan(str(path.parent / line), images, shard_size)]
    rows = _csv_rows(path) if path.suffix in (".csv", ".tsv") else _json_rows(path)
    return _cut(_located(rows, path, images), text, shard_size)


def _cut(rows: list[Pair], path: str, size: int) -> list[Shard]:
    return [Shard(f"{i:06d}", path, tuple(rows[b : b + size])) for i, b in enumerate(range(0, len(rows), size))]


# --- pictures and captions in files of their own -------------------------------------------------------------------


def _folder_rows(folder: Path) -> list[Pair]:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    return [Pair(name, str(folder / name)) for name in names]


def _with_caption_file(pair: Pair) -> Pair:
    """Read NAME.txt or NAME.json of a picture that has no caption yet, where there is one."""
    if pair.caption is not None or not isinstance(pair.image, str):
        return pair
    for suffix in (".txt", ".json"):
        file = Path(pair.image).with_suffix(suffix)
        if file.is_file():
            try:
                return replace(pair, caption=_caption_in(suffix, file.read_bytes(), file))
            except (OSError, DataError) as error:
                return replace(pair, error=f"unreadable caption: {error}")
    return pair


def _caption_in(suffix: str, content: bytes, file: object) -> str:
    text = decode(content, file)
    if suffix != ".json":
        return text.strip()
    try:
        return _caption_of(json.loads(text), file)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not json at line {error.lineno}: {error.msg}") from error


def _caption_of(item: Any, file: object) -> str:
    value = next((item[k] for k in _CAPTION_KEYS if item.get(k) is not None), "") if isinstance(item, dict) else None
    if not isinstance(value, str):
        raise DataError(f"{file}: no caption in {item!r:.60}")
    return value.strip()


def _flickr_rows(root: Path, images: StrPath | None) -> list[Pair]:
    folders = [root / name for name in ("images", "flickr30k-images", "images.tar") if (root / name).exists()]
    if images is None and not folders:
        raise DataError(f"{root}: no images or images.tar in it: say where they are with images")
    pictures = Files(images or folders[0]).by_stem()
    texts = root / "Sentences"
    rows = []
    for stem, text in Files(texts if texts.exists() else root / "Sentences.tar").texts(".txt"):
        image = pictures.get(stem, str(root / "images" / f"{stem}.jpg"))
        name = Path(image.name if isinstance(image, FileSlice) else str(image)).name
        rows += [
            Pair(name, image, parse_sentence(line)[0].strip(), f"{stem}/{i}")
            for i, line in enumerate(text.splitlines())
        ]
    return rows


# --- captions in one file ------------------------------------------------------------------------------------------


def _csv_rows(path: Path) -> list[Pair]:
    text = io.StringIO(decode(path.read_bytes(), path), newline="")
    rows = list(csv.DictReader(text, delimiter="\t" if path.suffix == ".tsv" else ","))
    return [_row(row, path, f"line {i}") for i, row in enumerate(rows, start=2)]


def _json_rows(path: Path) -> list[Pair]:
    top = read_json(path)
    if isinstance(top, list):
        return [_row(row, path, f"row {i}") for i, row in enumerate(top)]
    if not isinstance(top, dict):
        raise DataError(f"{path}: neither COCO captions nor a list of captions")
    if "annotations" not in top or "images" not in top:
        return [_row({"filename": name, "caption": caption}, path, name) for name, caption in top.items()]
    images = [record(image, ("id", "file_name"), path, f"image {i}") for i, image in enumerate(top["images"])]
    names = {image["id"]: image["file_name"] for image in images}
    rows = []
    for i, item in enumerate(top["annotations"]):
        place = f"annotation {record(item, ('image_id',), path, f'annotation {i}').get('id', i)}"
        if item["image_id"] not in names:
            raise DataError(f"{path}: {place} belongs to no image: {item['image_id']!r}")
        rows.append(_row({"filename": names[item["image_id"]], **item}, path, place))
    return rows


def _row(row: Any, path: Path, place: str) -> Pair:
    name = next((row[k] for k in _IMAGE_KEYS if row.get(k)), None) if isinstance(row, dict) else None
    if not isinstance(name, str):
        raise DataError(f"{path}: {place} names no picture (one of {', '.join(_IMAGE_KEYS)}): {row!r:.60}")
    caption = next((row[k] for k in _CAPTION_KEYS if isinstance(row.get(k), str)), "")
    return Pair(name, None, caption.strip(), row.get("id"))


def _located(rows: list[Pair], path: Path, images: StrPath | None) -> list[Pair]:
    """Rows with their pictures, looked for in `images`, beside the file, and in the usual folders beside it."""
    if images is not None:
        places = [Files(images)]
    else:
        stem = path.stem.removeprefix("captions_")
        folders = [
            base / name
            for base in (path.parent, path.parent.parent)
            for name in (".", "images", stem, f"images/{stem}")
        ]
        places = [Files(f) for f in folders if f.is_dir()]
    found = next((f for f in places if rows and f.find(rows[0].filename)), places[0])
    return [replace(row, image=found.reference(row.filename)) for row in rows]


# --- archives ------------------------------------------------------------------------------------------------------


def _tar_pairs(path: str) -> Iterator[Pair]:
    """Members that share a name up to the first dot of its last part, as WebDataset has it."""
    key, group = None, {}
    for member in _members(path):
        if isinstance(member, Pair):
            if key is not None:
                yield _webdataset_pair(key, group)
            yield member
            return
        folder, _, last = member.name.rpartition("/")
        stem, _, suffix = last.partition(".")
        new_key = f"{folder}/{stem}" if folder else stem
        if new_key != key and key is not None:
            yield _webdataset_pair(key, group)
            group = {}
        key = new_key
        group[f".{suffix.lower()}"] = member
    if key is not None:
        yield _webdataset_pair(key, group)


def _members(path: str) -> Iterator[FileSlice | Pair]:
    """Files of an uncompressed tar; where it breaks off, a pair with the error ends them."""
    last = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                last = member.offset_data + member.size
                if member.isfile():
                    yield FileSlice(path, member.offset_data, member.size, name=member.name)
            # tarfile takes a damaged header for the end: a whole archive has a block of zeros there
            with open(path, "rb") as file:
                file.seek(-(-last // 512) * 512)
                if file.read(512).strip(b"\0"):
                    yield Pair(Path(path).name, error=f"{DAMAGED}: after byte {last}")
    except (tarfile.TarError, OSError) as error:
        yield Pair(Path(path).name, error=f"{DAMAGED}: after byte {last}, {error}")


def _webdataset_pair(key: str, group: dict[str, FileSlice]) -> Pair:
    image = next((f for s, f in group.items() if s in IMAGE_SUFFIXES), None)
    if image is None:
        return Pair(key, error="no picture of this name in the archive")
    try:
        text = next((group[s] for s in (".txt", ".caption", ".json") if s in group), None)
        caption = None if text is None else _caption_in("." + text.name.rpartition(".")[2], text.read(), text)
    except (OSError, DataError) as error:
        return Pair(image.name, image, error=f"unreadable caption: {error}")
    return Pair(image.name, image, caption, key)


def _parquet_pairs(path: str) -> Iterator[Pair]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "label", "reading parquet") from error
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                yield _parquet_pair(row, Path(path), number)
                number += 1
    except (arrow.ArrowException, OSError) as error:
        yield Pair(Path(path).name, error=f"{DAMAGED}: after row {number}, {str(error).splitlines()[0]}")


def _parquet_pair(row: dict[str, Any], path: Path, number: int) -> Pair:
    """image: bytes, a path, or the pair of both that the datasets library writes (jpg in img2dataset's files)."""
    image = next((row[k] for k in ("image", "jpg", "png", "webp", *_IMAGE_KEYS) if row.get(k) is not None), None)
    name = next((row[k] for k in ("filename", "file_name", "key", "id", "url") if row.get(k) is not None), number)
    if isinstance(image, dict):
        name = image.get("path") or name
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str):
        name, image = image, str(path.parent / image)
    if not isinstance(image, bytes | str):
        return Pair(f"{path.name}:{name}", error="no picture in this row")
    caption = next((row[k] for k in _CAPTION_KEYS if isinstance(row.get(k), str)), None)
    return Pair(str(name), image, None if caption is None else caption.strip(), row.get("key", row.get("id", number)))
