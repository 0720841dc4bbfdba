"""Results of `detect` and `ground` in a folder: one file in the chosen format, and pictures; whole or not there."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from openglip.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from openglip.structures.detections import Detections

Line = dict[str, Any]


class Output:
    """Takes the detections of one image after the other, in constant memory.

    Lines go to a hidden file; when all images are done it becomes the result, and on an error or Ctrl-C it goes away.
    """

    def __init__(self, folder: Path, form: str, *, pictures: bool) -> None:
        name, self._write = FORMATS[form]
        self.folder, self.path, self.pictures = folder, folder / name, pictures
        self._spool = folder / f".{name}.{os.getpid()}.lines"
        self._result = folder / f".{name}.{os.getpid()}"
        self._taken: set[str] = set()

    def __enter__(self) -> Output:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self._spool.open("w", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output {self.folder} can't be written ({error}): name another folder") from error
        return self

    def add(self, found: Detections) -> str | None:
        """Write one image's line and picture; returns why there is no picture, where one was wanted."""
        self._file.write(found.to_json() + "\n")
        if self.pictures and found.error is None and found.source is not None:
            try:
                found.save(self.folder / self._picture_name(Path(found.source).stem))
            except (OSError, ImageError) as error:  # a picture over the format's limit, one that is gone by now
                return f"{found.source}: no picture was written: {error}"
        return None

    def _picture_name(self, stem: str) -> str:
        """STEM.boxes.jpg; of images that share a stem the later ones get a number; a stem near a file system's limit
        is cut."""
        stem = os.fsencode(stem)[:200].decode(errors="ignore") if len(os.fsencode(stem)) > 200 else stem
        name, count = f"{stem}.boxes.jpg", 2
        while name in self._taken:
            name, count = f"{stem}-{count}.boxes.jpg", count + 1
        self._taken.add(name)
        return name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        try:
            if kind is None:
                with self._result.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                    self._write(self._lines, file)
                os.replace(self._result, self.path)
        finally:
            self._spool.unlink(missing_ok=True)
            self._result.unlink(missing_ok=True)

    def _lines(self) -> Iterator[Line]:
        with self._spool.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


Lines = Callable[[], Iterator[Line]]


def _jsonl(lines: Lines, file: IO[str]) -> None:
    for line in lines():
        file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def _coco(lines: Lines, file: IO[str]) -> None:
    """One COCO document with scores; categories are the distinct words of all images, ids count from 1."""
    categories: dict[str, int] = {}
    images, annotations = [], []
    for image_id, line in enumerate(lines(), 1):
        if line["error"]:
            continue  # it has no size, which readers of the format need; the failure was said
        images.append({"id": image_id, "file_name": line["image"], "width": line["width"], "height": line["height"]})
        for name in line["vocabulary"]:
            categories.setdefault(name, len(categories) + 1)
        for found in line["detections"]:
            x1, y1, x2, y2 = found["box"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories[found["name"]],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": found["score"],
                }
            )
    listed = [{"id": number, "name": name} for name, number in categories.items()]
    json.dump({"images": images, "annotations": annotations, "categories": listed}, file, ensure_ascii=False)


def _csv(lines: Lines, file: IO[str]) -> None:
    """A row per box; an image that could not be read has one row with its error."""
    writer = csv.writer(file)
    writer.writerow(("image", "width", "height", "name", "score", "x1", "y1", "x2", "y2", "error"))
    for line in lines():
        start = (line["image"], line["width"], line["height"])
        if line["error"]:
            writer.writerow((*start, *[""] * 6, line["error"]))
        for found in line["detections"]:
            writer.writerow((*start, found["name"], found["score"], *found["box"], ""))


def _label_studio(lines: Lines, file: IO[str]) -> None:
    """Label Studio tasks with predictions (a `RectangleLabels` named "label" on an `Image` named "image")."""
    from openglip import __version__

    tasks = []
    for line in lines():
        if line["error"]:
            continue  # a task whose picture can't be opened is of no use; the failure was said
        results = [_rectangle(found, line, place) for place, found in enumerate(line["detections"])]
        scores = [found["score"] for found in line["detections"]]
        prediction = {"model_version": f"openglip {__version__}", "score": max(scores, default=0.0), "result": results}
        tasks.append({"data": {"image": f"/data/local-files/?d={line['image']}"}, "predictions": [prediction]})
    json.dump(tasks, file, ensure_ascii=False)


def _rectangle(found: Line, line: Line, place: int) -> Line:
    """Sides in percent of the picture, as the format wants them."""
    x1, y1, x2, y2 = found["box"]
    width, height = line["width"], line["height"]
    return {
        "id": f"box{place}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": found["score"],
        "value": {
            "x": 100 * x1 / width,
            "y": 100 * y1 / height,
            "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height,
            "rotation": 0,
            "rectanglelabels": [found["name"]],
        },
    }


FORMATS: dict[str, tuple[str, Callable[[Lines, IO[str]], None]]] = {
    "jsonl": ("detections.jsonl", _jsonl),
    "coco": ("detections.coco.json", _coco),
    "csv": ("detections.csv", _csv),
    "label-studio": ("label-studio.json", _label_studio),
}
