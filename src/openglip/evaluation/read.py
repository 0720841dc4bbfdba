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
# What stands before an item, or closes the list; with a look at what follows, so that no block cuts it.
_FIRST, _NEXT = re.compile(r"\s*\[\s*(?:\]|(?=\S))"), re.compile(r"\s*(?:\]|,\s*(?=\S))")


@dataclass(frozen=True)
class Annotations:
    """A COCO-style file as arrays. Images and categories are indexed in the order of their ids, as pycocotools does.

    images, categories: the file's own records in that order. names: one per category, made unique.
    image_index, category_index: id -> index; images left out by a choice of ids have none. left_out: their ids.
    judged: images x categories, where a class is labelled; None: everywhere.
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
    """How an error names a source."""
    return str(source) if isinstance(source, (str, PathLike)) else f"<{word}>"


def source_sha256(source: JsonSource) -> str | None:
    """Hash of a file, None for what is not a file."""
    return file_sha256(source) if isinstance(source, (str, PathLike)) and Path(source).is_file() else None


def load_json(source: JsonSource, word: str) -> object:
    """The parsed file, or the object itself. Raises DataError with file and place."""
    return read_json(source) if isinstance(source, (str, PathLike)) else source


def read_annotations(
    source: JsonSource,
    ids: Iterable[object] | None = None,
    *,
    keep: Callable[[Record], bool] = lambda image: True,
    federated: bool = False,
) -> Annotations:
    """Images, categories and boxes of a COCO-style file; of the images with these ids and that `keep` accepts.

    `area` defaults to width x height, `iscrowd` to 0, and `ignore` is overwritten by `iscrowd`. federated (LVIS): no
    crowds, and `ignore` as it stands. Raises DataError naming file and id: keys that are missing, ids that occur twice
    or lead nowhere, boxes that are not four finite numbers or have a negative size, an id in `ids` that no image has.
    """
    place, data = source_name(source, "annotations"), load_json(source, "annotations")
    if not isinstance(data, Mapping):
        raise DataError(f"{place}: a COCO file is an object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), Sequence):
            raise DataError(f"{place}: no list of {key!r}: is this a COCO annotation file?")
    if not data["categories"]:
        raise DataError(f"{place}: the list of categories is empty")
    images, categories = _by_id(data["images"], "image", place), _by_id(data["categories"], "category", place)
    every = {image["id"]: i for i, image in enumerate(images)}
    wanted = {str(i) for i in (every if ids is None else ids)}
    if missing := wanted - {str(i) for i in every}:
        raise DataError(f"{place}: no image with id {min(missing)}, which the list of ids asks for")
    left_out = frozenset(image["id"] for image in images if str(image["id"]) not in wanted or not keep(image))
    images = tuple(image for image in images if image["id"] not in left_out)
    if not images:
        raise DataError(f"{place}: no image is left to judge of {len(every)}")
    image_index = {image["id"]: i for i, image in enumerate(images)}
    category_index = {category["id"]: i for i, category in enumerate(categories)}
    rows = [row for row in data["annotations"] if _annotation(row, every, category_index, place) in image_index]
    truth = _truth(rows, image_index, category_index, federated)
    return Annotations(place, images, categories, _names(categories), image_index, category_index, left_out, truth)


def _by_id(records: Sequence[Record], kind: str, place: str) -> tuple[Record, ...]:
    seen: set[object] = set()
    for record in records:
        if not isinstance(record, Mapping) or not isinstance(record.get("id", []), Hashable):
            raise DataError(f"{place}: {kind} without an id: {str(record)[:80]}")
        if record["id"] in seen:
            raise DataError(f"{place}: {kind} id {record['id']} occurs twice")
        seen.add(record["id"])
    try:
        return tuple(sorted(records, key=lambda record: record["id"]))  # type: ignore[arg-type, return-value]
    except TypeError:
        raise DataError(f"{place}: {kind} ids are partly numbers and partly strings") from None


def _names(categories: Sequence[Record]) -> tuple[str, ...]:
    names = [str(c.get("name", c["id"])) for c in categories]
    return tuple(n if names.count(n) == 1 else f"{n} (id {c['id']})" for n, c in zip(names, categories, strict=True))


def _annotation(row: Record, images: Mapping[object, int], categories: Mapping[object, int], place: str) -> object:
    """The image id of a row that is in order."""
    if not isinstance(row, Mapping):
        raise DataError(f"{place}: an annotation is not an object: {str(row)[:80]}")
    name = f"{place}: annotation {row.get('id', '(no id)')}"
    for key, known in (("image_id", images), ("category_id", categories)):
        if not _in(row.get(key), known):
            raise DataError(f"{name}: no such {key}: {row.get(key)!r}")
    why = _bad_box(row.get("bbox"))
    if why is None and row.get("area") is not None and not _finite(row["area"]):
        why = f"area is not a finite number: {row['area']!r}"
    if why is not None:
        raise DataError(f"{name} of image {row['image_id']}: {why}")
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


def _bad_box(box: object) -> str | None:
    if not isinstance(box, Sequence) or isinstance(box, str) or len(box) != 4:
        return f"bbox is not four numbers: {box!r}"
    if not all(_finite(v) for v in box):
        return f"bbox is not finite: {list(box)}"
    return f"bbox has a negative size: {list(box)}" if box[2] < 0 or box[3] < 0 else None


def _in(value: object, known: Mapping[object, int]) -> bool:
    return isinstance(value, Hashable) and value in known


def _finite(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def iterate_results(source: JsonSource, annotations: Annotations, key: str = "image_id") -> Iterator[Predictions]:
    """Batches of a list of `{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`, in the order of the file.

    key: "ref_id" for expressions, which have no categories. Results on images that a choice of ids left out are passed
    over. Raises DataError naming the file and the entry: unknown ids, scores or boxes that are not finite, negative
    sizes, json that breaks off.
    """
    place, at = source_name(source, "predictions"), 0
    stream = iterate_entries(source)
    while rows := list(islice(stream, BATCH)):
        yield _found(rows, annotations, key, place, at)
        at += len(rows)


def read_results(source: JsonSource, annotations: Annotations, key: str = "image_id") -> Predictions:
    """All results at once."""
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


def _found(rows: list[object], annotations: Annotations, key: str, place: str, at: int) -> Predictions:
    index, classes = annotations.image_index, annotations.category_index
    if annotations.left_out:
        rows = [row for row in rows if not (isinstance(row, Mapping) and row.get(key) in annotations.left_out)]
    try:
        image = np.array([index[row[key]] for row in rows], np.int64)  # type: ignore[index]
        category = np.array([classes[row["category_id"]] for row in rows] if classes else image * 0, np.int64)  # type: ignore[index]
        boxes = np.array([row["bbox"] for row in rows] or np.zeros((0, 4)))  # type: ignore[index]
        scores = np.array([row["score"] for row in rows] or np.zeros(0))  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        _refuse(rows, annotations, key, place, at)
    numbers = boxes.shape == (len(rows), 4) and boxes.dtype.kind in "iuf" and scores.dtype.kind in "iuf"
    if not (numbers and np.isfinite(boxes).all() and np.isfinite(scores).all() and (boxes[:, 2:] >= 0).all()):
        _refuse(rows, annotations, key, place, at)
    return Predictions(image, category, boxes.astype(np.float64), scores.astype(np.float64))


def _refuse(rows: list[object], annotations: Annotations, key: str, place: str, at: int) -> NoReturn:
    """Say which entry is wrong and why."""
    for number, row in enumerate(rows, at):
        if not isinstance(row, Mapping):
            raise DataError(f"{place}: entry {number} is not an object: {str(row)[:80]}")
        name = f"{place}: entry {number} ({key} {row.get(key)!r})"
        if not _in(row.get(key), annotations.image_index):
            raise DataError(f"{name}: no such image in {annotations.source}")
        if annotations.category_index and not _in(row.get("category_id"), annotations.category_index):
            raise DataError(f"{name}: no category with id {row.get('category_id')!r} in {annotations.source}")
        if why := _bad_box(row.get("bbox")):
            raise DataError(f"{name}: {why}")
        if not _finite(row.get("score")):
            raise DataError(f"{name}: the score is not a finite number: {row.get('score')!r}")
    raise DataError(f"{place}: entries {at} to {at + len(rows) - 1} do not make a table of numbers")


def json_items(path: str | PathLike[str]) -> Iterator[object]:
    """Items of a JSON list of objects, read block by block: a list of any length in little memory."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    decode = json.JSONDecoder().raw_decode
    text, at, count, why = "", 0, 0, "it is empty"
    try:
        with open(path, encoding="utf-8-sig") as file:
            while True:
                step = (_NEXT if count else _FIRST).match(text, at)
                if step and step[0].endswith("]"):
                    if text[step.end() :].strip() or file.read().strip():
                        raise DataError(f"{path}: more text after the list")
                    return
                if step:
                    try:
                        item, at = decode(text, step.end())
                        count += 1
                        yield item
                        continue
                    except json.JSONDecodeError as error:
                        why = error.msg
                more = file.read(BLOCK)
                if not more or len(text) - at > LONGEST:
                    raise DataError(f"{path}: not a valid JSON list of results: wrong after {count} entries ({why})")
                text, at = text[at:] + more, 0
                why = "it breaks off"
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid JSON after {count} entries: {error}") from None
