"""Parquet: a row per image; for image-text sets of any size, read by batches of rows.

Columns (the first name that is there):

    image, jpg, png, webp     bytes, or a struct with `bytes` and `path` (Hugging Face), or a path; also a path:
                              filename, file_name, image_path, path
    caption, text, TEXT       a string
    image_id, id, key         optional
    width, height             optional; else read from the header
    boxes                     optional: list of [x1, y1, x2, y2]
    tokens_positive           optional, with boxes: per box a list of [begin, end] characters
    scores                    optional, with boxes
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from openglip.data.annotations import Boxes, numbers, size_of, usable_spans
from openglip.data.files import DAMAGED, files_of, image_size
from openglip.data.findings import Findings, collector
from openglip.data.format import SPLITS, Candidate, Format, Pair, SplitRead
from openglip.data.formats.captions import CAPTION_KEYS, FILENAME_KEYS, caption_in
from openglip.errors import DataError, MissingExtraError
from openglip.files import StrPath
from openglip.structures.sample import ImageReference, Sample

BATCH_ROWS = 64  # in memory at a time
_IMAGE_KEYS = ("image", "jpg", "png", "webp", *FILENAME_KEYS)


def read_parquet(path: StrPath | Sequence[StrPath], findings: Findings | None = None) -> Iterator[Sample]:
    """Every row of a file, of a folder's *.parquet by their names, or of a list of files, in constant memory.

    Images stored as bytes come along as bytes. Rows without an id get their number, in several files with the file's
    name. Recorded: malformed (a row that can't be used).

    Args:
        path: A file, a folder, or a list of files.
        findings: Collects what is left out; None logs it.

    Raises:
        DataError: A file can't be read.
        MissingExtraError: pyarrow is not installed.
    """
    report = collector(findings)
    files = files_of(path, ".parquet")
    for file in files:
        for number, row in enumerate(_rows(file)):
            try:
                sample = _sample(row, file, number if len(files) == 1 else f"{file.stem}/{number}", report)
            except DataError as error:
                report.add("malformed", file, number, f"row {number}: {error}")
            else:
                yield sample
    report.done(path)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train", "reading parquet") from error
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=BATCH_ROWS):
            for row in batch.to_pylist():
                yield row
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(f"{file}: {DAMAGED}: after row {number}, {problem}") from error


def _sample(row: dict[str, Any], file: Path, number: int | str, findings: Findings) -> Sample:
    image, _ = _image(row, file)
    if image is None:
        raise DataError("no image: columns image or jpg with bytes or a path")
    image_id = _first(row, ("image_id", "id", "key"))
    image_id = number if image_id is None else image_id
    if row.get("height") is None or row.get("width") is None:
        size = image_size(image)
    else:
        size = size_of(row["height"], row["width"])
    if size is None:
        raise DataError(f"height and width are {row['height']!r} and {row['width']!r}")
    raw, spans, scores = row.get("boxes") or [], row.get("tokens_positive") or [], row.get("scores") or []
    # spans count the characters of the caption as it stands
    caption = _first(row, CAPTION_KEYS) if raw else caption_in(row)
    if not isinstance(caption, str):
        raise DataError("no caption: columns caption or text")
    corners = [numbers(box, 4) for box in raw]
    if None in corners:
        raise DataError(f"a box is not four numbers: {raw!r:.60}")
    if len(spans) != len(raw) or len(scores) not in (0, len(raw)):
        raise DataError(f"{len(raw)} boxes, but {len(spans)} tokens_positive and {len(scores or raw)} scores")
    boxes = Boxes(file, image_id, findings)
    for i, box in enumerate(corners):
        box_spans = usable_spans(spans[i], caption, findings, file, image_id)
        boxes.add(box, spans=box_spans, score=scores[i] if scores else None)  # type: ignore[arg-type]
    return boxes.sample(image, size, caption=caption, source=file.stem)


def _image(row: Mapping[str, Any], file: Path) -> tuple[ImageReference | None, str | None]:
    """The image of a row, and its path in the row if it has one."""
    value, name = _first(row, _IMAGE_KEYS), None
    if isinstance(value, dict):
        name = value.get("path")
        value = value.get("bytes") or name
    if isinstance(value, str):
        return str(file.parent / value), value
    return (value, name) if isinstance(value, bytes) else (None, name)


def _pairs(path: Path, _: StrPath | None) -> Iterator[Pair]:
    """Every row of a file."""
    for number, row in enumerate(_rows(path)):
        image, name = _image(row, path)
        name = name or _first(row, ("filename", "file_name", "key", "id", "url"))
        name = number if name is None else name
        if image is None:
            yield Pair(f"{path.name}:{name}", error="no picture in this row")
        else:
            yield Pair(str(name), image, caption_in(row), row.get("key", row.get("id", number)))


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _is_parquet(candidate: Candidate) -> bool:
    if not candidate.is_folder:
        return candidate.suffix == ".parquet"
    return candidate.has("*.parquet") and not candidate.has("annotations/*.json", "*.json*", "*.tar")


def _splits(path: Path, _: StrPath | None) -> dict[str, SplitRead]:
    if not path.is_dir():
        return {}
    parts: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*.parquet")):  # train-00000-of-00002.parquet
        parts.setdefault(re.sub(r"-\d+-of-\d+$", "", file.stem), []).append(file)
    if len(parts) == 1 or not all(any(split in key for split in SPLITS) for key in parts):
        return {}
    return {key: partial(read_parquet, files) for key, files in parts.items()}


PARQUET = Format(
    "parquet",
    lambda path, _, findings: read_parquet(path, findings),
    _is_parquet,
    splits=_splits,
    pairs=_pairs,
    scaled=True,
)
