"""Label Studio JSON export (and import): a list of tasks.

    [{"id", "data": {"image": path or URL}, "annotations" or "predictions": [{"score"?, "result": [
        {"type": "rectanglelabels", "original_width", "original_height", "score"?,
         "value": {"x", "y", "width", "height", "rotation", "rectanglelabels": ["Car"]}}]}]}]

x, y, width and height are percent of the image's width and height. Of several annotations of a task the last that was
not cancelled counts (with no results it says that there is no object); predictions count where there is no annotation;
a task without either is left out. Turned rectangles and other shapes are refused, and a task that has only other
shapes is left out. Names are those that occur; all objects of them are taken to be labelled.
Source: labelstud.io/guide/export.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

from openglip.data.annotations import Boxes, header_size, is_id, numbers, records, size_of, xywh_corners
from openglip.data.files import Files, read_json
from openglip.data.findings import Findings, collector
from openglip.data.format import Candidate, Format, Losses
from openglip.data.writing import ImagePaths, count_lost, free_id, score_field, scores_of
from openglip.errors import DataError
from openglip.files import StrPath, whole_file
from openglip.structures.sample import Sample

SHAPES = ("rectangle", "polygon", "brush", "bitmask", "keypoint", "ellipse", "vector", "videorectangle")
"""How the types of results with a position begin; others (choices, textarea, ...) are about the whole image."""


def read_label_studio(
    path: StrPath, images: StrPath | None = None, findings: Findings | None = None
) -> Iterator[Sample]:
    """Every task that is labelled, in its order.

    Recorded: missing_annotation (a task that is not labelled), malformed (a shape that can't be used), missing_image.

    Args:
        path: The JSON file.
        images: Folder or tar of the images; None is the file's folder.
        findings: Collects what is left out; None logs it.

    Raises:
        DataError: It is no list of tasks, or a task has no image.
    """
    report = collector(findings)
    tasks = records(read_json(path), ("data",), path, "task")
    results = [_results(task) for task in tasks]
    categories = sorted({name for items in results for item in items or () for name in _labels(item)})
    index = {name: i for i, name in enumerate(categories)}
    files = Files(images or Path(path).parent)
    for number, (task, items) in enumerate(zip(tasks, results, strict=True)):
        task_id = task["id"] if is_id(task.get("id")) else number
        if items is None:
            report.add("missing_annotation", path, task_id, "the task has no annotation that is finished")
            continue
        rectangles = [item for item in items if item["type"] == "rectanglelabels"]
        if others := [item["type"] for item in items if item["type"] != "rectanglelabels"]:
            text = f"only rectanglelabels are read, not {', '.join(sorted(set(others)))}"
            report.add("malformed", path, task_id, text, len(others))
            if not rectangles:  # not an image without objects
                continue
        name = _file_name(task["data"], path, task_id)
        image = files.find(name) or files.reference(unquote(name))
        sizes = {size_of(r.get("original_height"), r.get("original_width")) for r in rectangles}
        size = (sizes.pop() if len(sizes) == 1 else None) or header_size(image, report, path, task_id)
        if size is None:
            continue
        boxes = Boxes(path, task_id, report)
        for item in rectangles:
            _add_rectangle(boxes, item, size)
        yield boxes.sample(image, size, index, categories=tuple(index), exhaustive=True, source="label_studio")
    report.done(path)


def _add_rectangle(boxes: Boxes, item: dict[str, Any], size: tuple[int, int]) -> None:
    value = item.get("value")
    value = value if isinstance(value, dict) else {}
    rectangle, names = numbers([value.get(k) for k in ("x", "y", "width", "height")], 4), _labels(item)
    if rectangle is None or not names or value.get("rotation"):
        what = "turned" if value.get("rotation") else "without a position or a label"
        boxes.report("malformed", f"a rectangle is {what}: {value!r:.80}")
        return
    x1, y1, x2, y2 = xywh_corners(rectangle)
    height, width = size[0] / 100, size[1] / 100
    score = numbers([item.get("score")], 1)
    boxes.add([x1 * width, y1 * height, x2 * width, y2 * height], names[0], score=score[0] if score else None)


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


def _file_name(data: Any, path: object, task_id: int | str) -> str:
    """The image's name: of "/data/local-files/?d=a/b.jpg" it is "a/b.jpg", of a URL its path, else as it is."""
    values = [data.get("image"), *data.values()] if isinstance(data, dict) else []
    address = next((v for v in values if isinstance(v, str)), None)
    if address is None:
        raise DataError(f"{path}: task {task_id!r} has no image")
    try:
        parts = urlparse(address)
    except ValueError as error:
        raise DataError(f"{path}: task {task_id!r}: {address!r:.80} is no address of an image: {error}") from error
    local = parse_qs(parts.query).get("d") if "local-files" in parts.path else None
    if local:
        return local[0].lstrip("/")
    return unquote(parts.path).lstrip("/") if parts.scheme else address


def _is_label_studio(candidate: Candidate) -> bool:
    content = candidate.json
    return isinstance(content, list) and bool(content) and isinstance(content[0], dict) and "data" in content[0]


def write_label_studio(samples: Iterable[Sample], path: StrPath) -> Losses:
    """Write tasks with annotations, or with predictions where there are scores.

    Captions, negatives and categories without a box are lost.
    """
    lost, tasks, ids, image_path = Losses(), [], set[int](), ImagePaths(path)
    used, categories = set[str](), set[str]()
    for number, sample in enumerate(samples, start=1):
        count_lost(sample, lost, "caption", "phrase_spans", "negatives")
        categories.update(sample.categories or ())
        used.update(sample.names)
        task_id = free_id(sample, number, ids, lost)
        kind = "annotations" if sample.scores is None else "predictions"
        results = list(_rectangles(sample))
        tasks.append({"id": task_id, "data": {"image": image_path(sample)}, kind: [{"result": results}]})
    lost["categories"] = len(categories - used)
    with whole_file(path) as file:
        json.dump(tasks, file)
    return +lost


def _rectangles(sample: Sample) -> Iterator[dict[str, Any]]:
    height, width = sample.size
    for number, (name, box, score) in enumerate(
        zip(sample.names, sample.boxes.tolist(), scores_of(sample), strict=True)
    ):
        yield {
            "id": str(number),
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "value": rectangle_value(box, height, width, name),
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            **score_field(score),
        }


def rectangle_value(box: Sequence[float], height: int, width: int, name: str) -> dict[str, Any]:
    """The "value" of a rectangle.

    Args:
        box: x1, y1, x2, y2 in pixels.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        name: Its label.
    """
    x1, y1, x2, y2 = box
    return {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
        "rotation": 0,
        "rectanglelabels": [name],
    }


LABEL_STUDIO = Format(
    "label-studio", read_label_studio, _is_label_studio, write=write_label_studio, suffixes=(".json",)
)
