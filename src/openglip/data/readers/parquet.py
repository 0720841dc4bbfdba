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

from openglip.data.files import StrPath, image_size
from openglip.data.findings import Findings
from openglip.data.readers.annotations import size_of, usable_boxes, usable_spans
from openglip.errors import DataError, MissingExtraError
from openglip.structures.sample import ImageReference, Sample


def read_parquet(
    path: StrPath | Sequence[StrPath], *, batch_rows: int = 256, findings: Findings | None = None
) -> Iterator[Sample]:
    """Every row of a file, of a folder's *.parquet by their names, or of a list of files, in constant memory.

    Pictures stored as bytes come along as bytes. Needs pyarrow (extra "train"). Raises DataError with file and row.
    """
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train", "reading parquet") from error
    report = findings if findings is not None else Findings(keep=False)
    for file in _files(path):
        try:
            number = 0
            for batch in pq.ParquetFile(file).iter_batches(batch_size=batch_rows):
                for row in batch.to_pylist():
                    yield _sample(row, file, number, report)
                    number += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file}: not readable as parquet: {error}") from error
    if findings is None:
        report.log(path)


def _sample(row: dict[str, Any], file: Path, number: int, findings: Findings) -> Sample:
    place = f"row {number}"
    image = _image(_first(row, ("image", "jpg")), file, place)
    own = _first(row, ("image_id", "id", "key"))
    own = number if own is None else own
    if row.get("height") is None or row.get("width") is None:
        size = image_size(image)
    else:
        size = size_of(row["height"], row["width"])
    if size is None:
        raise DataError(f"{file}: {place} has height and width {row['height']!r} and {row['width']!r}")
    caption = str(_first(row, ("caption", "text")) or "")
    boxes, kept = usable_boxes(row.get("boxes") or [], size, findings, file, own)
    spans = row.get("tokens_positive") or []
    if len(spans) != len(row.get("boxes") or []):
        raise DataError(f"{file}: {place} has {len(row.get('boxes') or [])} boxes, but {len(spans)} tokens_positive")
    spans = tuple(tuple(usable_spans(spans[i], caption, findings, file, own)) for i in kept)
    scores = row.get("scores")
    scores = [scores[i] for i in kept] if scores and len(boxes) else None
    return Sample(image, size, boxes, caption, spans, scores=scores, image_id=own, source=file.stem)  # type: ignore[arg-type]


def _image(value: Any, file: Path, place: str) -> ImageReference:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return str(file.parent / value)
    raise DataError(f"{file}: {place} has no image: columns image or jpg with bytes or a path")


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
