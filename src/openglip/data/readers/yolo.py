"""YOLO folders (Ultralytics).

    data.yaml      path?: root; train, val, test: folder of pictures, list of folders, or a .txt with a picture a line;
                   names: list, or {0: name}
    images/train/a.jpg   labels/train/a.txt: "class x_centre y_centre width height" a line, shares of width and height,
                   or "class x1 y1 x2 y2 x3 y3 ..." (a polygon: its box is taken),
                   or, where the yaml has kpt_shape: [k, d], a box and k * d values of points, which are not used

The label file is found by putting "labels" for the last "images" of the path, or lies beside the picture; without one
the picture has no object.
Sizes are read from the pictures' headers. All objects of all names are taken to be labelled.
Source: docs.ultralytics.com/datasets/detect.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openglip.data.files import IMAGE_SUFFIXES, image_size, read_lines
from openglip.data.findings import Findings
from openglip.data.readers.annotations import usable_boxes
from openglip.data.readers.tsv import read_yaml
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample

SPLITS = ("train", "val", "test")


def read_yolo(path: StrPath, split: str = "train", *, findings: Findings | None = None) -> Iterator[Sample]:
    """The pictures of one split by their names. path: data.yaml or its folder.

    A picture that can't be opened is recorded (unreadable_image) and left out, as its boxes have no pixels; so is one
    whose label file can't be read (unparsable).
    Raises DataError when the yaml has no such split or no names.
    """
    report = findings if findings is not None else Findings(keep=False)
    file = yolo_yaml(path)
    names = yolo_names(file)
    points = _point_values(file)
    images = yolo_images(file, split)
    ids = _ids(images)
    labelled = {image: _label_file(image) for image in images}
    for stray in _without_picture(labelled):
        report.add("annotation_without_image", stray, stray.stem, "there is no picture for it")
    for image in images:
        try:
            size = image_size(str(image))
        except DataError as error:
            report.add("unreadable_image" if os.path.exists(image) else "missing_image", file, image.name, str(error))
            continue
        try:
            corners, labels = _objects(labelled[image], size, len(names), points, report)
        except DataError as error:
            report.add("unparsable", labelled[image], image.stem, str(error))
            continue
        boxes, kept = usable_boxes(corners, size, report, labelled[image], image.stem)
        yield Sample(
            image=str(image),
            size=size,
            boxes=boxes,
            categories=names,
            labels=[labels[i] for i in kept],  # type: ignore[arg-type]
            exhaustive=True,
            image_id=ids[image],
            source=f"{file.parent.name}/{split}",
        )
    if findings is None:
        report.log(file)


def yolo_yaml(path: StrPath) -> Path:
    """The yaml of a data set given as that file or its folder. Raises DataError."""
    file = Path(path)
    if not file.is_dir():
        return file
    found = next((file / name for name in ("data.yaml", "dataset.yaml", "data.yml") if (file / name).is_file()), None)
    if found is None:
        raise DataError(f"{path}: no data.yaml in it")
    return found


def yolo_names(file: Path) -> tuple[str, ...]:
    """The names by their numbers. Raises DataError."""
    names: Any = read_yaml(file).get("names")
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: names is neither a list nor numbered from 0: {names!r:.80}")
    return tuple(str(name) for name in names)


def yolo_images(file: Path, split: str) -> list[Path]:
    """The pictures of a split. Raises DataError when the yaml has no such split or its place is missing."""
    content = read_yaml(file)
    if not content.get(split):
        raise DataError(f"{file}: no split {split!r}")
    root = file.parent / str(content.get("path") or ".")
    if not root.is_dir():  # a path written on another machine
        root = file.parent
    places = content[split] if isinstance(content[split], list) else [content[split]]
    found: list[Path] = []
    for place in (str(p) for p in places):
        # Roboflow writes "../train/images" for a folder beside the yaml
        tries = [base / name for base in (root, file.parent) for name in (place, place.removeprefix("../"))]
        target = next((t for t in tries if t.exists()), None)
        if target is None:
            raise DataError(f"{file}: {split}: no such folder or file: {place}")
        if target.is_file():
            found.extend(target.parent / line for line in read_lines(target))
        else:
            found.extend(p for p in sorted(target.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES)
    return found


def _label_file(image: Path) -> Path:
    """Under "labels" for the last "images"; or beside the picture, where only that is there."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    usual, beside = Path(*parts).with_suffix(".txt"), image.with_suffix(".txt")
    return beside if os.path.isfile(beside) and not os.path.isfile(usual) else usual


def _ids(images: list[Path]) -> dict[Path, str]:
    """Of each picture its path below the folder that holds them all, without the suffix."""
    if not images:
        return {}
    root = Path(os.path.commonpath([image.parent for image in images]))
    return {image: image.relative_to(root).with_suffix("").as_posix() for image in images}


def _without_picture(labelled: Mapping[Path, Path]) -> list[Path]:
    """Label files for which the pictures' folder has none, whatever the split."""
    known = {*labelled.values()}
    pictures = {file.parent: image.parent for image, file in labelled.items() if file.parent != image.parent}
    return sorted(
        file
        for folder, beside in pictures.items()
        for file in folder.glob("*.txt")
        if file not in known and file.name != "classes.txt" and not any(beside.glob(f"{glob.escape(file.stem)}.*"))
    )


def _point_values(file: Path) -> int:
    """How many values of points follow the box in each line of labels. Raises DataError."""
    shape = read_yaml(file).get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise DataError(f"{file}: kpt_shape is not [points, values of each]: {shape!r:.80}")
    return shape[0] * shape[1]


def _objects(
    file: Path, size: tuple[int, int], classes: int, points: int, findings: Findings
) -> tuple[list[list[float]], list[int]]:
    corners, labels = [], []
    for number, line in enumerate(read_lines(file) if os.path.isfile(file) else (), start=1):
        try:
            label, *values = (float(v) for v in line.split())
        except ValueError:
            label, values = -1.0, []
        fits = len(values) == 4 + points if points else len(values) >= 4 and len(values) % 2 == 0
        if not fits or not math.isfinite(label) or label != int(label):
            findings.add("malformed", file, file.stem, f"line {number}: not a class and its place: {line!r:.60}")
        elif not 0 <= label < classes:
            findings.add("unmapped_class", file, file.stem, f"line {number}: there is no class {label:g}")
        else:
            corners.append(_corners(values[:4] if points else values, size))
            labels.append(int(label))
    return corners, labels


def _corners(values: list[float], size: tuple[int, int]) -> list[float]:
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        return [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
    xs, ys = values[::2], values[1::2]
    return [min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height]
