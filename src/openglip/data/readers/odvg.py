"""ODVG: one json object a line, detection or grounding (Open-GroundingDino, MM-Grounding-DINO).

    {"filename", "height", "width", "detection": {"instances": [
        {"bbox": [x1, y1, x2, y2], "label": 0, "category": "dog"}]}}
    {"filename", "height", "width", "grounding": {"caption", "regions": [
        {"bbox": [x1, y1, x2, y2] or a list, "phrase": "a dog" or a list, "tokens_positive"?: [[b, e]], "score"?}]}}

The names of detection labels stand in a label map beside the file, {"0": "dog", ...} (`*label_map*.json`), or are taken
from the instances. Spans are looked up in the caption where a line has none.
Source: github.com/longzw1997/Open-GroundingDino, data_format.md; INTERFACE section 3 for labelling runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from openglip.data.files import Files, decode, read_json
from openglip.data.findings import Findings
from openglip.data.readers.annotations import Span, is_id, listed, numbers, record, size_of, usable_boxes, usable_spans
from openglip.errors import DataError, PromptError
from openglip.files import StrPath
from openglip.prompts.text import clean_name, locate_phrases
from openglip.structures.sample import ImageReference, Sample


def read_odvg(
    path: StrPath,
    images: StrPath | None = None,
    *,
    label_map: StrPath | None = None,
    exhaustive: bool = True,
    findings: Findings | None = None,
) -> Iterator[Sample]:
    """Every line that is a detection, and every grounding line that has a box, in their order.

    images: folder or tar of the pictures; None: the file's folder. exhaustive: whether detection lines label every
    object of the label map. Recorded: malformed (a line that is no such record). Raises DataError when a line
    is no json.
    """
    report = findings if findings is not None else Findings(keep=False)
    path = Path(path)
    names_file = label_map or _beside(path)
    names = read_label_map(names_file) if names_file else names_in(line for _, line in _lines(path))
    files = Files(images or path.parent)
    for number, line in _lines(path):
        try:
            item = record(line, ("filename", "height", "width"), path, f"line {number}")
            image = files.reference(str(item["filename"]))
            sample = sample_of(item, image, names, path, f"line {number}", exhaustive, report)
        except DataError as error:
            report.add("malformed", path, number, str(error))
            continue
        if sample is not None:
            yield sample
    if findings is None:
        report.log(path)


def sample_of(
    item: dict[str, Any],
    image: ImageReference,
    names: dict[int, str],
    path: object,
    place: str,
    exhaustive: bool,
    findings: Findings,
) -> Sample | None:
    """One record as a sample; None for a caption without a usable box (note `caption_without_box`)."""
    size = size_of(item["height"], item["width"])
    if size is None:
        raise DataError(f"{path}: {place}: height and width are {item['height']!r} and {item['width']!r}")
    own = str(item.get("image_id", item.get("filename", place)))
    if isinstance(item.get("detection"), dict):
        boxes, labels = _instances(item["detection"], size, names, path, own, findings)
        categories = tuple(names[i] for i in sorted(names))
        return Sample(
            image, size, boxes, categories=categories, labels=labels, exhaustive=exhaustive, image_id=own, source="odvg"
        )
    grounding = record(item.get("grounding"), ("caption",), path, f"{place}: grounding")
    caption = str(grounding["caption"])
    boxes, spans, scores = _regions(grounding, caption, size, path, own, findings)
    if not len(boxes):
        findings.add("caption_without_box", path, own, "no region of the caption is usable")
        return None
    return Sample(image, size, boxes, caption, tuple(spans), scores=scores, image_id=own, source="odvg")


def read_label_map(path: StrPath) -> dict[int, str]:
    """Number to name. Raises DataError with the file."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(str(k).isdigit() and isinstance(v, str) for k, v in content.items()):
        raise DataError(f"{path}: no label map of number to name")
    return {int(k): v for k, v in content.items()}


def _instances(
    detection: dict[str, Any], size: tuple[int, int], names: dict[int, str], path: object, own: str, findings: Findings
) -> tuple[np.ndarray, np.ndarray]:
    order = {label: i for i, label in enumerate(sorted(names))}
    corners, labels = [], []
    for item in listed(detection.get("instances", []), path, f"{own}: instances"):
        box = numbers(item.get("bbox"), 4) if isinstance(item, dict) else None
        if box is None:
            findings.add("malformed", path, own, f"no bbox of four numbers: {item!r:.60}")
        elif not is_id(item.get("label")) or item["label"] not in order:
            findings.add("unmapped_class", path, own, f"label {item.get('label')!r} is not in the label map")
        elif not _same(item.get("category"), names[item["label"]]):
            text = f"label {item['label']} is {names[item['label']]!r} in the label map, {item['category']!r} here"
            findings.add("class_mismatch", path, own, text)
        else:
            corners.append(box)
            labels.append(order[item["label"]])
    boxes, kept = usable_boxes(corners, size, findings, path, own)
    return boxes, np.array(labels, np.int64)[kept]


def _regions(
    grounding: dict[str, Any], caption: str, size: tuple[int, int], path: object, own: str, findings: Findings
) -> tuple[np.ndarray, list[tuple[Span, ...]], np.ndarray | None]:
    corners, spans, scores = [], [], []
    for item in listed(grounding.get("regions", []), path, f"{own}: regions"):
        region = record(item, ("bbox",), path, f"{own}: a region")
        bbox = listed(region["bbox"], path, f"{own}: bbox")
        several = bbox if bbox and isinstance(bbox[0], list) else [bbox]
        boxes = [numbers(box, 4) for box in several]
        if None in boxes:
            findings.add("malformed", path, own, f"no bbox of four numbers: {region['bbox']!r:.60}")
            continue
        found = _spans(region, caption, path, own, findings)
        if found:
            corners.extend(boxes)
            spans.extend([tuple(found)] * len(boxes))
            scores.extend([region.get("score")] * len(boxes))
    boxes, kept = usable_boxes(corners, size, findings, path, own)
    numeric = [scores[i] for i in kept]
    has_scores = bool(numeric) and all(isinstance(s, int | float) for s in numeric)
    return boxes, [spans[i] for i in kept], np.array(numeric, np.float32) if has_scores else None


def _spans(region: dict[str, Any], caption: str, path: object, own: str, findings: Findings) -> list[Span]:
    if region.get("tokens_positive"):
        return usable_spans(region["tokens_positive"], caption, findings, path, own)
    phrases = region.get("phrase") or []
    phrases = [phrases] if isinstance(phrases, str) else listed(phrases, path, f"{own}: phrase")
    try:
        found = locate_phrases(caption, [str(phrase) for phrase in phrases])
    except PromptError as error:
        findings.add("phrase_not_in_caption", path, own, str(error))
        return []
    if not found:
        findings.add("box_without_phrase", path, own, "neither a phrase nor tokens_positive")
    return [span for item in found for span in item]


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json.loads(decode(line, path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {number} is not json: {error.msg}") from error


def names_in(records: Iterable[object]) -> dict[int, str]:
    """Label to name, from the instances of the records themselves."""
    names: dict[int, str] = {}
    for line in records:
        detection = line.get("detection") if isinstance(line, dict) else None
        instances = detection.get("instances") if isinstance(detection, dict) else None
        for item in instances if isinstance(instances, list) else ():
            if isinstance(item, dict) and isinstance(item.get("label"), int) and "category" in item:
                names.setdefault(item["label"], str(item["category"]))
    return names


def _same(category: object, name: str) -> bool:
    """Whether a record's own category, if it has one, reads as the label map's name."""
    return category is None or clean_name(str(category)).casefold() == clean_name(name).casefold()


def _beside(path: Path) -> Path | None:
    """The label map that bears the file's name, or the only one. Raises DataError when there are several others."""
    own = path.with_name(f"{path.stem}_label_map.json")
    if own.is_file():
        return own
    found = sorted(path.parent.glob("*label_map*.json"))
    named = [f for f in found if path.stem.startswith(f.stem.partition("label_map")[0].rstrip("_-.") or path.stem)]
    if len(found) < 2:
        return found[0] if found else None
    if not named:
        raise DataError(
            f"{path}: which is its label map: {', '.join(f.name for f in found)}? Give label_map, or {own.name}"
        )
    return max(named, key=lambda f: len(f.stem.partition("label_map")[0]))
