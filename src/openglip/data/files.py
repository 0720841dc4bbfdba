"""Files of a data set: folders and tars alike, JSON and YAML with errors that name the file."""

from __future__ import annotations

import json
import os.path
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from openglip.errors import DataError, ImageError, PromptError
from openglip.files import FileSlice, StrPath
from openglip.structures.sample import ImageReference

DAMAGED = "damaged archive"
"""Begins what is wrong with a tar or parquet file that breaks off."""


class Files:
    """The files of a folder, or the members of an uncompressed tar, by their names with forward slashes.

    No file is opened before it is needed; of a tar only the headers are read, once.

    Args:
        path: A folder or a tar.

    Raises:
        DataError: The path is missing or no tar.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        self._members: dict[str, FileSlice] | None = None
        self._by_last_part: dict[str, list[str]] = {}
        if self.path.is_file():
            self._members = {member.name.removeprefix("./"): member for member in tar_members(self.path)}
            for name in self._members:
                self._by_last_part.setdefault(name.rpartition("/")[2], []).append(name)
        elif not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder or tar")

    def find(self, name: str) -> str | FileSlice | None:
        """The file of this name, or None.

        Tried in turn: the whole name, its last two parts, its last part, and in a tar the only member whose name ends
        with it.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for tail in dict.fromkeys((name, "/".join(parts[-2:]), parts[-1] if parts else name)):
            if self._members is not None:
                if tail in self._members:
                    return self._members[tail]
            elif os.path.isfile(self.path / tail):  # false, too, for a name that is too long to be one
                return str(self.path / tail)
        ends = [m for m in self._by_last_part.get(parts[-1] if parts else "", ()) if m.endswith("/" + "/".join(parts))]
        return self._members[ends[0]] if self._members is not None and len(ends) == 1 else None

    def reference(self, name: str) -> str | FileSlice:
        """The file of this name, or the path where it should be; opening it then reports that it is missing."""
        return self.find(name) or str(self.path / name)

    def by_stem(self) -> dict[str, str | FileSlice]:
        """Every image by its name without folder and suffix (Flickr30k: ID.jpg or ID.webp)."""
        from openglip.images.read import image_suffixes  # late, as in `image_size`: imports Pillow

        if self._members is not None:
            files: dict[str, str | FileSlice] = {**self._members}
        else:
            files = {str(p): str(p) for p in sorted(self.path.rglob("*")) if p.is_file()}
        suffixes = image_suffixes()
        return {PurePosixPath(n).stem: f for n, f in files.items() if PurePosixPath(n).suffix.lower() in suffixes}

    def texts(self, suffix: str, errors: dict[str, DataError] | None = None) -> Iterator[tuple[str, str]]:
        """Name without folder and suffix, and text, of every file with a suffix, in the order of the names.

        Args:
            suffix: End of the names, such as ".txt".
            errors: Takes the error of each file that can't be read (not UTF-8) under its name; None raises it.
        """
        if self._members is not None:
            files: list[str | FileSlice] = [self._members[n] for n in sorted(self._members) if n.endswith(suffix)]
        else:
            files = [str(file) for file in sorted(self.path.rglob(f"*{suffix}"))]
        for file in files:
            stem = PurePosixPath(file if isinstance(file, str) else file.name).stem
            try:
                text = decode(image_content(file), file)
            except DataError as error:
                if errors is None:
                    raise
                errors[stem] = error
            else:
                yield stem, text


def files_of(path: StrPath | Sequence[StrPath], suffix: str) -> list[Path]:
    """The file itself, a folder's files with a suffix by their names, or those of a list. Raises DataError for none."""
    if isinstance(path, list | tuple):
        return [Path(p) for p in path]
    folder = Path(path)  # type: ignore[arg-type]
    files = sorted(folder.glob(f"*{suffix}")) if folder.is_dir() else [folder]
    if not files:
        raise DataError(f"{folder}: no *{suffix} in it")
    return files


def tar_members(path: StrPath) -> Iterator[FileSlice]:
    """The regular files of an uncompressed tar as slices of it, in their order.

    Raises:
        DataError: It is no tar, is compressed, or breaks off: "PATH: damaged archive: after byte N, ...".
    """
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + member.size
                if member.isfile():
                    yield FileSlice(str(path), member.offset_data, member.size, name=member.name)
        # tarfile takes a damaged header for the end, but a whole tar has a block of zeros there
        with open(path, "rb") as file:
            file.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
            is_whole = not file.read(tarfile.BLOCKSIZE).strip(b"\0")
    except (tarfile.TarError, OSError) as error:
        hint = "" if end else " (only uncompressed tars are read)"
        raise DataError(f"{path}: {DAMAGED}: after byte {end}, {error}{hint}") from error
    if not is_whole:
        raise DataError(f"{path}: {DAMAGED}: after byte {end}")


def image_size(image: ImageReference) -> tuple[int, int]:
    """(height, width) from the header alone, upright as its EXIF tag says. Raises DataError that names the file."""
    from openglip.images import read

    try:
        return read.image_size(image)
    except ImageError as error:
        raise DataError(str(error)) from error


def image_content(image: ImageReference) -> bytes:
    """The encoded bytes of an image. Raises DataError when the file is missing."""
    try:
        if isinstance(image, bytes):
            return image
        return image.read() if isinstance(image, FileSlice) else Path(image).read_bytes()
    except OSError as error:
        raise DataError(f"{image}: {error.strerror or error}") from error


def read_text(path: StrPath) -> str:
    """A text file in UTF-8, without a byte order mark. Raises DataError that names the file."""
    try:
        return decode(Path(path).read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def read_json(path: StrPath) -> object:
    """A JSON file. Raises DataError with file, line and column."""
    return _parse_json(read_text(path), path)


def _parse_json(text: str, path: StrPath) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not json at line {error.lineno}, column {error.colno}: {error.msg}") from error


def read_yaml(path: StrPath) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises DataError that names the file."""
    content = _parse_yaml(read_text(path), path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: no mapping")
    return content


def read_lines(path: StrPath) -> list[str]:
    """The lines of a text file that are not blank, stripped. Raises DataError that names the file."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _parse_yaml(text: str, path: StrPath) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not yaml: {error}") from error


def read_names(path: StrPath) -> list[str]:
    """The names in a file, stripped: one per line, or JSON or YAML.

    JSON and YAML hold a list of names or of objects with a "name", or such a list, or {number: name}, as "names" (YOLO)
    or "categories" (COCO).

    Raises:
        PromptError: The file can't be read, is a table, or holds no names.
    """
    suffix, forms = Path(path).suffix.lower(), "one per line, or as JSON or YAML ([...], names: or categories:)"
    try:
        if suffix in (".csv", ".tsv", ".xls", ".xlsx"):
            raise DataError(f"{path} is a table")
        text = read_text(path)
        is_yaml = suffix in (".yaml", ".yml")
        if is_yaml or suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
            content: Any = _parse_yaml(text, path) if is_yaml else _parse_json(text, path)
            if isinstance(content, dict):
                content = content.get("names", content.get("categories", content))
            items = content.values() if isinstance(content, dict) else content
            if not isinstance(items, Iterable) or isinstance(items, str):
                raise DataError(f"{path} holds no list of names")
            lines: list[Any] = [item.get("name") if isinstance(item, dict) else item for item in items]
        else:
            lines = text.splitlines()
        if strange := [line for line in lines if not isinstance(line, str)]:
            raise DataError(f"{path}: {strange[0]!r:.60} is not a name")
        names = [name for line in lines if (name := line.strip())]
        if not names:
            raise DataError(f"{path} holds no name")
    except DataError as error:
        raise PromptError(f"{error}: give the names {forms}") from error
    return names


def decode(content: bytes, path: object) -> str:
    """UTF-8 text, without a byte order mark. Raises DataError."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from error
