"""Open Images (V4 to V7), the CSV files of its makers.

    *-annotations-bbox.csv               ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,...,IsGroupOf,...
    class-descriptions-boxable.csv       LabelName,DisplayName (with or without that line): "/m/01g317,Person"
    *-annotations-human-imagelabels*.csv ImageID,Source,LabelName,Confidence; 0: a person saw that the class is absent

Coordinates are fractions of width and height; sizes are read from the images' headers (IMAGEID.jpg). Boxes around
groups are left out (note `crowd`). The set is federated: only verified labels say what is absent.
Source: storage.googleapis.com/openimages/web/download_v7.html.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from openglip.data.annotations import Boxes, header_size, numbers
from openglip.data.files import Files, read_text
from openglip.data.findings import Findings, collector
from openglip.data.format import SPLITS, Format
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample

COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")


def read_openimages(
    path: StrPath,
    images: StrPath | None = None,
    findings: Findings | None = None,
    *,
    image_labels: StrPath | None = None,
) -> Iterator[Sample]:
    """Every image that has a row, by the order of the rows.

    An image that is missing or unreadable is recorded (missing_image) and left out, as its boxes have no pixels.

    Args:
        path: The CSV of boxes.
        images: Folder or tar of the images; None is the folder of `path`.
        findings: Collects what is left out; None logs it.
        image_labels: The CSV of verified labels; without one nothing is known to be absent.

    Raises:
        DataError: A CSV is missing, damaged, or lacks a column.
    """
    report = collector(findings)
    path = Path(path)
    names = _names(path.parent)
    categories, index = tuple(names.values()), {label: i for i, label in enumerate(names)}
    absent = _absent_names(Path(image_labels) if image_labels else None, names)
    rows_of: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _rows(path, COLUMNS):
        rows_of[row["ImageID"]].append(row)
    files = Files(images or path.parent)
    for image_id, rows in rows_of.items():
        image = files.reference(f"{image_id}.jpg")
        size = header_size(image, report, path, image_id)
        if size is None:
            continue
        boxes = Boxes(path, image_id, report)
        for row in rows:
            if row.get("IsGroupOf") == "1":
                boxes.report("crowd", "a group")
            elif row["LabelName"] not in index:
                boxes.report("unmapped_class", f"there is no class {row['LabelName']!r}")
            else:
                boxes.add(_pixels(row, size), row["LabelName"])
        negatives = tuple(absent.get(image_id, ()))
        yield boxes.sample(image, size, index, categories=categories, negatives=negatives, source="openimages")
    report.done(path)


def _names(folder: Path) -> dict[str, str]:
    """The display name of each label, from the CSV of names in a folder."""
    path = next(iter(sorted(folder.glob("*class-descriptions*.csv"))), None)
    if path is None:
        raise DataError(f"{folder}: no *class-descriptions*.csv with the names of the classes")
    with _csv_of(path):
        rows = [row for row in csv.reader(io.StringIO(read_text(path))) if row]
    if any(len(row) != 2 for row in rows):
        raise DataError(f"{path}: a line is not LabelName,DisplayName")
    return {label: name for label, name in rows if label != "LabelName"}


def _absent_names(path: Path | None, names: dict[str, str]) -> dict[str, list[str]]:
    """Per image the names that a person has found to be absent."""
    absent: dict[str, list[str]] = defaultdict(list)
    rows: Iterable[dict[str, str]] = _rows(path, ("ImageID", "LabelName", "Confidence")) if path else ()
    for row in rows:
        if numbers([row["Confidence"]], 1) == [0.0] and row["LabelName"] in names:
            absent[row["ImageID"]].append(names[row["LabelName"]])
    return absent


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    with _csv_of(path):
        reader = csv.DictReader(io.StringIO(read_text(path)))
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: has no column {', '.join(missing)}")
        yield from reader


@contextmanager
def _csv_of(path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise DataError(f"{path}: not csv: {error}") from error


def _pixels(row: dict[str, str], size: tuple[int, int]) -> list[float]:
    fractions = numbers([row[key] for key in ("XMin", "YMin", "XMax", "YMax")], 4) or [float("nan")] * 4
    return [fraction * side for fraction, side in zip(fractions, (size[1], size[0], size[1], size[0]), strict=True)]


def _verified_labels(path: Path) -> Path | None:
    """The CSV of verified labels of the same split; else one that names no split."""
    files = sorted(path.parent.glob("*imagelabels*.csv"))
    split = next((name for name in SPLITS if name in path.name), None)
    same = [f for f in files if split is not None and split in f.name]
    return next(iter(same or [f for f in files if not any(name in f.name for name in SPLITS)]), None)


OPENIMAGES = Format(
    "openimages",
    lambda path, images, findings: read_openimages(path, images, findings, image_labels=_verified_labels(path)),
    lambda candidate: candidate.suffix == ".csv" and "annotations-bbox" in candidate.path.name,
)
