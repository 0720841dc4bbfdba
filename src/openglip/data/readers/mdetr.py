"""MDETR json (GoldG: final_flickr_separateGT_*.json, final_mixed_train*.json; GoldG+): one entry per caption.

    images: {"id", "file_name", "width", "height", "caption", "data_source"?, "original_img_id"?, "sentence_id"?}
    annotations: {"id", "image_id", "bbox": [x, y, width, height], "tokens_positive": [[begin, end], ...], "iscrowd"?}

`tokens_positive` are half-open character ranges of the caption; some boxes have none and are left out (note
`box_without_phrase`). Pictures of the mixed set lie in two folders, told apart by `data_source` ("coco", "vg").
Source: github.com/ashkamath/mdetr, GLIP_SPEC 8.4.6.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from openglip.data.files import Files
from openglip.data.findings import Findings
from openglip.data.readers.annotations import numbers, usable_boxes, usable_spans
from openglip.data.readers.coco import CocoFile, image_files, is_crowd, load_coco, stored_size
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample, Span


def read_mdetr(
    path: StrPath,
    images: StrPath | Mapping[str, StrPath] | None = None,
    *,
    leave_out: Collection[str] = (),
    findings: Findings | None = None,
) -> Iterator[Sample]:
    """One sample per entry that has a boxed phrase.

    images: folder or tar, or one per `data_source`. leave_out: data sources to skip ("coco": what the official recipes
    call no_coco). Raises DataError when the file is no MDETR json or a data source has no folder.
    """
    report = findings if findings is not None else Findings(keep=False)
    file = load_coco(path, report)
    folders = {name: Files(folder) for name, folder in images.items()} if isinstance(images, Mapping) else None
    files = image_files(file, None if isinstance(images, Mapping) else images) if folders is None else None
    for image in file.images:
        own, data_source = image["id"], str(image.get("data_source", ""))
        if data_source in leave_out:
            continue
        if not isinstance(image.get("caption"), str):
            report.add("malformed", path, own, "the entry has no caption")
            continue
        if folders is not None:
            files = folders.get(data_source)
        if files is None:
            raise DataError(
                f"{path}: image {own!r} is from {data_source!r}, but images are given for {list(folders or ())}"
            )
        size = stored_size(image, files, file.path, report)
        if size is None:
            continue
        boxes, spans = _phrases(image, file, size, report)
        if not boxes:
            report.add("caption_without_box", path, own, "no phrase of the caption has a box")
            continue
        yield Sample(
            image=files.reference(str(image["file_name"])),
            size=size,
            boxes=boxes,  # type: ignore[arg-type]
            caption=image["caption"],
            phrase_spans=tuple(spans),
            image_id=own,
            source=str(image.get("dataset_name") or data_source or "mdetr"),
        )
    if findings is None:
        report.log(path)


def _phrases(
    image: dict[str, Any], file: CocoFile, size: tuple[int, int], findings: Findings
) -> tuple[list[Any], list[tuple[Span, ...]]]:
    boxes, spans = [], []
    for annotation in file.annotations.get(image["id"], []):
        own, bbox = annotation.get("id"), numbers(annotation.get("bbox"), 4)
        if is_crowd(annotation):
            findings.add("crowd", file.path, own, "a crowd")
        elif bbox is None:
            findings.add("malformed", file.path, own, f"bbox is not four numbers: {annotation.get('bbox')!r:.60}")
        elif not annotation.get("tokens_positive"):
            findings.add("box_without_phrase", file.path, own, "no tokens_positive")
        else:
            corners = [bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]]
            box, _ = usable_boxes([corners], size, findings, file.path, own)
            ranges = usable_spans(annotation["tokens_positive"], image["caption"], findings, file.path, own)
            if len(box) and ranges:
                boxes.extend(box)
                spans.append(tuple(ranges))
    return boxes, spans
