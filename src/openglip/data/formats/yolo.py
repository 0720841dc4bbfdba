"""YOLO folders (Ultralytics).

    data.yaml      path?: root; train, val, test: folder of images, list of folders, or a .txt with an image a line;
                   names: list, or {0: name}
    images/train/a.jpg   labels/train/a.txt: "class x_centre y_centre width height" a line, fractions of width and
                   height, or "class x1 y1 x2 y2 x3 y3 ..." (a polygon: its box is taken),
                   or, where the yaml has kpt_shape: [k, d], a box and k * d values of points, which are not used

The label file's path has "labels" for the last "images" of the image's path, or is next to the image; without one the
image has no object. Sizes are read from the images' headers. All objects of all names are taken to be labelled.
Source: docs.ultralytics.com/datasets/detect.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from openglip.data.annotations import Boxes, header_size
from openglip.data.files import read_lines, read_yaml
from openglip.data.findings import Findings, collector
from openglip.data.format import SPLITS, Candidate, Format, Losses, SplitRead, Write
from openglip.data.writing import copy_image, count_lost, image_suffix, numbered_stems
from openglip.errors import ConfigError, DataError
from openglip.files import StrPath, whole_file
from openglip.images.read import image_suffixes
from openglip.structures.sample import Sample

_YAML_NAMES = ("data.yaml", "dataset.yaml", "data.yml")


def read_yolo(path: StrPath, split: str = "train", findings: Findings | None = None) -> Iterator[Sample]:
    """The images of one split by their names.

    An image that can't be opened is recorded (unreadable_image) and left out, as its boxes have no pixels; so is one
    whose label file can't be read (unparsable).

    Args:
        path: data.yaml or its folder.
        split: "train", "val" or "test".
        findings: Collects what is left out; None logs it.

    Raises:
        DataError: The yaml has no such split or no names.
    """
    report = collector(findings)
    file = _yaml_of(path)
    content = read_yaml(file)
    names = _names(content, file)
    points = _point_values(content, file)
    images = _images(content, file, split)
    ids = _ids(images)
    labels_of = {image: _label_file(image) for image in images}
    for stray in _without_image(labels_of):
        report.add("annotation_without_image", stray, stray.stem, "there is no image for it")
    for image in images:
        label_file = labels_of[image]
        kind = "unreadable_image" if os.path.exists(image) else "missing_image"
        size = header_size(str(image), report, file, image.name, kind)
        if size is None:
            continue
        boxes = Boxes(label_file, image.stem, report)
        try:
            _add_objects(boxes, size, len(names), points)
        except DataError as error:
            report.add("unparsable", label_file, image.stem, str(error))
            continue
        source = f"{file.parent.name}/{split}"
        yield boxes.sample(str(image), size, categories=names, exhaustive=True, image_id=ids[image], source=source)
    report.done(file)


def _yaml_of(path: StrPath) -> Path:
    """The yaml of a data set given as that file or its folder. Raises DataError."""
    file = Path(path)
    if not file.is_dir():
        return file
    yaml = next((file / name for name in _YAML_NAMES if (file / name).is_file()), None)
    if yaml is None:
        raise DataError(f"{path}: no data.yaml in it")
    return yaml


def _names(content: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    names: Any = content.get("names")
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: names is neither a list nor numbered from 0: {names!r:.80}")
    return tuple(str(name) for name in names)


def _point_values(content: Mapping[str, Any], file: Path) -> int:
    """How many values of points follow the box in each line of labels."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise DataError(f"{file}: kpt_shape is not [points, values of each]: {shape!r:.80}")
    return shape[0] * shape[1]


def _images(content: Mapping[str, Any], file: Path, split: str) -> list[Path]:
    if not content.get(split):
        raise DataError(f"{file}: no split {split!r}")
    root = file.parent / str(content.get("path") or ".")
    if not root.is_dir():  # a path written on another machine
        root = file.parent
    images: list[Path] = []
    for entry in content[split] if isinstance(content[split], list) else [content[split]]:
        # Roboflow writes "../train/images" for a folder next to the yaml
        tails = (str(entry), str(entry).removeprefix("../"))
        target = next((t for base in (root, file.parent) for tail in tails if (t := base / tail).exists()), None)
        if target is None:
            raise DataError(f"{file}: {split}: no such folder or file: {entry}")
        if target.is_file():
            images.extend(target.parent / line for line in read_lines(target))
        else:
            images.extend(p for p in sorted(target.rglob("*")) if p.suffix.lower() in image_suffixes())
    return images


def _label_file(image: Path) -> Path:
    """Under "labels" for the last "images"; or next to the image, where only that exists."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    usual, beside = Path(*parts).with_suffix(".txt"), image.with_suffix(".txt")
    return beside if os.path.isfile(beside) and not os.path.isfile(usual) else usual


def _ids(images: list[Path]) -> dict[Path, str]:
    """Of each image its path below the folder that holds them all, without the suffix."""
    if not images:
        return {}
    root = Path(os.path.commonpath([image.parent for image in images]))
    return {image: image.relative_to(root).with_suffix("").as_posix() for image in images}


def _without_image(labels_of: Mapping[Path, Path]) -> list[Path]:
    """Label files for which the images' folder has none, whatever the split."""
    label_files = {*labels_of.values()}
    folders = {file.parent: image.parent for image, file in labels_of.items() if file.parent != image.parent}
    return sorted(
        file
        for folder, images in folders.items()
        for file in folder.glob("*.txt")
        if file not in label_files
        and file.name != "classes.txt"
        and not any(images.glob(f"{glob.escape(file.stem)}.*"))
    )


def _add_objects(boxes: Boxes, size: tuple[int, int], classes: int, points: int) -> None:
    """Add the boxes of a label file; there may be none."""
    file = Path(str(boxes.file))
    for number, line in enumerate(read_lines(file) if os.path.isfile(file) else (), start=1):
        try:
            label, *values = (float(v) for v in line.split())
        except ValueError:
            label, values = -1.0, []
        fits = len(values) == 4 + points if points else len(values) >= 4 and len(values) % 2 == 0
        if not fits or not math.isfinite(label) or label != int(label):
            boxes.report("malformed", f"line {number}: not a class and its box: {line!r:.60}")
        elif not 0 <= label < classes:
            boxes.report("unmapped_class", f"line {number}: there is no class {label:g}")
        else:
            boxes.add(_corners(values[:4] if points else values, size), int(label))


def _corners(values: list[float], size: tuple[int, int]) -> list[float]:
    height, width = size
    if len(values) == 4:
        x, y, w, h = values
        return [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
    xs, ys = values[::2], values[1::2]
    return [min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height]


def _is_yolo(candidate: Candidate) -> bool:
    return not candidate.names.isdisjoint(_YAML_NAMES) or "names" in candidate.yaml


def _splits(path: Path, images: StrPath | None) -> dict[str, SplitRead]:
    file = _yaml_of(path)
    content = read_yaml(file)
    present = [split for split in SPLITS if content.get(split)]
    if not present:
        raise DataError(f"{file}: names none of {', '.join(SPLITS)}")
    return {split: partial(read_yolo, file, split) for split in present}


def write_yolo(samples: Iterable[Sample], path: StrPath, *, split: str = "train") -> Losses:
    """Write one split of a YOLO folder; further ones may be added.

    Phrases become names; captions, scores and negatives are lost.
    """
    import yaml

    root, lost = Path(path), Losses()
    content = read_yaml(root / "data.yaml") if (root / "data.yaml").exists() else {"names": {}}
    labels = {name: number for number, name in content["names"].items()}
    for stem, sample in numbered_stems(samples):
        count_lost(sample, lost, "caption", "phrase_spans", "scores", "negatives")
        copy_image(sample, root / "images" / split / f"{stem}{image_suffix(sample)}")
        height, width = sample.size
        for name in sample.categories or ():
            labels.setdefault(name, len(labels))
        with whole_file(root / "labels" / split / f"{stem}.txt") as file:
            for name, (x1, y1, x2, y2) in zip(sample.names, sample.boxes.tolist(), strict=True):
                box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                file.write(f"{labels.setdefault(name, len(labels))} {' '.join(f'{v:.9g}' for v in box)}\n")
    with whole_file(root / "data.yaml") as file:
        names = {number: name for name, number in labels.items()}
        content = {**content, split: f"images/{split}", "names": names}
        yaml.safe_dump(content, file, allow_unicode=True, sort_keys=False)
    return +lost


def _write_splits(names: Sequence[str]) -> dict[str, Write]:
    """The writer of each split, as train, val or test; a single split of any other name becomes train."""
    words = {"train": "train", "val": "val", "dev": "val", "test": "test"}
    options = {n: [s for w, s in words.items() if w in n.lower().replace("trainval", "train")] for n in names}
    if len(names) == 1 and not options[names[0]]:
        return {names[0]: partial(write_yolo, split="train")}
    splits = {name: matches[0] for name, matches in options.items() if len(matches) == 1}
    if len(splits) < len(names) or len(set(splits.values())) < len(names):
        raise ConfigError(f"YOLO knows train, val and test, and can't hold {', '.join(names)}: convert them one by one")
    return {name: partial(write_yolo, split=split) for name, split in splits.items()}


YOLO = Format(
    "yolo",
    lambda path, _, findings: read_yolo(path, findings=findings),
    _is_yolo,
    splits=_splits,
    write=write_yolo,
    write_splits=_write_splits,
)
