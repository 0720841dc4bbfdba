"""Open Images (V4 to V7), the csv files of its makers.

    *-annotations-bbox.csv               ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,...,IsGroupOf,...
    class-descriptions-boxable.csv       LabelName,DisplayName (with or without that line): "/m/01g317,Person"
    *-annotations-human-imagelabels*.csv ImageID,Source,LabelName,Confidence; 0: a person saw that the class is absent

Coordinates are shares of width and height; sizes are read from the pictures' headers (IMAGEID.jpg). Boxes around groups
are left out (note `crowd`). The set is federated: only verified labels say what is absent.
Source: storage.googleapis.com/openimages/web/download_v7.html.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openglip.data.files import Files, decode, image_size
from openglip.data.findings import Findings
from openglip.data.readers.annotations import numbers, usable_boxes
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample

COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")


def read_openimages(
    boxes: StrPath,
    images: StrPath,
    *,
    classes: StrPath | None = None,
    image_labels: StrPath | None = None,
    findings: Findings | None = None,
) -> Iterator[Sample]:
    """Every picture that has a row, by the order of the rows.

    boxes: the csv of boxes. images: folder or tar of the pictures. classes: the csv of names; None: looked for beside
    `boxes`. image_labels: the csv of verified labels; None: nothing is known to be absent.
    A picture that is missing or unreadable is recorded (missing_image) and left out, as its boxes have no pixels.
    """
    report = findings if findings is not None else Findings(keep=False)
    names = _names(Path(classes) if classes else _beside(Path(boxes), "class-descriptions"))
    index = {label: i for i, label in enumerate(names)}
    absent: dict[str, list[str]] = defaultdict(list)
    for row in _rows(Path(image_labels), ("ImageID", "LabelName", "Confidence")) if image_labels else ():
        if numbers([row["Confidence"]], 1) == [0.0] and row["LabelName"] in names:
            absent[row["ImageID"]].append(names[row["LabelName"]])
    of_image: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _rows(Path(boxes), COLUMNS):
        of_image[row["ImageID"]].append(row)
    files = Files(images)
    for image_id, rows in of_image.items():
        image = files.reference(f"{image_id}.jpg")
        try:
            size = image_size(image)
        except DataError as error:
            report.add("missing_image", boxes, image_id, str(error))
            continue
        corners, labels = [], []
        for row in rows:
            if row.get("IsGroupOf") == "1":
                report.add("crowd", boxes, image_id, "a group")
            elif row["LabelName"] not in index:
                report.add("unmapped_class", boxes, image_id, f"there is no class {row['LabelName']!r}")
            else:
                corners.append(_pixels(row, size))
                labels.append(index[row["LabelName"]])
        found, kept = usable_boxes(corners, size, report, boxes, image_id)
        yield Sample(
            image=image,
            size=size,
            boxes=found,
            categories=tuple(names.values()),
            labels=[labels[i] for i in kept],  # type: ignore[arg-type]
            negatives=tuple(absent.get(image_id, ())),
            image_id=image_id,
            source="openimages",
        )
    if findings is None:
        report.log(boxes)


def _names(path: Path) -> dict[str, str]:
    with _csv_of(path):
        rows = [row for row in csv.reader(io.StringIO(_text(path))) if row]
    if any(len(row) != 2 for row in rows):
        raise DataError(f"{path}: a line is not LabelName,DisplayName")
    return {label: name for label, name in rows if label != "LabelName"}


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    with _csv_of(path):
        reader = csv.DictReader(io.StringIO(_text(path)))
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
    shares = numbers([row[key] for key in ("XMin", "YMin", "XMax", "YMax")], 4) or [float("nan")] * 4
    return [share * side for share, side in zip(shares, (size[1], size[0], size[1], size[0]), strict=True)]


def _text(path: Path) -> str:
    try:
        return decode(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _beside(path: Path, prefix: str) -> Path:
    found = sorted(path.parent.glob(f"*{prefix}*.csv"))
    if not found:
        raise DataError(f"{path.parent}: no *{prefix}*.csv with the names of the classes")
    return found[0]
