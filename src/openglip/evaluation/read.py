"""Reading what is judged: COCO-style annotations and lists of results, checked row by row, results as a stream.

Annotations are not read as samples of `openglip.data`: samples clip their boxes, round them to float32 and leave out
what is wrong, which would change the figures. A wrong row is an error here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NoReturn

import numpy as np

from openglip.data.files import read_json
from openglip.errors import DataError
from openglip.evaluation.matching import Bools, GroundTruth, Predictions
from openglip.files import file_sha256

Record = Mapping[str, object]
JsonSource = str | PathLike[str] | Mapping[str, object] | Sequence[Record]  # a file, or what json.load would give
STRICT = ("malformed", "annotation_without_image", "duplicate_id")
"""Findings of the readers of `openglip.data` that are errors in an evaluation."""
BATCH = 200_000  # results turned into arrays at once
BLOCK = 1 << 22  # characters read at once
LONGEST = 16 * BLOCK  # characters of one item
# What is before an item, or closes the list. They look at the next character, so that the end of a block cuts nothing.
_FIRST, _NEXT = re.compile(r"\s*\[\s*(?:\]|(?=\S))"), re.compile(r"\s*(?:\]|,\s*(?=\S))")


@dataclass(frozen=True)
class Annotations:
    """A COCO-style file as arrays. Images and categories are indexed in the order of their ids, as in pycocotools.

    Attributes:
        source: The file, for messages.
        images: The image records in that order.
        categories: The category records in that order.
        names: A name for each category; equal names are made unique.
        image_index: Index of each image id that is judged.
        category_index: Index of each category id.
        left_out: Ids of the images that a choice of ids left out.
        truth: The boxes.
        judged: Images x categories, whether a category is labelled on an image; None means everywhere.
    """

    source: str
    images: tuple[Record, ...]
    categories: tuple[Record, ...]
    names: tuple[str, ...]
    image_index: Mapping[object, int]
    category_index: Mapping[object, int]
    left_out: frozenset[object]
    truth: GroundTruth
    judged: Bools | None = None


def source_name(source: object, word: str) -> str:
    """How messages name a source: its path, or `word` for one in memory."""
    return str(source) if isinstance(source, (str, PathLike)) else f"<{word}>"


def source_sha256(source: JsonSource) -> str | None:
    """SHA-256 of a file, None for what is not a file."""
    return file_sha256(source) if isinstance(source, (str, PathLike)) and Path(source).is_file() else None


def load_json(source: JsonSource) -> object:
    """The parsed file, or the object itself. Raises DataError with file, line and column."""
    return read_json(source) if isinstance(source, (str, PathLike)) else source


def chosen_ids(
    ids: Iterable[object] | None, available: Iterable[object], source: object, kind: str = "image"
) -> set[str]:
    """Ids to use, as text; None chooses all that are available. Raises DataError for one that is not."""
    every = {str(i) for i in available}
    chosen = every if ids is None else {str(i) for i in ids}
    if missing := chosen - every:
        raise DataError(f"{source}: no {kind} with id {min(missing)}, which the list of ids asks for")
    return chosen


def read_annotations(
    source: JsonSource,
    ids: Iterable[object] | None = None,
    *,
    keep: Callable[[Record], bool] = lambda image: True,
    federated: bool = False,
) -> Annotations:
    """Images, categories and boxes of a COCO-style file.

    `area` defaults to width x height, `iscrowd` to 0, and `ignore` is overwritten by `iscrowd`.

    Args:
        source: The file, or what `json.load` returns for it.
        ids: Ids of the images to use; None uses all.
        keep: Whether to use an image.
        federated: As in LVIS: there are no crowds, and `ignore` is used as it is.

    Raises:
        DataError: A key is missing, an id occurs twice or leads nowhere, a box is not four finite numbers or has a
            negative size, or no image has one of `ids`. The message names file and id.
    """
    name, data = source_name(source, "annotations"), load_json(source)
    if not isinstance(data, Mapping):
        raise DataError(f"{name}: a COCO file is an object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), Sequence):
            raise DataError(f"{name}: no list of {key!r}: is this a COCO annotation file?")
    if not data["categories"]:
        raise DataError(f"{name}: the list of categories is empty")
    images, categories = _by_id(data["images"], "image", name), _by_id(data["categories"], "category", name)
    every = {image["id"]: i for i, image in enumerate(images)}
    chosen = chosen_ids(ids, every, name)
    left_out = frozenset(image["id"] for image in images if str(image["id"]) not in chosen or not keep(image))
    images = tuple(image for image in images if image["id"] not in left_out)
    if not images:
        raise DataError(f"{name}: no image is left to judge of {len(every)}")
    image_index = {image["id"]: i for i, image in enumerate(images)}
    category_index = {category["id"]: i for i, category in enumerate(categories)}
    rows = [row for row in data["annotations"] if _image_id(row, every, category_index, name) in image_index]
    truth = _truth(rows, image_index, category_index, federated)
    return Annotations(name, images, categories, _names(categories), image_index, category_index, left_out, truth)


def _by_id(records: Sequence[Record], kind: str, source: str) -> tuple[Record, ...]:
    """The records in the order of their ids."""
    ids: set[object] = set()
    for record in records:
        if not isinstance(record, Mapping) or not isinstance(record.get("id", []), Hashable):
            raise DataError(f"{source}: {kind} without an id: {str(record)[:80]}")
        if record["id"] in ids:
            raise DataError(f"{source}: {kind} id {record['id']} occurs twice")
        ids.add(record["id"])
    try:
        return tuple(sorted(records, key=lambda record: record["id"]))  # type: ignore[arg-type, return-value]
    except TypeError:
        raise DataError(f"{source}: {kind} ids are partly numbers and partly strings") from None


def _names(categories: Sequence[Record]) -> tuple[str, ...]:
    names = [str(c.get("name", c["id"])) for c in categories]
    return tuple(n if names.count(n) == 1 else f"{n} (id {c['id']})" for n, c in zip(names, categories, strict=True))


def _image_id(row: Record, images: Mapping[object, int], categories: Mapping[object, int], source: str) -> object:
    """The image id of an annotation. Raises DataError when anything is wrong with the annotation."""
    if not isinstance(row, Mapping):
        raise DataError(f"{source}: an annotation is not an object: {str(row)[:80]}")
    name = f"{source}: annotation {row.get('id', '(no id)')}"
    for key, index in (("image_id", images), ("category_id", categories)):
        if not _in(row.get(key), index):
            raise DataError(f"{name}: no such {key}: {row.get(key)!r}")
    problem = _box_problem(row.get("bbox"))
    if problem is None and row.get("area") is not None and not _finite(row["area"]):
        problem = f"area is not a finite number: {row['area']!r}"
    if problem is not None:
        raise DataError(f"{name} of image {row['image_id']}: {problem}")
    return row["image_id"]


def _truth(
    rows: Sequence[Record], images: Mapping[object, int], categories: Mapping[object, int], federated: bool
) -> GroundTruth:
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    areas = [row.get("area") for row in rows]
    crowd = np.array([bool(row.get("iscrowd")) for row in rows], bool)
    return GroundTruth(
        image=np.array([images[row["image_id"]] for row in rows], np.int64),
        category=np.array([categories[row["category_id"]] for row in rows], np.int64),
        boxes=boxes,
        area=np.array([w * h if a is None else a for a, (_, _, w, h) in zip(areas, boxes, strict=True)], np.float64),
        crowd=np.zeros(len(rows), bool) if federated else crowd,
        ignore=np.array([bool(row.get("ignore")) for row in rows], bool) if federated else crowd,
    )


def _box_problem(box: object) -> str | None:
    if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4:
        return f"bbox is not four numbers: {box!r}"
    if not all(_finite(v) for v in box):
        return f"bbox is not finite: {list(box)}"
    return f"bbox has a negative size: {list(box)}" if box[2] < 0 or box[3] < 0 else None


def _in(value: object, index: Mapping[object, int]) -> bool:
    return isinstance(value, Hashable) and value in index


def _finite(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def iterate_results(source: JsonSource, annotations: Annotations, key: str = "image_id") -> Iterator[Predictions]:
    """Read a list of results in batches, in the order of the file.

    Results on images that a choice of ids left out are skipped.

    Args:
        source: A file, or a list, of `{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`.
        annotations: What the results are judged by.
        key: The key of the image: "ref_id" for expressions, which have no categories.

    Raises:
        DataError: An id is unknown, a score or box is not finite, a size is negative, or the JSON breaks off. The
            message names the file and the entry.
    """
    name, begin = source_name(source, "predictions"), 0
    stream = iterate_entries(source)
    while rows := list(islice(stream, BATCH)):
        yield _predictions(rows, annotations, key, name, begin)
        begin += len(rows)


def read_results(source: JsonSource, annotations: Annotations, key: str = "image_id") -> Predictions:
    """All results at once. Arguments and errors as `iterate_results`."""
    return concatenate(list(iterate_results(source, annotations, key)))


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """One table after the other; an empty one for none."""
    if not parts:
        return Predictions(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    return Predictions(*(np.concatenate([getattr(p, n) for p in parts]) for n in Predictions.__dataclass_fields__))


def iterate_entries(source: JsonSource) -> Iterator[object]:
    """The items of a list of predictions, in a file or in memory."""
    if isinstance(source, (str, PathLike)):
        return json_items(source)
    if not isinstance(source, Sequence):
        raise DataError("<predictions>: not a list of results")
    return iter(source)


def _predictions(rows: list[object], annotations: Annotations, key: str, source: str, begin: int) -> Predictions:
    index, classes = annotations.image_index, annotations.category_index
    if annotations.left_out:
        rows = [row for row in rows if not (isinstance(row, Mapping) and row.get(key) in annotations.left_out)]
    try:
        image = np.array([index[row[key]] for row in rows], np.int64)  # type: ignore[index]
        category = np.array([classes[row["category_id"]] for row in rows] if classes else image * 0, np.int64)  # type: ignore[index]
        boxes = np.array([row["bbox"] for row in rows] or np.zeros((0, 4)))  # type: ignore[index]
        scores = np.array([row["score"] for row in rows] or np.zeros(0))  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        _refuse(rows, annotations, key, source, begin)
    numbers = boxes.shape == (len(rows), 4) and boxes.dtype.kind in "iuf" and scores.dtype.kind in "iuf"
    if not (numbers and np.isfinite(boxes).all() and np.isfinite(scores).all() and (boxes[:, 2:] >= 0).all()):
        _refuse(rows, annotations, key, source, begin)
    return Predictions(image, category, boxes.astype(np.float64), scores.astype(np.float64))


def _refuse(rows: list[object], annotations: Annotations, key: str, source: str, begin: int) -> NoReturn:
    """Raise an error that names the first wrong entry and what is wrong with it."""
    for number, row in enumerate(rows, begin):
        if not isinstance(row, Mapping):
            raise DataError(f"{source}: entry {number} is not an object: {str(row)[:80]}")
        name = f"{source}: entry {number} ({key} {row.get(key)!r})"
        if not _in(row.get(key), annotations.image_index):
            raise DataError(f"{name}: no such image in {annotations.source}")
        if annotations.category_index and not _in(row.get("category_id"), annotations.category_index):
            raise DataError(f"{name}: no category with id {row.get('category_id')!r} in {annotations.source}")
        if problem := _box_problem(row.get("bbox")):
            raise DataError(f"{name}: {problem}")
        if not _finite(row.get("score")):
            raise DataError(f"{name}: the score is not a finite number: {row.get('score')!r}")
    raise DataError(f"{source}: entries {begin} to {begin + len(rows) - 1} do not make a table of numbers")


def json_items(path: str | PathLike[str]) -> Iterator[object]:
    """Items of a JSON list of objects, read block by block, so that a list of any length needs little memory.

    Raises:
        DataError: The file is missing or no JSON list; the message says how many entries could be read.
    """
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    decode = json.JSONDecoder().raw_decode
    text, position, count, problem = "", 0, 0, "it is empty"
    try:
        with open(path, encoding="utf-8-sig") as file:
            while True:
                step = (_NEXT if count else _FIRST).match(text, position)
                if step and step[0].endswith("]"):
                    if text[step.end() :].strip() or file.read().strip():
                        raise DataError(f"{path}: more text after the list")
                    return
                if step:
                    try:
                        item, position = decode(text, step.end())
                        count += 1
                        yield item
                        continue
                    except json.JSONDecodeError as error:
                        problem = error.msg
                more = file.read(BLOCK)
                if not more or len(text) - position > LONGEST:
                    raise DataError(
                        f"{path}: not a valid JSON list of results: wrong after {count} entries ({problem})"
                    )
                text, position = text[position:] + more, 0
                problem = "it breaks off"
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid JSON after {count} entries: {error}") from None
