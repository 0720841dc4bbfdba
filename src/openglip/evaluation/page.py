"""One self-contained HTML page for a result: curves, a threshold slider, and images of the worst errors."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources import files
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from openglip.errors import ConfigError, DataError, ImageError
from openglip.evaluation.benchmarks import BenchmarkSet
from openglip.evaluation.custom import IOU, Outcomes, match_all
from openglip.evaluation.inference import find_images
from openglip.evaluation.matching import IOU_THRESHOLDS, RECALL_POINTS, Floats, Ints, pair_iou, precision_recall
from openglip.evaluation.read import Annotations, JsonSource, Record
from openglip.evaluation.report import EvaluationReport
from openglip.files import StrPath, whole_file
from openglip.images.read import read_image

TILES, SIDE = 24, 320  # images per kind of error, and their long side in pixels
SIZES = (0, 16, 32, 64, 96, 128, 256, 512, 1e5)  # bins of the square root of an object's area, in pixels
THRESHOLDS = np.linspace(0, 1, 101)
CONFUSED_BOXES = 20_000  # false positives that are searched for confusions
Tile = dict[str, object]


def write_page(
    path: Path, report: EvaluationReport, benchmark_set: BenchmarkSet, predictions: JsonSource, images: StrPath | None
) -> None:
    """Write the page of one set.

    Args:
        path: The HTML file to write.
        report: The report of the evaluation.
        benchmark_set: A set with categories.
        predictions: Its predictions.
        images: Folder or tar of the images; without it, boxes are drawn on empty frames.
    """
    annotations = benchmark_set.annotations
    assert annotations is not None
    assert benchmark_set.scored_boxes is not None
    truth, boxes = benchmark_set.scored_boxes(predictions)
    outcomes = match_all(truth, boxes)
    errors = _Errors(annotations, outcomes)
    tiles = {"false_positives": errors.false_positives(), "misses": errors.misses(), "confusions": errors.confusions()}
    shown = {tile["image"] for group in tiles.values() for tile in group}
    records = [image for image in annotations.images if str(image["id"]) in shown]
    precision = precision_recall(truth, boxes, len(annotations.names)).precision[..., 0]
    data = {
        "benchmark": report.benchmark,
        "figures": report.figures,
        "protocol": {k: v for k, v in report.protocol.items() if not isinstance(v, (list, dict))},
        "per_category": report.per_category,
        "iou": IOU,
        "image_count": len(annotations.images),
        "curves": _curves(precision),
        "recall_by_size": _recall_by_size(outcomes),
        "counts": _counts(outcomes),
        "confused_pairs": errors.confused_pairs(),
        "tiles": tiles,
        "images": {str(record["id"]): _image(benchmark_set, record, images) for record in records},
    }
    page = (files("openglip.evaluation") / "page.html").read_text("utf-8")
    text = json.dumps(data, ensure_ascii=False, default=float).replace("</", "<\\/")
    with whole_file(path) as file:
        file.write(page.replace("/*DATA*/", text))


class _Errors:
    """The errors of a result as tiles: an image, a title, and boxes to draw on it."""

    def __init__(self, annotations: Annotations, outcomes: Outcomes) -> None:
        self._images, self._names = annotations.images, annotations.names
        self._outcomes, self._boxes, self._truth = outcomes, outcomes.predictions, outcomes.truth
        self._by_image = np.argsort(self._truth.image, kind="stable")
        self._begins = np.searchsorted(self._truth.image[self._by_image], np.arange(len(annotations.images) + 1))
        wrong = np.flatnonzero(outcomes.counted & ~outcomes.correct)
        self._wrong = wrong[np.argsort(-self._boxes.scores[wrong], kind="stable")].tolist()

    def false_positives(self) -> list[Tile]:
        """The highest-scoring boxes that match nothing."""
        return self._wrong_tiles(self._wrong)

    def confusions(self) -> list[Tile]:
        """The highest-scoring boxes that cover an object of another class."""
        return self._wrong_tiles(row for row in self._wrong if self._confused_with(row) is not None)

    def misses(self) -> list[Tile]:
        """The largest objects that nothing matches, each with the nearest box of its class."""
        missed = np.flatnonzero(~_is_detected(self._outcomes) & ~self._truth.ignore)
        tiles = []
        for row in missed[np.argsort(-self._truth.area[missed], kind="stable")][:TILES]:
            image, category = self._truth.image[row], self._truth.category[row]
            same_class = np.flatnonzero((self._boxes.image == image) & (self._boxes.category == category))
            overlaps = _overlaps(self._boxes.boxes[same_class], self._truth.boxes[row])
            shapes = [_shape(self._truth.boxes[row], "missed", self._names[category])]
            reason = "no box of this class"
            if len(same_class) and overlaps.max() > 0:
                nearest = same_class[int(overlaps.argmax())]
                score = self._boxes.scores[nearest]
                reason = f"nearest box: IoU {overlaps.max():.2f}, score {score:.2f}"
                shapes.append(_shape(self._boxes.boxes[nearest], "nearest", f"{score:.2f}"))
            tiles.append(self._tile(int(image), f"{self._names[category]} missed", reason, 1.0, shapes))
        return tiles

    def confused_pairs(self) -> list[tuple[str, str, int]]:
        """The 20 most frequent confusions: predicted class, labelled class, how often."""
        counts: Counter[tuple[str, str]] = Counter()
        for row in self._wrong[:CONFUSED_BOXES]:
            other = self._confused_with(row)
            if other is not None:
                counts[self._names[self._boxes.category[row]], self._names[self._truth.category[other]]] += 1
        return [(predicted, labelled, count) for (predicted, labelled), count in counts.most_common(20)]

    def _objects_of(self, image: int) -> Ints:
        return self._by_image[self._begins[image] : self._begins[image + 1]]

    def _confused_with(self, row: int) -> int | None:
        """The object of another class that a wrong box covers."""
        objects = self._objects_of(int(self._boxes.image[row]))
        objects = objects[self._truth.category[objects] != self._boxes.category[row]]
        overlaps = _overlaps(self._truth.boxes[objects], self._boxes.boxes[row])
        return int(objects[overlaps.argmax()]) if len(objects) and overlaps.max() >= IOU else None

    def _wrong_tiles(self, rows: Iterable[int]) -> list[Tile]:
        return [self._wrong_tile(row) for row in islice(rows, TILES)]

    def _wrong_tile(self, row: int) -> Tile:
        image, category, score = int(self._boxes.image[row]), self._boxes.category[row], float(self._boxes.scores[row])
        objects = self._objects_of(image)
        overlaps = _overlaps(self._truth.boxes[objects], self._boxes.boxes[row])
        same_class = self._truth.category[objects] == category
        best, other = float(overlaps[same_class].max(initial=0)), self._confused_with(row)
        if best >= IOU:
            reason = f"duplicate: a better box has the object (IoU {best:.2f})"
        elif other is not None:
            reason = f"labelled as {self._names[self._truth.category[other]]}"
        elif best >= 0.1:
            reason = f"inaccurate box: IoU {best:.2f}"
        else:
            reason = "no object of this class is labelled here"
        shapes = [
            _shape(self._truth.boxes[k], "labelled", self._names[self._truth.category[k]])
            for k in objects[overlaps > 0.05][:12]
        ]
        shapes.append(_shape(self._boxes.boxes[row], "wrong", self._names[category]))
        return self._tile(image, f"{self._names[category]} {score:.2f}", reason, score, shapes)

    def _tile(self, image: int, title: str, reason: str, score: float, shapes: list[dict[str, object]]) -> Tile:
        image_id = str(self._images[image]["id"])
        return {"image": image_id, "title": title, "reason": reason, "score": score, "boxes": shapes}


def _overlaps(boxes: Floats, box: Floats) -> Floats:
    return pair_iou(boxes, np.broadcast_to(box, boxes.shape), np.zeros(len(boxes), bool))


def _shape(box: Floats, kind: str, label: str) -> dict[str, object]:
    """A box as the page draws it; `kind` selects its colour."""
    return {"box": [round(float(v), 1) for v in box], "kind": kind, "label": label}


def _is_detected(outcomes: Outcomes) -> np.ndarray:
    """Which true boxes a predicted one matches."""
    detected = np.zeros(len(outcomes.truth), bool)
    detected[outcomes.matches[outcomes.correct]] = True
    return detected


def _curves(precision: Floats) -> list[dict[str, object]]:
    """Precision over recall, averaged over the classes with objects: at IoU 0.5, at 0.75, and over all thresholds."""
    defined = precision[:, :, (precision > -1).all((0, 1))]
    if not defined.size:
        return []
    picked = [("IoU 0.50", [0]), ("IoU 0.75", [5]), ("mean over 0.50:0.95", list(range(len(IOU_THRESHOLDS))))]
    x = RECALL_POINTS.tolist()
    return [{"name": n, "x": x, "y": defined[rows].mean((0, 2)).round(4).tolist()} for n, rows in picked]


def _recall_by_size(outcomes: Outcomes) -> list[dict[str, object]]:
    detected, side = _is_detected(outcomes), np.sqrt(outcomes.truth.area)
    rows = []
    for low, high in pairwise(SIZES):
        inside = (side >= low) & (side < high) & ~outcomes.truth.ignore
        if inside.any():
            name = f"{low:g}-{high:g}" if high < 1e5 else f"{low:g} and more"
            rows.append({"name": name, "objects": int(inside.sum()), "recall": float(detected[inside].mean())})
    return rows


def _counts(outcomes: Outcomes) -> dict[str, list[int] | int]:
    """Numbers of correct and wrong boxes above each threshold from 0 to 1."""
    scores, correct = outcomes.predictions.scores[outcomes.counted], outcomes.correct[outcomes.counted]
    above = scores[:, None] > THRESHOLDS
    return {
        "correct": above[correct].sum(0).tolist(),
        "wrong": above[~correct].sum(0).tolist(),
        "objects": int((~outcomes.truth.ignore).sum()),
    }


def _image(benchmark_set: BenchmarkSet, record: Record, folder: StrPath | None) -> dict[str, object]:
    """Size of an image, and its content as a data link where it can be read."""
    image_id, size = record["id"], (record.get("width"), record.get("height"))
    names = {image_id: benchmark_set.files[image_id]}
    link = None
    with suppress(ConfigError, DataError, ImageError):
        (found_image,) = find_images(benchmark_set.folder or folder, names, {}, benchmark_set.references)
        image = Image.fromarray(read_image(found_image.open()))
        size = size if all(size) else image.size
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        link = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"width": size[0] or 640, "height": size[1] or 480, "link": link}
