"""One self-contained HTML page of a result: curves, a threshold slider, and pictures of the worst errors."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from importlib.resources import files
from itertools import pairwise
from os import PathLike
from pathlib import Path

import numpy as np

from openglip.data.files import Files
from openglip.errors import DataError, ImageError
from openglip.evaluation.custom import IOU, Outcomes, outcomes
from openglip.evaluation.matching import IOU_THRESHOLDS, RECALL_POINTS, Floats, Ints, curves, pair_iou
from openglip.evaluation.read import Annotations, Source
from openglip.evaluation.report import Report
from openglip.evaluation.tasks import Task
from openglip.files import whole_file
from openglip.images.read import read_image
from openglip.structures.sample import FileSlice

TILES, SIDE = 24, 320  # pictures of a kind, and their longest side
SIZES = (0, 16, 32, 64, 96, 128, 256, 512, 1e5)  # bins of the square root of an object's area, in pixels
CUTS = np.linspace(0, 1, 101)
Tile = dict[str, object]


def write_page(path: Path, report: Report, task: Task, source: Source, images: str | PathLike[str] | None) -> None:
    """Write the page of one task. images: where its pictures lie; None: frames without pictures."""
    assert task.annotations is not None
    assert task.boxes is not None
    truth, found = task.boxes(source)
    result = outcomes(truth, found)
    errors = _Errors(task.annotations, result)
    tiles = {"false_positives": errors.false_positives(), "misses": errors.misses(), "confusions": errors.confusions()}
    shown = {tile["image"]: None for group in tiles.values() for tile in group}
    precision = curves(truth, found, len(task.annotations.names)).precision[..., 0]
    data = {
        "benchmark": report.benchmark,
        "figures": report.figures,
        "protocol": {k: v for k, v in report.protocol.items() if not isinstance(v, (list, dict))},
        "per_category": report.per_category,
        "iou": IOU,
        "images": len(task.annotations.images),
        "curves": _curves(precision),
        "recall_by_size": _recall_by_size(result),
        "counts": _counts(result),
        "confusion_pairs": errors.pairs(),
        "tiles": tiles,
        "pictures": {i: _picture(task, i, images) for i in shown},
    }
    page = (files("openglip.evaluation") / "page.html").read_text("utf-8")
    text = json.dumps(data, ensure_ascii=False, default=float).replace("</", "<\\/")
    with whole_file(path) as file:
        file.write(page.replace("/*DATA*/", text))


class _Errors:
    """What went wrong, as tiles: a picture, a title, and boxes to draw on it."""

    def __init__(self, annotations: Annotations, result: Outcomes) -> None:
        self._annotations, self._result = annotations, result
        truth = result.truth
        self._by_image = np.argsort(truth.image, kind="stable")
        self._begins = np.searchsorted(truth.image[self._by_image], np.arange(len(annotations.images) + 1))
        wrong = np.flatnonzero(result.counted & ~result.right)
        self._wrong = wrong[np.argsort(-result.found.scores[wrong], kind="stable")]

    def false_positives(self) -> list[Tile]:
        """The highest-scoring boxes that match nothing."""
        return [self._wrong_tile(int(row)) for row in self._wrong[:TILES]]

    def confusions(self) -> list[Tile]:
        """The highest-scoring boxes that lie on an object of another class."""
        confused = (int(row) for row in self._wrong if self._other(int(row)) is not None)
        return [self._wrong_tile(row) for row, _ in zip(confused, range(TILES), strict=False)]

    def misses(self) -> list[Tile]:
        """The largest objects that nothing matches, with the nearest box of their class."""
        result = self._result
        hit = np.zeros(len(result.truth.image), bool)
        hit[result.partner[result.right]] = True
        missed = np.flatnonzero(~hit & ~result.truth.ignore)
        tiles = []
        for row in missed[np.argsort(-result.truth.area[missed], kind="stable")][:TILES]:
            image, category = result.truth.image[row], result.truth.category[row]
            near = np.flatnonzero((result.found.image == image) & (result.found.category == category))
            overlaps = self._overlaps(result.found.boxes[near], result.truth.boxes[row])
            boxes = [self._box(result.truth.boxes[row], "miss", self._annotations.names[category])]
            best = "no box of this class"
            if len(near) and overlaps.max() > 0:
                at = near[int(overlaps.argmax())]
                best = f"best box: IoU {overlaps.max():.2f}, score {result.found.scores[at]:.2f}"
                boxes.append(self._box(result.found.boxes[at], "found", f"{result.found.scores[at]:.2f}"))
            tiles.append(self._tile(int(image), f"{self._annotations.names[category]} missed", best, 1.0, boxes))
        return tiles

    def pairs(self) -> list[tuple[str, str, int]]:
        """How often a box of one class lies on an object of another: (found as, is, times), the 20 most frequent."""
        names, counts = self._annotations.names, Counter()
        for row in self._wrong[:20_000]:
            other = self._other(int(row))
            if other is not None:
                counts[names[self._result.found.category[row]], names[self._result.truth.category[other]]] += 1
        return [(a, b, n) for (a, b), n in counts.most_common(20)]

    def _around(self, image: int) -> Ints:
        return self._by_image[self._begins[image] : self._begins[image + 1]]

    @staticmethod
    def _overlaps(boxes: Floats, one: Floats) -> Floats:
        return pair_iou(boxes, np.broadcast_to(one, boxes.shape), np.zeros(len(boxes), bool))

    def _other(self, row: int) -> int | None:
        """The object of another class that a wrong box lies on."""
        found, truth = self._result.found, self._result.truth
        around = self._around(int(found.image[row]))
        around = around[truth.category[around] != found.category[row]]
        overlaps = self._overlaps(truth.boxes[around], found.boxes[row])
        return int(around[overlaps.argmax()]) if len(around) and overlaps.max() >= IOU else None

    def _wrong_tile(self, row: int) -> Tile:
        found, truth, names = self._result.found, self._result.truth, self._annotations.names
        around = self._around(int(found.image[row]))
        overlaps = self._overlaps(truth.boxes[around], found.boxes[row])
        same = truth.category[around] == found.category[row]
        best, other = float(overlaps[same].max(initial=0)), self._other(row)
        if best >= IOU:
            why = f"double: the object (IoU {best:.2f}) is taken by a better box"
        elif other is not None:
            why = f"labelled as {names[truth.category[other]]}"
        else:
            why = f"badly placed: IoU {best:.2f}" if best >= 0.1 else "nothing of this class is labelled here"
        boxes = [self._box(truth.boxes[k], "true", names[truth.category[k]]) for k in around[overlaps > 0.05][:12]]
        score = float(found.scores[row])
        boxes.append(self._box(found.boxes[row], "wrong", names[found.category[row]]))
        return self._tile(int(found.image[row]), f"{names[found.category[row]]} {score:.2f}", why, score, boxes)

    @staticmethod
    def _box(box: Floats, kind: str, label: str) -> dict[str, object]:
        return {"box": [round(float(v), 1) for v in box], "kind": kind, "label": label}

    def _tile(self, image: int, title: str, why: str, score: float, boxes: list[dict[str, object]]) -> Tile:
        image_id = str(self._annotations.images[image]["id"])
        return {"image": image_id, "title": title, "why": why, "score": score, "boxes": boxes}


def _curves(precision: Floats) -> list[dict[str, object]]:
    """Precision over recall, mean over the classes with objects: at IoU 0.5, at 0.75, and over all thresholds."""
    defined = precision[:, :, (precision > -1).all((0, 1))]
    if not defined.size:
        return []
    picked = [("IoU 0.50", [0]), ("IoU 0.75", [5]), ("mean over 0.50:0.95", list(range(len(IOU_THRESHOLDS))))]
    x = RECALL_POINTS.tolist()
    return [{"name": n, "x": x, "y": defined[rows].mean((0, 2)).round(4).tolist()} for n, rows in picked]


def _recall_by_size(result: Outcomes) -> list[dict[str, object]]:
    hit = np.zeros(len(result.truth.image), bool)
    hit[result.partner[result.right]] = True
    side = np.sqrt(result.truth.area)
    rows = []
    for low, high in pairwise(SIZES):
        inside = (side >= low) & (side < high) & ~result.truth.ignore
        if inside.any():
            name = f"{low:g}-{high:g}" if high < 1e5 else f"{low:g} and more"
            rows.append({"name": name, "objects": int(inside.sum()), "recall": float(hit[inside].mean())})
    return rows


def _counts(result: Outcomes) -> dict[str, list[int] | int]:
    """True and false positives that a threshold from 0 to 1 leaves."""
    scores, right = result.found.scores[result.counted], result.right[result.counted]
    above = scores[:, None] > CUTS
    return {
        "right": above[right].sum(0).tolist(),
        "wrong": above[~right].sum(0).tolist(),
        "objects": int((~result.truth.ignore).sum()),
    }


def _picture(task: Task, image_id: object, images: str | PathLike[str] | None) -> dict[str, object]:
    """Size of a picture, and its content as a data link where it can be read."""
    from PIL import Image

    key = next(i for i in task.files if str(i) == image_id)
    record = next(i for i in task.annotations.images if i["id"] == key) if task.annotations else {}
    width, height = record.get("width"), record.get("height")
    link = None
    folder = task.folder or images
    place = task.pictures.get(key) or (Files(folder).find(task.files[key]) if folder is not None else None)
    if place is not None:
        try:
            picture = Image.fromarray(read_image(place.read() if isinstance(place, FileSlice) else place))
        except (ImageError, DataError):
            picture = None
        if picture is not None:
            width, height = width or picture.width, height or picture.height
            picture.thumbnail((SIDE, SIDE))
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=80)
            link = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"width": width or 640, "height": height or 480, "link": link}
