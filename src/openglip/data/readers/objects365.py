"""Objects365, as the json of its makers and as the TSV of the official code.

Json: COCO's layout; `file_name` is "images/v1/patch0/objects365_v1_00000000.jpg", of which the last two parts are
looked for in the image folder.
TSV: a yaml as in `readers.tsv`; a label row is key and a list of objects, or {"objects": [...]}:

    [{"class": "Person", "rect": [x1, y1, x2, y2], "conf"?: 1.0}, ...]

rect is taken as xyxy. Every category of the labelmap is labelled exhaustively.
Source: objects365.org, GLIP_SPEC 8.4.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from openglip.data.files import image_size
from openglip.data.findings import Findings
from openglip.data.readers.annotations import is_id, numbers, usable_boxes
from openglip.data.readers.coco import read_coco
from openglip.data.readers.tsv import TsvSet, read_tsv_set
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample


def read_objects365(
    path: StrPath, images: StrPath | None = None, *, findings: Findings | None = None
) -> Iterator[Sample]:
    """The json of Objects365 v1 or v2. Arguments and errors as `read_coco`."""
    return read_coco(path, images, source="objects365", findings=findings)


def read_objects365_tsv(path: StrPath, *, source: str = "objects365", findings: Findings | None = None) -> DetectionTsv:
    """A detection TSV set by its yaml. Raises DataError when a file is missing."""
    return DetectionTsv(read_tsv_set(path), source, findings)


class DetectionTsv(Sequence[Sample]):
    """Samples of a detection TSV, made one by one when asked for: a set of millions takes no memory.

    sizes: N x 2 heights and widths where the set has an hw file, else None (then each picture's header is read).
    """

    def __init__(self, files: TsvSet, source: str, findings: Findings | None = None) -> None:
        self.files, self.source = files, source
        self.findings = findings if findings is not None else Findings(keep=False)
        self.names = files.names
        self._index = {name: i for i, name in enumerate(self.names)}
        rows = files.rows  # first: a linelist that does not fit is named before the rows are compared
        if len(files.images) != len(files.labels):
            raise DataError(f"{files.path}: {len(files.images)} image rows, but {len(files.labels)} label rows")
        self.sizes = None if files.sizes is None else files.sizes[rows]

    def __len__(self) -> int:
        return len(self.files.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = int(self.files.rows[index])
        image = self.files.images.line(row)
        size = image_size(image) if self.sizes is None else tuple(self.sizes[index].tolist())
        boxes, labels = self._objects(row, size)
        return Sample(
            image=image,
            size=size,
            boxes=boxes,
            categories=self.names,
            labels=labels,
            exhaustive=True,
            image_id=self.files.labels.key(row),
            source=self.source,
        )

    def _objects(self, row: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        file = self.files.labels
        objects = file.parsed(row)
        objects = objects.get("objects") if isinstance(objects, dict) else objects
        if not isinstance(objects, list):
            raise DataError(f"{file.path}, line {row}: no list of objects")
        rects, labels = [], []
        for item in objects:
            rect = numbers(item.get("rect"), 4) if isinstance(item, dict) else None
            if rect is None:
                self.findings.add("malformed", file.path, row, f"no rect of four numbers: {item!r:.60}")
            elif not is_id(item.get("class")) or item["class"] not in self._index:
                self.findings.add("unmapped_class", file.path, row, f"there is no category {item.get('class')!r}")
            else:
                rects.append(rect)
                labels.append(self._index[item["class"]])
        boxes, kept = usable_boxes(rects, size, self.findings, file.path, row)
        return boxes, np.array(labels, np.int64)[kept]
