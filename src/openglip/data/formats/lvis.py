"""LVIS v1 JSON: COCO's layout, and names that are known to be absent.

    images: {"id", "coco_url", "width", "height", "neg_category_ids", "not_exhaustive_category_ids"}
    categories: {"id", "name", "frequency", "synonyms", ...}

Names are like "bow_(weapon)" and are cleaned when a prompt is made. There is no file name: folder and file are the last
two parts of `coco_url` ("train2017/000000391895.jpg"), so `images` is the folder that holds COCO's train2017, val2017.
The set is federated: a category without a box is absent only where `neg_category_ids` says so.
Source: lvisdataset.org.
"""

from __future__ import annotations

from collections.abc import Iterator

from openglip.data.annotations import is_id, listed
from openglip.data.findings import Findings, collector
from openglip.data.format import Format
from openglip.data.formats.coco import first_image, image_files, labelled_boxes, load_coco, name_of, stored_size
from openglip.files import StrPath
from openglip.structures.sample import Sample


def read_lvis(path: StrPath, images: StrPath | None = None, findings: Findings | None = None) -> Iterator[Sample]:
    """Every image with its boxes and the names known to be absent. Arguments and errors as `read_coco`."""
    report = collector(findings)
    file = load_coco(path, report)
    for image in file.images:
        if "coco_url" in image:
            image["file_name"] = name_of(image["coco_url"])
    files = image_files(file, images)
    categories = tuple(file.names.values())
    index = {category: n for n, category in enumerate(file.names)}
    for image in file.images:
        size = stored_size(image, files, file.path, report)
        if size is None:
            continue
        boxes = labelled_boxes(image, file, report)
        absent = listed(image.get("neg_category_ids", []), path, f"neg_category_ids of image {image['id']!r}")
        unknown = [i for i in absent if not is_id(i) or i not in file.names]
        if unknown:
            report.add("unmapped_class", path, image["id"], f"neg_category_ids has unknown categories: {unknown[:5]}")
        present = {row.label for row in boxes.rows}
        negatives = tuple(file.names[i] for i in absent if i not in unknown and i not in present)
        image_file = files.reference(image["file_name"])
        yield boxes.sample(image_file, size, index, categories=categories, negatives=negatives, source="lvis")
    report.done(path)


LVIS = Format("lvis", read_lvis, lambda candidate: "neg_category_ids" in (first_image(candidate) or {}))
