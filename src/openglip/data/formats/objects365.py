"""Objects365, as the JSON of its makers and as the TSV of the official code.

JSON: COCO's layout; `file_name` is "images/v1/patch0/objects365_v1_00000000.jpg", of which the last two parts are
searched in the image folder.
TSV: a YAML as in `data/tsv.py`; a label row is key and a list of objects, or {"objects": [...]}:

    [{"class": "Person", "rect": [x1, y1, x2, y2], "conf"?: 1.0}, ...]

rect is taken as xyxy. Every category of the labelmap is labelled exhaustively.
Source: objects365.org; docs/spec.md 8.4.8.
"""

from __future__ import annotations

from collections.abc import Iterator

from openglip.data.annotations import Boxes, is_id, numbers
from openglip.data.files import image_size
from openglip.data.findings import Findings
from openglip.data.format import Format
from openglip.data.formats.coco import read_coco
from openglip.data.tsv import TsvSamples, is_tsv_set
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample


def read_objects365(path: StrPath, images: StrPath | None = None, findings: Findings | None = None) -> Iterator[Sample]:
    """The JSON of Objects365 v1 or v2. Arguments and errors as `read_coco`."""
    return read_coco(path, images, findings, source="objects365")


class DetectionTsv(TsvSamples):
    """Samples of a detection TSV by its YAML, each made when it is read: a set of millions takes no memory.

    Args:
        path: The YAML file.
        findings: Collects what is left out; None logs it.
        source: Name given to the samples.

    Raises:
        DataError: A file is missing.
    """

    def __init__(self, path: StrPath, findings: Findings | None = None, *, source: str = "objects365") -> None:
        super().__init__(path, findings, source, row_by_row=True)
        self.names = self.files.names
        self._index = {name: i for i, name in enumerate(self.names)}

    def sample(self, index: int, row: int) -> Sample:
        """The sample at `index`, whose label is on line `row`. Raises DataError when it can't be read."""
        image, file = self.files.images.line(row), self.files.labels
        size = image_size(image) if self.sizes is None else tuple(self.sizes[index].tolist())
        objects = file.parsed(row)
        objects = objects.get("objects") if isinstance(objects, dict) else objects
        if not isinstance(objects, list):
            raise DataError(f"{file.path}, line {row}: no list of objects")
        boxes = Boxes(file.path, row, self.findings)
        for item in objects:
            rect = numbers(item.get("rect"), 4) if isinstance(item, dict) else None
            if rect is None:
                boxes.report("malformed", f"no rect of four numbers: {item!r:.60}")
            elif not is_id(item.get("class")) or item["class"] not in self._index:
                boxes.report("unmapped_class", f"there is no category {item.get('class')!r}")
            else:
                boxes.add(rect, self._index[item["class"]])
        names, image_id = self.names, file.key(row)
        return boxes.sample(image, size, categories=names, exhaustive=True, image_id=image_id, source=self.source)


OBJECTS365 = Format("objects365", read_objects365)
OBJECTS365_TSV = Format(
    "objects365-tsv", lambda path, _, findings: DetectionTsv(path, findings), is_tsv_set, repeated=True
)
