"""ODVG: one JSON object a line, detection or grounding (Open-GroundingDino, MM-Grounding-DINO).

    {"filename", "height", "width", "detection": {"instances": [
        {"bbox": [x1, y1, x2, y2], "label": 0, "category": "dog"}]}}
    {"filename", "height", "width", "grounding": {"caption", "regions": [
        {"bbox": [x1, y1, x2, y2] or a list, "phrase": "a dog" or a list, "tokens_positive"?: [[b, e]], "score"?}]}}

The names of detection labels are in a label map next to the file, {"0": "dog", ...} (`*label_map*.json`), or are taken
from the instances. Spans are searched in the caption where a line has none. Labelling runs write such lines.
Source: github.com/longzw1997/Open-GroundingDino, data_format.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openglip.data.annotations import Boxes, is_id, listed, numbers, record, size_of, usable_spans
from openglip.data.files import Files, decode, read_json
from openglip.data.findings import Findings, collector
from openglip.data.format import Format, Losses
from openglip.data.writing import ImagePaths, count_lost, score_field, scores_of
from openglip.errors import DataError, PromptError
from openglip.files import StrPath, whole_file
from openglip.prompts.text import clean_name, locate_phrases
from openglip.structures.sample import ImageReference, Sample, Span


def read_odvg(
    path: StrPath,
    images: StrPath | None = None,
    findings: Findings | None = None,
    *,
    label_map: StrPath | None = None,
    exhaustive: bool = True,
) -> Iterator[Sample]:
    """Every line that is a detection, and every grounding line that has a box, in their order.

    Recorded: malformed (a line that is no such record), caption_without_box, and what is wrong with boxes and spans.

    Args:
        path: The file of JSON lines.
        images: Folder or tar of the images; None is the file's folder.
        findings: Collects what is left out; None logs it.
        label_map: JSON file of the names; None searches next to the file.
        exhaustive: Detection lines label every object of the label map.

    Raises:
        DataError: A line is no JSON.
    """
    report = collector(findings)
    path = Path(path)
    names_file = label_map or _label_map_of(path)
    names = read_label_map(names_file) if names_file else names_in(line for _, line in _lines(path))
    records = Records(path, names, exhaustive, report)
    files = Files(images or path.parent)
    for number, line in _lines(path):
        try:
            item = record(line, ("filename", "height", "width"), path, f"line {number}")
            sample = records.sample(item, files.reference(str(item["filename"])), f"line {number}")
        except DataError as error:
            report.add("malformed", path, number, str(error))
            continue
        if sample is not None:
            yield sample
    report.done(path)


@dataclass(frozen=True)
class Records:
    """Turns the records of one file into samples.

    Attributes:
        path: The file, for messages.
        names: The label map.
        exhaustive: Detection records label every object of the label map.
        findings: Collects what is left out.
    """

    path: Path
    names: Mapping[int, str]
    exhaustive: bool
    findings: Findings

    def sample(self, item: dict[str, Any], image: ImageReference, where: str) -> Sample | None:
        """One record as a sample; None for a caption without a usable box (note `caption_without_box`).

        Args:
            item: The record, with "height", "width", and "detection" or "grounding".
            image: Where its image is.
            where: Where the record is in the file, for messages.

        Raises:
            DataError: It is no such record.
        """
        size = size_of(item["height"], item["width"])
        if size is None:
            raise DataError(f"{self.path}: {where}: height and width are {item['height']!r} and {item['width']!r}")
        boxes = Boxes(self.path, str(item.get("image_id", item.get("filename", where))), self.findings)
        if isinstance(item.get("detection"), dict):
            self._add_instances(boxes, item["detection"])
            labels = sorted(self.names)
            index, names = {label: i for i, label in enumerate(labels)}, tuple(self.names[i] for i in labels)
            return boxes.sample(image, size, index, categories=names, exhaustive=self.exhaustive, source="odvg")
        grounding = record(item.get("grounding"), ("caption",), self.path, f"{where}: grounding")
        caption = str(grounding["caption"])
        self._add_regions(boxes, grounding, caption)
        sample = boxes.sample(image, size, caption=caption, source="odvg")
        if not len(sample):
            boxes.report("caption_without_box", "no region of the caption is usable")
        return sample if len(sample) else None

    def _add_instances(self, boxes: Boxes, detection: dict[str, Any]) -> None:
        for item in listed(detection.get("instances", []), self.path, f"{boxes.id}: instances"):
            box = numbers(item.get("bbox"), 4) if isinstance(item, dict) else None
            label: Any = item.get("label") if isinstance(item, dict) else None
            if box is None:
                boxes.report("malformed", f"no bbox of four numbers: {item!r:.60}")
            elif not is_id(label) or label not in self.names:
                boxes.report("unmapped_class", f"label {label!r} is not in the label map")
            elif not _same_name(item.get("category"), self.names[label]):
                text = f"label {label} is {self.names[label]!r} in the label map, {item['category']!r} here"
                boxes.report("class_mismatch", text)
            else:
                boxes.add(box, label)

    def _add_regions(self, boxes: Boxes, grounding: dict[str, Any], caption: str) -> None:
        for item in listed(grounding.get("regions", []), self.path, f"{boxes.id}: regions"):
            region = record(item, ("bbox",), self.path, f"{boxes.id}: a region")
            bbox = listed(region["bbox"], self.path, f"{boxes.id}: bbox")
            several = bbox if bbox and isinstance(bbox[0], list) else [bbox]
            corners = [box for item in several if (box := numbers(item, 4)) is not None]
            if len(corners) < len(several):
                boxes.report("malformed", f"no bbox of four numbers: {bbox!r:.60}")
            elif spans := self._spans(region, caption, boxes):
                for box in corners:
                    boxes.add(box, spans=spans, score=region.get("score"))

    def _spans(self, region: dict[str, Any], caption: str, boxes: Boxes) -> list[Span]:
        if region.get("tokens_positive"):
            return usable_spans(region["tokens_positive"], caption, self.findings, self.path, boxes.id)
        phrases = region.get("phrase") or []
        phrases = [phrases] if isinstance(phrases, str) else listed(phrases, self.path, f"{boxes.id}: phrase")
        try:
            spans = locate_phrases(caption, [str(phrase) for phrase in phrases])
        except PromptError as error:
            boxes.report("phrase_not_in_caption", str(error))
            return []
        if not spans:
            boxes.report("box_without_phrase", "neither a phrase nor tokens_positive")
        return [span for phrase in spans for span in phrase]


def read_label_map(path: StrPath) -> dict[int, str]:
    """Number to name. Raises DataError with the file."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(str(k).isdigit() and isinstance(v, str) for k, v in content.items()):
        raise DataError(f"{path}: no label map of number to name")
    return {int(k): v for k, v in content.items()}


def write_label_map(labels: Mapping[str, int], path: StrPath) -> None:
    """Name to number as a label map; none is written for no names."""
    if labels:
        with whole_file(path) as file:
            json.dump({number: name for name, number in labels.items()}, file)


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


def _same_name(category: object, name: str) -> bool:
    """Whether a record's category, if it has one, reads as the label map's name."""
    return category is None or clean_name(str(category)).casefold() == clean_name(name).casefold()


def _label_map_of(path: Path) -> Path | None:
    """The label map with the file's name, or the only one. Raises DataError when there are several others."""
    own_map = path.with_name(f"{path.stem}_label_map.json")
    if own_map.is_file():
        return own_map
    maps = sorted(path.parent.glob("*label_map*.json"))
    if len(maps) < 2:
        return maps[0] if maps else None
    named = [f for f in maps if path.stem.startswith(f.stem.partition("label_map")[0].rstrip("_-.") or path.stem)]
    if not named:
        raise DataError(
            f"{path}: which is its label map: {', '.join(f.name for f in maps)}? Give label_map, or {own_map.name}"
        )
    return max(named, key=lambda f: len(f.stem.partition("label_map")[0]))


def write_odvg(samples: Iterable[Sample], path: StrPath) -> Losses:
    """Write ODVG lines, and a label map next to them where there are categories. Negatives are lost."""
    lost, labels, image_path = Losses(), dict[str, int](), ImagePaths(path)
    with whole_file(path) as file:
        for sample in samples:
            item = odvg_record(sample, image_path(sample), labels, lost)
            file.write(json.dumps(item) + "\n")
    write_label_map(labels, Path(path).with_name(f"{Path(path).stem}_label_map.json"))
    return +lost


def odvg_record(sample: Sample, filename: str, labels: dict[str, int], lost: Losses) -> dict[str, Any]:
    """One sample as an ODVG record. A caption goes before categories.

    Args:
        sample: The sample.
        filename: The name of its image in the record.
        labels: Number of each name; new names are added.
        lost: Counts what the record can't hold.
    """
    height, width = sample.size
    head = {"filename": filename, "height": height, "width": width, "image_id": str(sample.image_id)}
    if sample.caption is not None and sample.phrase_spans is not None:
        count_lost(sample, lost, "labels", "negatives", exhaustive=False)
        regions = [
            {"bbox": box, "phrase": name, "tokens_positive": [list(s) for s in spans], **score_field(score)}
            for box, name, spans, score in zip(
                sample.boxes.tolist(), sample.names, sample.phrase_spans, scores_of(sample), strict=True
            )
        ]
        return {**head, "grounding": {"caption": sample.caption, "regions": regions}}
    count_lost(sample, lost, "caption", "scores", "negatives")
    for name in sample.categories or ():
        labels.setdefault(name, len(labels))
    boxes = zip(sample.boxes.tolist(), sample.names, strict=True)
    instances = [{"bbox": box, "label": labels.setdefault(n, len(labels)), "category": n} for box, n in boxes]
    return {**head, "detection": {"instances": instances}}


ODVG = Format(
    "odvg",
    read_odvg,
    lambda candidate: candidate.suffix in (".jsonl", ".odvg"),
    write=write_odvg,
    suffixes=(".jsonl", ".odvg"),
)
