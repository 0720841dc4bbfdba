"""Label Studio json export (and import): a list of tasks.

    [{"id", "data": {"image": path or URL}, "annotations" or "predictions": [{"score"?, "result": [
        {"type": "rectanglelabels", "original_width", "original_height", "score"?,
         "value": {"x", "y", "width", "height", "rotation", "rectanglelabels": ["Car"]}}]}]}]

Places are percent of width and height from the left and top. Of several annotations of a task the last that was not
cancelled counts (with no results it says that there is no object); predictions count where there is no annotation; a
task without either is left out. Turned rectangles and other shapes are refused, and a task that has only other shapes
is left out. Names are those that occur; all objects of them are taken to be labelled.
Source: labelstud.io/guide/export.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from openglip.data.files import Files, image_size, read_json
from openglip.data.findings import Findings
from openglip.data.readers.annotations import is_id, numbers, record, size_of, usable_boxes
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample

SHAPES = ("rectangle", "polygon", "brush", "bitmask", "keypoint", "ellipse", "vector", "videorectangle")
"""How the types of results begin that have a place; others (choices, textarea, ...) say something of the picture."""


def read_label_studio(
    path: StrPath, images: StrPath | None = None, *, findings: Findings | None = None
) -> Iterator[Sample]:
    """Every task that is labelled, in its order. images: folder or tar of the pictures; None: the file's folder.

    Recorded: missing_annotation (a task that is not labelled), malformed (a shape that can't be used), missing_image.
    """
    report = findings if findings is not None else Findings(keep=False)
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f"{path}: no list of tasks")
    tasks = [record(item, ("data",), path, f"task {i}") for i, item in enumerate(content)]
    results = [_results(task) for task in tasks]
    categories = tuple(sorted({name for found in results for item in found or () for name in _labels(item)}))
    files = Files(images or Path(path).parent)
    for number, (task, found) in enumerate(zip(tasks, results, strict=True)):
        own = task["id"] if is_id(task.get("id")) else number
        if found is None:
            report.add("missing_annotation", path, own, "the task has no annotation that is finished")
            continue
        rectangles = [item for item in found if item["type"] == "rectanglelabels"]
        if others := [item["type"] for item in found if item["type"] != "rectanglelabels"]:
            text = f"only rectanglelabels are read, not {', '.join(sorted(set(others)))}"
            report.add("malformed", path, own, text, len(others))
            if not rectangles:  # no picture without objects
                continue
        image = files.reference(_file_name(task["data"], path, own))
        sizes = {size_of(r.get("original_height"), r.get("original_width")) for r in rectangles}
        size = sizes.pop() if len(sizes) == 1 else None
        try:
            size = size or image_size(image)
        except DataError as error:
            report.add("missing_image", path, own, str(error))
            continue
        yield _sample(image, size, rectangles, categories, path, own, report)
    if findings is None:
        report.log(path)


def _sample(
    image: Any, size: tuple[int, int], results: list[dict[str, Any]], categories: tuple[str, ...], path: object,
    own: int | str, findings: Findings,
) -> Sample:  # fmt: skip
    corners, labels, scores = [], [], []
    for item in results:
        value = item.get("value")
        value = value if isinstance(value, dict) else {}
        place, names = numbers([value.get(k) for k in ("x", "y", "width", "height")], 4), _labels(item)
        if place is None or not names or value.get("rotation"):
            what = "turned" if value.get("rotation") else "without a place or a label"
            findings.add("malformed", path, own, f"a rectangle is {what}: {value!r:.80}")
            continue
        x, y, w, h = place
        height, width = size[0] / 100, size[1] / 100
        corners.append([x * width, y * height, (x + w) * width, (y + h) * height])
        labels.append(categories.index(names[0]))
        scores.append(numbers([item.get("score")], 1))
    boxes, kept = usable_boxes(corners, size, findings, path, own)
    given = [scores[i] for i in kept]
    return Sample(
        image=image,
        size=size,
        boxes=boxes,
        categories=categories,
        labels=[labels[i] for i in kept],  # type: ignore[arg-type]
        exhaustive=True,
        scores=[s[0] for s in given if s] if given and None not in given else None,  # type: ignore[arg-type]
        image_id=own,
        source="label_studio",
    )


def _results(task: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The shapes of what counts of a task; None when nothing does."""

    def objects(items: object) -> list[dict[str, Any]]:
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

    drawn = [a for a in objects(task.get("annotations")) if not a.get("was_cancelled")]
    drawn = drawn or objects(task.get("predictions"))
    if not drawn or not isinstance(drawn[-1].get("result"), list):
        return None
    return [r for r in objects(drawn[-1]["result"]) if str(r.get("type")).startswith(SHAPES)]


def _labels(item: dict[str, Any]) -> list[str]:
    value = item.get("value")
    names = value.get("rectanglelabels") if isinstance(value, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _file_name(data: Any, path: object, own: int | str) -> str:
    """The picture's name: of "/data/local-files/?d=a/b.jpg" it is "a/b.jpg", of a URL its path."""
    places = [data.get("image"), *data.values()] if isinstance(data, dict) else []
    place = next((v for v in places if isinstance(v, str)), None)
    if place is None:
        raise DataError(f"{path}: task {own!r} has no image")
    try:
        parts = urlparse(place)
    except ValueError as error:
        raise DataError(f"{path}: task {own!r}: {place!r:.80} is no place of an image: {error}") from error
    local = parse_qs(parts.query).get("d")
    return unquote(local[0] if local else parts.path if parts.scheme else place).lstrip(
        "/" if parts.scheme or local else ""
    )
