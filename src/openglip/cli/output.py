"""Results of `detect` and `ground` in a folder: one file in the chosen format, and annotated pictures."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from openglip.errors import ConfigError, ImageError
from openglip.files import whole_file

if TYPE_CHECKING:
    from openglip.structures.detections import Detections

Line = dict[str, Any]
LONGEST_STEM = 200  # bytes; file systems allow names of 255


class Output:
    """Takes the detections of one image after the other, in constant memory.

    Lines go to an unnamed file. When all images are done the result is written, whole or not at all.

    Args:
        folder: Folder of the results; it is made if it does not exist.
        format: A key of `FORMATS`.
        pictures: Whether to write annotated pictures.
    """

    def __init__(self, folder: Path, format: str, *, pictures: bool) -> None:
        name, self._write = FORMATS[format]
        self.folder, self.path, self.pictures = folder, folder / name, pictures
        self._picture_names: set[str] = set()

    def __enter__(self) -> Output:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lines_file = tempfile.TemporaryFile("w+", encoding="utf-8", dir=self.folder)
        except OSError as error:
            raise ConfigError(f"--output {self.folder} can't be written ({error}): name another folder") from error
        return self

    def add(self, detections: Detections, image: IO[bytes] | None = None) -> str | None:
        """Write the line and the picture of one image; returns why the picture could not be written, or None.

        Args:
            detections: The detections.
            image: The image, if it can't be read again from its path.
        """
        self._lines_file.write(detections.to_json() + "\n")
        if self.pictures and detections.error is None and detections.source is not None:
            try:
                stem = "stdin" if detections.source == "-" else Path(detections.source).stem
                detections.save(self.folder / self._picture_name(stem), image)
            except (OSError, ImageError) as error:  # larger than the format allows, or deleted meanwhile
                return f"{detections.source}: no picture was written: {error}"
        return None

    def _picture_name(self, stem: str) -> str:
        """STEM.boxes.jpg, with a number for the second and later images of the same stem; long stems are cut."""
        stem = (
            os.fsencode(stem)[:LONGEST_STEM].decode(errors="ignore") if len(os.fsencode(stem)) > LONGEST_STEM else stem
        )
        name, count = f"{stem}.boxes.jpg", 2
        while name in self._picture_names:
            name, count = f"{stem}-{count}.boxes.jpg", count + 1
        self._picture_names.add(name)
        return name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lines_file:
            if kind is None:
                with whole_file(self.path, errors="backslashreplace", newline="") as file:
                    self._write(self._lines(), file)

    def _lines(self) -> Iterator[Line]:
        self._lines_file.seek(0)
        yield from map(json.loads, self._lines_file)


def _jsonl(lines: Iterator[Line], file: IO[str]) -> None:
    for line in lines:
        file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def _coco(lines: Iterator[Line], file: IO[str]) -> None:
    """One COCO document with scores; its categories are the distinct names of all images, ids count from 1."""
    categories: dict[str, int] = {}
    images, annotations = [], []
    for image_id, line in enumerate(lines, 1):
        if line["error"]:
            continue  # it has no size, which readers of the format need; the failure is on stderr
        images.append({"id": image_id, "file_name": line["image"], "width": line["width"], "height": line["height"]})
        for name in line["vocabulary"]:
            categories.setdefault(name, len(categories) + 1)
        for detection in line["detections"]:
            x1, y1, x2, y2 = detection["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[detection["name"]],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": detection["score"],
                }
            )
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    json.dump({"images": images, "annotations": annotations, "categories": listed}, file, ensure_ascii=False)


def _csv(lines: Iterator[Line], file: IO[str]) -> None:
    """One row per box; an image that could not be read has one row with its error."""
    writer = csv.writer(file)
    writer.writerow(("image", "width", "height", "name", "score", "x1", "y1", "x2", "y2", "error"))
    for line in lines:
        start = (line["image"], line["width"], line["height"])
        if line["error"]:
            writer.writerow((*start, *[""] * 6, line["error"]))
        for detection in line["detections"]:
            writer.writerow((*start, detection["name"], detection["score"], *detection["box"], ""))


def _label_studio(lines: Iterator[Line], file: IO[str]) -> None:
    """Label Studio tasks with predictions (a `RectangleLabels` named "label" on an `Image` named "image")."""
    from openglip import __version__
    from openglip.data.formats.label_studio import rectangle_value  # late: imports numpy

    tasks = []
    for line in lines:
        if line["error"]:
            continue  # nobody can label an image that can't be opened; the failure is on stderr
        results = [_rectangle(d, line, i, rectangle_value) for i, d in enumerate(line["detections"])]
        scores = [detection["score"] for detection in line["detections"]]
        prediction = {"model_version": f"openglip {__version__}", "score": max(scores, default=0.0), "result": results}
        tasks.append({"data": {"image": f"/data/local-files/?d={quote(line['image'])}"}, "predictions": [prediction]})
    json.dump(tasks, file, ensure_ascii=False)


def _rectangle(detection: Line, line: Line, index: int, rectangle_value: Callable[..., Line]) -> Line:
    """One box of a task."""
    width, height = line["width"], line["height"]
    return {
        "id": f"box{index}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": detection["score"],
        "value": rectangle_value(detection["box"], height, width, detection["name"]),
    }


FORMATS: dict[str, tuple[str, Callable[[Iterator[Line], IO[str]], None]]] = {
    "jsonl": ("detections.jsonl", _jsonl),
    "coco": ("detections.coco.json", _coco),
    "csv": ("detections.csv", _csv),
    "label-studio": ("label-studio.json", _label_studio),
}
