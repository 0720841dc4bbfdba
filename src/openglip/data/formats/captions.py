"""Captions without boxes, as labelling reads them: a file next to each image, or one table.

FOLDER/a.jpg, FOLDER/a.txt     or a.json, {"caption" (or "text", "TEXT")}; folders below count too
captions.csv, captions.tsv     columns filename (or file_name, image, image_path, path) and caption (text, TEXT)
captions.json                  COCO captions; or {filename: caption}; or a list of objects with those columns
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from openglip.data.annotations import Boxes, header_size
from openglip.data.files import read_json, read_text
from openglip.data.findings import Findings, collector
from openglip.data.format import Format, Pair
from openglip.data.formats.coco import coco_file, search_images
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.images.read import image_suffixes
from openglip.structures.sample import Sample

CAPTION_KEYS = ("caption", "text", "TEXT")
FILENAME_KEYS = ("filename", "file_name", "image", "image_path", "path")


def read_captions(path: StrPath, images: StrPath | None = None, findings: Findings | None = None) -> Iterator[Sample]:
    """One sample without boxes per caption, in the order of the file or by the names of the images.

    Recorded: missing_annotation (an image without a caption), malformed (a caption file that can't be read),
    missing_image (it has no size).

    Args:
        path: The folder or file.
        images: Folder or tar of the images of a file; None searches next to it.
        findings: Collects what is left out; None logs it.

    Raises:
        DataError: The file is no table of captions.
    """
    report = collector(findings)
    path = Path(path)
    for pair in map(with_caption_file, _pairs(path, images)):
        if pair.error is not None or pair.caption is None:
            kind = "missing_annotation" if pair.error is None else "malformed"
            report.add(kind, path, pair.filename, pair.error or "the image has no caption")
            continue
        image, image_id = pair.image or b"", pair.filename if pair.id is None else pair.id
        size = header_size(image, report, path, pair.filename)
        if size is not None:
            yield Boxes(path, image_id, report).sample(image, size, caption=pair.caption, source=path.stem)
    report.done(path)


def caption_in(item: Mapping[str, Any]) -> str | None:
    """The caption of a record without blanks around it: the first of `CAPTION_KEYS` that holds a string."""
    return next((item[key].strip() for key in CAPTION_KEYS if isinstance(item.get(key), str)), None)


def parse_caption(text: str, file: object) -> dict[str, Any]:
    """The JSON object of one image. Raises DataError that names the file."""
    try:
        item = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not json at line {error.lineno}: {error.msg}") from error
    if not isinstance(item, dict):
        raise DataError(f"{file}: no caption in {item!r:.60}")
    return item


def with_caption_file(pair: Pair) -> Pair:
    """A pair with the caption in NAME.txt or NAME.json next to its image, where it has none and one is there."""
    if pair.caption is not None or not isinstance(pair.image, str):
        return pair
    for suffix in (".txt", ".json"):
        file = Path(pair.image).with_suffix(suffix)
        if file.is_file():
            try:
                text = read_text(file)
                caption = text.strip() if suffix == ".txt" else caption_in(parse_caption(text, file)) or ""
            except DataError as error:
                return replace(pair, error=f"unreadable caption: {error}")
            return replace(pair, caption=caption)
    return pair


def _pairs(path: Path, images: StrPath | None) -> Iterator[Pair]:
    """Every image of a folder, whose captions `with_caption_file` reads, or every caption of a file."""
    if path.is_dir():
        files = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.suffix.lower() in image_suffixes())
        yield from (Pair(name, str(path / name)) for name in files)
        return
    rows = list(_csv_rows(path) if path.suffix in (".csv", ".tsv") else _json_rows(path))
    names = [row.filename for row in rows[:50]]
    files = search_images(path, names, images, path.stem.removeprefix("captions_"))
    yield from (replace(row, image=files.reference(row.filename)) for row in rows)


def _csv_rows(path: Path) -> Iterator[Pair]:
    text = io.StringIO(read_text(path), newline="")
    for i, row in enumerate(csv.DictReader(text, delimiter="\t" if path.suffix == ".tsv" else ","), start=2):
        yield _row(row, path, f"line {i}")


def _json_rows(path: Path) -> Iterator[Pair]:
    content = read_json(path)
    if isinstance(content, list):
        yield from (_row(row, path, f"row {i}") for i, row in enumerate(content))
    elif not isinstance(content, dict):
        raise DataError(f"{path}: neither COCO captions nor a list of captions")
    elif {"images", "annotations"} <= content.keys():
        file = coco_file(content, path, Findings(fatal=("malformed", "annotation_without_image")))
        names = {image["id"]: image["file_name"] for image in file.images}
        for row in file.rows:
            yield Pair(str(names[row["image_id"]]), None, caption_in(row) or "", row.get("id"))
    else:
        yield from (_row({"filename": name, "caption": text}, path, name) for name, text in content.items())


def _row(row: Any, path: Path, where: str) -> Pair:
    name = next((row[key] for key in FILENAME_KEYS if row.get(key)), None) if isinstance(row, dict) else None
    if not isinstance(name, str):
        raise DataError(f"{path}: {where} names no image (one of {', '.join(FILENAME_KEYS)}): {row!r:.60}")
    return Pair(name, None, caption_in(row) or "", row.get("id"))


CAPTIONS = Format("captions", read_captions, pairs=_pairs)
