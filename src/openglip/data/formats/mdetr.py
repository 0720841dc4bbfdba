"""MDETR JSON (GoldG: final_flickr_separateGT_*.json, final_mixed_train*.json; GoldG+): one entry per caption.

    images: {"id", "file_name", "width", "height", "caption", "data_source"?, "original_img_id"?, "sentence_id"?}
    annotations: {"id", "image_id", "bbox": [x, y, width, height], "tokens_positive": [[begin, end], ...], "iscrowd"?}

`tokens_positive` are half-open character ranges of the caption; some boxes have none and are left out (note
`box_without_phrase`). Images of the mixed set lie in two folders, told apart by `data_source` ("coco", "vg").
Source: github.com/ashkamath/mdetr; docs/spec.md 8.4.6.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from openglip.data.annotations import Boxes, usable_spans
from openglip.data.files import Files
from openglip.data.findings import Findings, collector
from openglip.data.format import Format
from openglip.data.formats.coco import annotated_boxes, first_image, image_files, load_coco, stored_size
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample


def read_mdetr(
    path: StrPath,
    images: StrPath | Mapping[str, StrPath] | None = None,
    findings: Findings | None = None,
    *,
    leave_out: Collection[str] = (),
) -> Iterator[Sample]:
    """One sample per entry that has a boxed phrase.

    Args:
        path: The JSON file.
        images: Folder or tar of the images, or one per `data_source`; None searches next to the file.
        findings: Collects what is left out; None logs it.
        leave_out: Data sources to skip ("coco": what the official recipes call no_coco).

    Raises:
        DataError: The file is no MDETR JSON, or a data source has no folder.
    """
    report = collector(findings)
    file = load_coco(path, report)
    folders = {name: Files(folder) for name, folder in images.items()} if isinstance(images, Mapping) else {}
    shared = None if isinstance(images, Mapping) else image_files(file, images)
    for image in file.images:
        image_id, data_source = image["id"], str(image.get("data_source", ""))
        if data_source in leave_out:
            continue
        if not isinstance(image.get("caption"), str):
            report.add("malformed", path, image_id, "the entry has no caption")
            continue
        files = folders.get(data_source, shared)
        if files is None:
            raise DataError(
                f"{path}: image {image_id!r} is from {data_source!r}, but images are given for {list(folders)}"
            )
        size = stored_size(image, files, file.path, report)
        if size is None:
            continue
        boxes = Boxes(path, image_id, report)
        for corners, annotation in annotated_boxes(image, file, report):
            if not annotation.get("tokens_positive"):
                report.add("box_without_phrase", path, annotation.get("id"), "no tokens_positive")
                continue
            spans = usable_spans(annotation["tokens_positive"], image["caption"], report, path, annotation.get("id"))
            if spans:
                boxes.add(corners, spans=spans, id=annotation.get("id"))
        source = str(image.get("dataset_name") or data_source or "mdetr")
        image_file = files.reference(str(image["file_name"]))
        sample = boxes.sample(image_file, size, caption=image["caption"], source=source)
        if len(sample):
            yield sample
        else:
            boxes.report("caption_without_box", "no phrase of the caption has a box")
    report.done(path)


MDETR = Format("mdetr", read_mdetr, lambda candidate: "caption" in (first_image(candidate) or {}), repeated=True)
