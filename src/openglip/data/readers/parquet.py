"""Parquet: a row per picture; for image-text sets of any size, read by batches of rows.

Columns (the first name that is there):

    image, jpg                bytes, or a struct with `bytes` and `path` (Hugging Face), or a path
    caption, text             a string
    image_id, id, key         optional
    width, height             optional; else read from the header
    boxes                     optional: list of [x1, y1, x2, y2]
    tokens_positive           optional, with boxes: per box a list of [begin, end] characters
    scores                    optional, with boxes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openglip.data.files import image_size
from openglip.data.findings import Findings
from openglip.data.readers.annotations import numbers, size_of, usable_boxes, usable_spans
from openglip.errors import DataError, MissingExtraError
from openglip.files import StrPath
from openglip.structures.sample import ImageReference, Sample


def read_parquet(
    path: StrPath | Sequence[StrPath], *, batch_rows: int = 256, findings: Findings | None = None
) -> Iterator[Sample]:
    """Every row of a file, of a folder's *.parquet by their names, or of a list of files, in constant memory.

    Pictures stored as bytes come along as bytes. Rows without an id get their number, in several files with the file's
    name. Recorded: malformed (a row that can't be used). Needs pyarrow (extra "train"). Raises DataError when a file
    can't be read.
    """
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train", "reading parquet") from error
    report = findings if findings is not None else Findings(keep=False)
    files = _files(path)
    for file in files:
        try:
            number = 0
            for batch in pq.ParquetFile(file).iter_batches(batch_size=batch_rows):
                for row in batch.to_pylist():
                    try:
                        sample = _sample(row, file, number if len(files) == 1 else f"{file.stem}/{number}", report)
                    except DataError as error:
                        report.add("malformed", file, number, f"row {number}: {error}")
                    else:
                        yield sample
                    number += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file}: not readable as parquet: {error}") from error
    if findings is None:
        report.log(path)


def _sample(row: dict[str, Any], file: Path, number: int | str, findings: Findings) -> Sample:
    image = _image(_first(row, ("image", "jpg")), file)
    own = _first(row, ("image_id", "id", "key"))
    own = number if own is None else own
    if row.get("height") is None or row.get("width") is None:
        size = image_size(image)
    else:
        size = size_of(row["height"], row["width"])
    if size is None:
        raise DataError(f"height and width are {row['height']!r} and {row['width']!r}")
    caption = _first(row, ("caption", "text"))
    if caption is None:
        raise DataError("no caption: columns caption or text")
    caption, raw = str(caption), row.get("boxes") or []
    corners = [numbers(box, 4) for box in raw]
    spans, scores = row.get("tokens_positive") or [], row.get("scores") or None
    if None in corners:
        raise DataError(f"a box is not four numbers: {raw!r:.60}")
    if len(spans) != len(raw) or (scores is not None and len(scores) != len(raw)):
        raise DataError(f"{len(raw)} boxes, but {len(spans)} tokens_positive and {len(scores or raw)} scores")
    boxes, kept = usable_boxes(corners, size, findings, file, own)  # type: ignore[arg-type]
    spans = tuple(tuple(usable_spans(spans[i], caption, findings, file, own)) for i in kept)
    scores = [scores[i] for i in kept] if scores and len(boxes) else None
    return Sample(image, size, boxes, caption, spans, scores=scores, image_id=own, source=file.stem)  # type: ignore[arg-type]


def _image(value: Any, file: Path) -> ImageReference:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return str(file.parent / value)
    raise DataError("no image: columns image or jpg with bytes or a path")


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _files(path: StrPath | Sequence[StrPath]) -> list[Path]:
    if isinstance(path, list | tuple):
        return [Path(p) for p in path]
    place = Path(path)  # type: ignore[arg-type]
    found = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    if not found:
        raise DataError(f"{place}: no *.parquet in it")
    return found
