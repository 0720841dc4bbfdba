"""From a run's labels to training data, and to a person and back: a threshold, parquet, Label Studio's tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from openglip.data.files import read_json
from openglip.errors import ConfigError, DataError, MissingExtraError, PromptError
from openglip.files import StrPath, whole_file
from openglip.labelling.manifest import Manifest
from openglip.prompts.text import locate_phrases

Line = dict[str, Any]
Form = Literal["odvg", "parquet"]


def publish(folder: StrPath, out: StrPath, *, threshold: float = 0.5, form: Form = "odvg") -> dict[str, int]:
    """Write the labels of a run that score above `threshold`, a file per shard, for training; returns counts.

    Lines that are left without a label are not written. form: "odvg" (NAME.jsonl) or "parquet" (NAME.parquet, the
    pictures as paths; needs pyarrow). Raises ConfigError when `out` holds files, DataError when the run is not whole.
    """
    if form not in get_args(Form):
        raise ConfigError(f"no format {form!r}: use {' or '.join(get_args(Form))}")
    manifest, target = _finished(folder), Path(out)
    if target.exists() and any(target.iterdir()):
        raise ConfigError(f"{target} is not empty: give another place")
    counts = {"lines": 0, "boxes": 0, "lines_without_box": 0, "boxes_below_threshold": 0}
    for name in manifest.planned:
        kept = list(_above(lines_of(folder, name), threshold, counts))
        if form == "parquet":
            _write_parquet(kept, target / f"{name}.parquet")
        else:
            _write_lines(kept, target / f"{name}.jsonl")
    return counts


def to_review(
    folder: StrPath, out: StrPath, *, threshold: float = 0.5, prefix: str = "", limit: int | None = None
) -> int:
    """Write a run's labels as Label Studio tasks with predictions; returns how many tasks.

    prefix: what stands before a picture's name so that Label Studio finds it, such as "/data/local-files/?d=photos/".
    Each phrase of a caption is a label of its own ("person", "person (2)"), so that it keeps its span; for the
    labelling interface use <RectangleLabels name="label" toName="image" value="$labels"/>.
    """
    tasks: list[Line] = []
    for name in _finished(folder).planned:
        for line in lines_of(folder, name):
            if limit is not None and len(tasks) >= limit:
                break
            tasks.append(_task(line, len(tasks) + 1, threshold, prefix))
    with whole_file(out) as file:
        json.dump(tasks, file, ensure_ascii=False)
    return len(tasks)


def from_review(path: StrPath, out: StrPath) -> dict[str, int]:
    """Turn tasks of `to_review` that a person corrected (Label Studio's json export) into ODVG lines; returns counts.

    Of several annotations of a task the last that was not cancelled counts; tasks without one are left out. A new
    label's words are looked up in the caption. Raises DataError with the task for words that are not in it and for
    turned rectangles.
    """
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise DataError(f"{path}: no list of tasks")
    counts = {"lines": 0, "boxes": 0, "not_reviewed": 0}
    lines = []
    for task in tasks:
        try:
            line = _corrected(task)
        except (KeyError, TypeError, ValueError) as error:
            own = task.get("id") if isinstance(task, dict) else task
            why = str(error) if isinstance(error, DataError | PromptError) else f"{type(error).__name__} {error}"
            raise DataError(f"{path}: task {own!r}: {why}") from error
        if line is None:
            counts["not_reviewed"] += 1
        else:
            counts["lines"] += 1
            counts["boxes"] += len(line["grounding"]["regions"])
            lines.append(line)
    _write_lines(lines, Path(out))
    return counts


def lines_of(folder: StrPath, shard: str) -> Iterator[Line]:
    """The lines of one shard of a run."""
    with open(Path(folder) / "shards" / f"{shard}.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _finished(folder: StrPath) -> Manifest:
    manifest = Manifest.load(Path(folder))
    missing = [name for name in manifest.planned if not manifest.is_done(name)]
    if missing:
        raise DataError(f"{folder}: {len(missing)} shards are not done or changed ({missing[0]} is the first)")
    return manifest


def _above(lines: Iterator[Line], threshold: float, counts: dict[str, int]) -> Iterator[Line]:
    for line in lines:
        regions = line["grounding"]["regions"]
        kept = [r for r in regions if r["score"] > threshold]
        counts["boxes"] += len(kept)
        counts["boxes_below_threshold"] += len(regions) - len(kept)
        counts["lines" if kept else "lines_without_box"] += 1
        if kept:
            yield {**line, "grounding": {**line["grounding"], "regions": kept}}


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
    numbers, spans = arrow.list_(arrow.list_(arrow.float64())), arrow.list_(arrow.list_(arrow.list_(arrow.int64())))
    columns = {
        "image": arrow.array([line["filename"] for line in lines], arrow.string()),
        "image_id": arrow.array([str(line.get("id", line["filename"])) for line in lines], arrow.string()),
        "height": arrow.array([line["height"] for line in lines], arrow.int64()),
        "width": arrow.array([line["width"] for line in lines], arrow.int64()),
        "caption": arrow.array([line["grounding"]["caption"] for line in lines], arrow.string()),
        "boxes": arrow.array([[r["bbox"] for r in row] for row in regions], numbers),
        "tokens_positive": arrow.array([[r["tokens_positive"] for r in row] for row in regions], spans),
        "scores": arrow.array([[r["score"] for r in row] for row in regions], arrow.list_(arrow.float64())),
        "provenance": arrow.array([json.dumps(line["provenance"]) for line in lines], arrow.string()),
    }
    with whole_file(path, "wb") as file:
        parquet.write_table(arrow.table(columns), file)


# --- Label Studio --------------------------------------------------------------------------------------------------


def _task(line: Line, number: int, threshold: float, prefix: str) -> Line:
    names: dict[str, list[list[int]]] = {}
    results = []
    for i, region in enumerate(line["grounding"]["regions"]):
        name = _name_of(region, names)
        if region["score"] > threshold:
            results.append(_rectangle(f"r{i}", name, region, line["height"], line["width"]))
    data = {
        "image": prefix + line["filename"],
        "caption": line["grounding"]["caption"],
        "labels": [{"value": name} for name in names],
        "spans": names,
        "size": [line["height"], line["width"]],
        "pair": {key: line[key] for key in ("filename", "id") if key in line},
        "provenance": line["provenance"],
    }
    model = f"{line['provenance']['teacher']} {line['provenance']['weights_sha256'][:8]}"
    return {"id": number, "data": data, "predictions": [{"model_version": model, "result": results}]}


def _name_of(region: Mapping[str, Any], names: dict[str, list[list[int]]]) -> str:
    """The label of a phrase; the second phrase of equal words gets a number."""
    spans, number = region["tokens_positive"], 1
    name = region["phrase"]
    while names.setdefault(name, spans) != spans:
        number += 1
        name = f"{region['phrase']} ({number})"
    return name


def _rectangle(own: str, name: str, region: Mapping[str, Any], height: int, width: int) -> Line:
    x1, y1, x2, y2 = region["bbox"]
    value = {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
        "rotation": 0,
        "rectanglelabels": [name],
    }
    places = {"from_name": "label", "to_name": "image", "original_width": width, "original_height": height}
    return {"id": own, "type": "rectanglelabels", **places, "value": value, "score": region["score"]}


def _corrected(task: Line) -> Line | None:
    """The ODVG line of one task; None when nobody looked at it."""
    given = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    if not given:
        return None
    data = task["data"]
    height, width = data["size"]
    regions = []
    for item in given[-1]["result"]:
        if item.get("type") != "rectanglelabels":
            continue
        value = item["value"]
        if value.get("rotation"):
            raise DataError(f"a rectangle is turned by {value['rotation']} degrees: boxes are upright")
        left, top = value["x"] * width / 100, value["y"] * height / 100
        box = [left, top, left + value["width"] * width / 100, top + value["height"] * height / 100]
        for name in value["rectanglelabels"]:
            spans = data["spans"].get(name) or [list(s) for s in locate_phrases(data["caption"], [name])[0]]
            words = " ".join(data["caption"][b:e] for b, e in spans)
            regions.append({"bbox": [round(x, 2) for x in box], "phrase": words, "tokens_positive": spans})
    grounding = {"caption": data["caption"], "regions": regions}
    provenance = {**data["provenance"], "reviewed": True}
    return {**data["pair"], "height": height, "width": width, "grounding": grounding, "provenance": provenance}
