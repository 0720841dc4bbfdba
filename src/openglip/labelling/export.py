"""From the labels of a run to training data, and to Label Studio and back, where a person corrects them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

from openglip.data.files import read_json
from openglip.data.formats.label_studio import rectangle_value
from openglip.errors import ConfigError, DataError, MissingExtraError, PromptError
from openglip.files import StrPath, whole_file
from openglip.labelling.manifest import Manifest
from openglip.prompts.text import locate_phrases

Line = dict[str, Any]
ExportFormat = Literal["odvg", "parquet"]


def publish(
    folder: StrPath, output: StrPath, *, threshold: float = 0.5, format: ExportFormat = "odvg"
) -> dict[str, int]:
    """Write the labels of a run for training, one file per shard. Lines without a label are left out.

    Args:
        folder: The folder of the run.
        output: An empty folder.
        threshold: Only labels with a score above it.
        format: "odvg" (NAME.jsonl), or "parquet" (NAME.parquet with the paths of images; needs pyarrow).

    Returns:
        Numbers of lines and boxes, of lines without boxes, and of boxes below the threshold.

    Raises:
        ConfigError: The output folder is not empty.
        DataError: A shard of the run is missing or changed.
    """
    if format not in get_args(ExportFormat):
        raise ConfigError(f"no format {format!r}: use {' or '.join(get_args(ExportFormat))}")
    manifest, target = _load_finished(folder), Path(output)
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target} is not empty: choose another folder")
    counts = {"lines": 0, "boxes": 0, "lines_without_box": 0, "boxes_below_threshold": 0}
    for name in manifest.planned:
        lines = list(_lines_above(lines_of(folder, name), threshold, counts))
        if format == "parquet":
            _write_parquet(lines, target / f"{name}.parquet")
        else:
            _write_lines(lines, target / f"{name}.jsonl")
    return counts


def write_review_tasks(
    folder: StrPath, output: StrPath, *, threshold: float = 0.5, prefix: str = "", limit: int | None = None
) -> int:
    """Write the labels of a run as Label Studio tasks with predictions.

    Each phrase of a caption is a label ("person", "person (2)"), so that its span is not lost. The labelling interface
    needs <RectangleLabels name="label" toName="image" value="$labels"/>.

    Args:
        folder: The folder of the run.
        output: The JSON file to write.
        threshold: Only labels with a score above it.
        prefix: Put before file names so that Label Studio finds the images, such as "/data/local-files/?d=photos/".
        limit: Number of tasks; None writes all.

    Returns:
        The number of tasks.
    """
    lines = (line for name in _load_finished(folder).planned for line in lines_of(folder, name))
    tasks = [_task(line, number, threshold, prefix) for number, line in enumerate(islice(lines, limit), start=1)]
    with whole_file(output) as file:
        json.dump(tasks, file, ensure_ascii=False)
    return len(tasks)


def read_review_tasks(path: StrPath, output: StrPath) -> dict[str, int]:
    """Turn corrected tasks of `write_review_tasks` into ODVG lines.

    Of several annotations of a task, the last that was not cancelled counts; tasks without one are left out. The words
    of new labels are located in the caption.

    Args:
        path: Label Studio's JSON export.
        output: The ODVG file to write.

    Returns:
        Numbers of lines, boxes and tasks that were not reviewed.

    Raises:
        DataError: A label's words are not in the caption, or a rectangle is rotated; the message names the task.
    """
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise DataError(f"{path}: no list of tasks")
    counts = {"lines": 0, "boxes": 0, "not_reviewed": 0}
    lines = []
    for task in tasks:
        try:
            line = _corrected_line(task)
        except (KeyError, TypeError, ValueError) as error:
            task_id = task.get("id") if isinstance(task, dict) else task
            reason = str(error) if isinstance(error, DataError | PromptError) else f"{type(error).__name__} {error}"
            raise DataError(f"{path}: task {task_id!r}: {reason}") from error
        if line is None:
            counts["not_reviewed"] += 1
        else:
            counts["lines"] += 1
            counts["boxes"] += len(line["grounding"]["regions"])
            lines.append(line)
    _write_lines(lines, Path(output))
    return counts


def lines_of(folder: StrPath, shard: str) -> Iterator[Line]:
    """The lines of one shard of a run."""
    with open(Path(folder) / "shards" / f"{shard}.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _load_finished(folder: StrPath) -> Manifest:
    manifest = Manifest.load(folder)
    missing = [name for name in manifest.planned if not manifest.is_done(name)]
    if missing:
        raise DataError(f"{folder}: {len(missing)} shards are not done or changed ({missing[0]} is the first)")
    return manifest


def _lines_above(lines: Iterator[Line], threshold: float, counts: dict[str, int]) -> Iterator[Line]:
    for line in lines:
        regions = line["grounding"]["regions"]
        above = [region for region in regions if region["score"] > threshold]
        counts["boxes"] += len(above)
        counts["boxes_below_threshold"] += len(regions) - len(above)
        counts["lines" if above else "lines_without_box"] += 1
        if above:
            yield {**line, "grounding": {**line["grounding"], "regions": above}}


def _write_lines(lines: list[Line], path: Path) -> None:
    with whole_file(path, "wb") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def _write_parquet(lines: list[Line], path: Path) -> None:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "label", "writing parquet") from error
    regions = [line["grounding"]["regions"] for line in lines]
    text, integer, numbers = arrow.string(), arrow.int64(), arrow.list_(arrow.float64())
    values = {
        "image": ([line["filename"] for line in lines], text),
        "image_id": ([str(line.get("id", line["filename"])) for line in lines], text),
        "height": ([line["height"] for line in lines], integer),
        "width": ([line["width"] for line in lines], integer),
        "caption": ([line["grounding"]["caption"] for line in lines], text),
        "boxes": ([[r["bbox"] for r in row] for row in regions], arrow.list_(numbers)),
        "tokens_positive": (
            [[r["tokens_positive"] for r in row] for row in regions],
            arrow.list_(arrow.list_(arrow.list_(integer))),
        ),
        "scores": ([[r["score"] for r in row] for row in regions], numbers),
        "provenance": ([json.dumps(line["provenance"]) for line in lines], text),
    }
    with whole_file(path, "wb") as file:
        parquet.write_table(arrow.table({name: arrow.array(*column) for name, column in values.items()}), file)


# ---- Label Studio


def _task(line: Line, number: int, threshold: float, prefix: str) -> Line:
    names: dict[str, list[list[int]]] = {}
    results = []
    for i, region in enumerate(line["grounding"]["regions"]):
        name = _label_name(region, names)
        if region["score"] > threshold:
            results.append(_rectangle(f"r{i}", name, region, line["height"], line["width"]))
    data = {
        "image": prefix + (quote(line["filename"]) if "?" in prefix or "://" in prefix else line["filename"]),
        "caption": line["grounding"]["caption"],
        "labels": [{"value": name} for name in names],
        "spans": names,
        "size": [line["height"], line["width"]],
        "pair": {key: line[key] for key in ("filename", "id") if key in line},
        "provenance": line["provenance"],
    }
    model = f"{line['provenance']['teacher']} {line['provenance']['weights_sha256'][:8]}"
    return {"id": number, "data": data, "predictions": [{"model_version": model, "result": results}]}


def _label_name(region: Mapping[str, Any], names: dict[str, list[list[int]]]) -> str:
    """The label of a phrase; the second phrase with equal words gets a number. New ones are added to `names`."""
    spans, number = region["tokens_positive"], 1
    name = region["phrase"]
    while names.setdefault(name, spans) != spans:
        number += 1
        name = f"{region['phrase']} ({number})"
    return name


def _rectangle(result_id: str, name: str, region: Mapping[str, Any], height: int, width: int) -> Line:
    """A box in percent of the image."""
    value = rectangle_value(region["bbox"], height, width, name)
    target = {"from_name": "label", "to_name": "image", "original_width": width, "original_height": height}
    return {"id": result_id, "type": "rectanglelabels", **target, "value": value, "score": region["score"]}


def _corrected_line(task: Line) -> Line | None:
    """The ODVG line of one task; None when nobody reviewed it."""
    annotations = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    if not annotations:
        return None
    data = task["data"]
    height, width = data["size"]
    regions = []
    for item in annotations[-1]["result"]:
        if item.get("type") != "rectanglelabels":
            continue
        value = item["value"]
        if value.get("rotation"):
            raise DataError(f"a rectangle is rotated by {value['rotation']} degrees, but boxes are upright")
        left, top = value["x"] * width / 100, value["y"] * height / 100
        box = [left, top, left + value["width"] * width / 100, top + value["height"] * height / 100]
        for name in value["rectanglelabels"]:
            spans = data["spans"].get(name) or [list(s) for s in locate_phrases(data["caption"], [name])[0]]
            words = " ".join(data["caption"][b:e] for b, e in spans)
            regions.append({"bbox": [round(x, 2) for x in box], "phrase": words, "tokens_positive": spans})
    grounding = {"caption": data["caption"], "regions": regions}
    provenance = {**data["provenance"], "reviewed": True}
    return {**data["pair"], "height": height, "width": width, "grounding": grounding, "provenance": provenance}
