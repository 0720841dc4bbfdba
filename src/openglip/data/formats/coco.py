"""COCO instances JSON.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
     "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, width, height], "iscrowd"?}]}

Boxes are in pixels, x2 = x + width. Category ids may have gaps; a sample's categories are the names by rising id. Crowd
boxes are left out (note `crowd`). Also understood: `info.source_categories`, a list of category ids per `source` of the
images, for files merged from sources that each label only some classes.
Source: cocodataset.org, "Data format".
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from openglip.data.annotations import Boxes, header_size, is_id, listed, numbers, record, size_of, xywh_corners
from openglip.data.files import Files, read_json
from openglip.data.findings import Findings, collector
from openglip.data.format import Candidate, Format, Losses
from openglip.data.writing import ImagePaths, count_lost, free_id
from openglip.errors import DataError
from openglip.files import StrPath, whole_file
from openglip.structures.boxes import xyxy_to_xywh
from openglip.structures.sample import Sample

Id = int | str
_PLURALS = {"image": "images", "category": "categories"}


@dataclass(frozen=True)
class CocoFile:
    """A parsed file.

    Attributes:
        path: The file.
        info: Its "info" object, empty if there is none.
        images: Its image records.
        rows: Its annotations that belong to one of the images, in the file's order.
        names: The name of each category id, by rising id.
    """

    path: Path
    info: dict[str, Any]
    images: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    names: dict[Id, str]

    @cached_property
    def annotations(self) -> dict[Id, list[dict[str, Any]]]:
        """The annotations of each image that has any."""
        by_image: dict[Id, list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows:
            by_image[row["image_id"]].append(row)
        return dict(by_image)


def read_coco(
    path: StrPath,
    images: StrPath | None = None,
    findings: Findings | None = None,
    *,
    exhaustive: bool | Collection[str] = True,
    source: str | None = None,
) -> Iterator[Sample]:
    """Every image of a file with its boxes, images without boxes included, in the file's order.

    Args:
        path: The JSON file.
        images: Folder or uncompressed tar of the images; None searches next to the file.
        findings: Collects what is left out; None logs it.
        exhaustive: Every object of the categories has a box; or the names of the sources (`source` of the images) of
            which that is true.
        source: Name given to the samples; None takes the image's `source`, or the file's name.

    Raises:
        DataError: The file is no COCO JSON.
    """
    report = collector(findings)
    file = load_coco(path, report)
    files = image_files(file, images)
    categories = _Categories(file)
    for image in file.images:
        size = stored_size(image, files, file.path, report)
        if size is None:
            continue
        boxes, image_source = labelled_boxes(image, file, report), image.get("source")
        names, index = categories.of(image_source, [row.label for row in boxes.rows])
        yield boxes.sample(
            files.reference(str(image["file_name"])),
            size,
            index,
            categories=names,
            exhaustive=exhaustive if isinstance(exhaustive, bool) else str(image_source) in exhaustive,
            source=source or str(image_source or file.path.stem),
        )
    report.done(path)


def load_coco(path: StrPath, findings: Findings) -> CocoFile:
    """Parse a file in COCO's layout: instances, LVIS, MDETR or captions.

    Recorded: duplicate_id (images: the first stays; annotations, categories), annotation_without_image, malformed.

    Raises:
        DataError: It is no JSON, or has no lists of images and annotations.
    """
    return coco_file(read_json(path), path, findings)


def coco_file(content: object, path: StrPath, findings: Findings) -> CocoFile:
    """`load_coco` for a file whose JSON is parsed already."""
    top = record(content, ("images", "annotations"), path, "the file")
    images = _by_id(listed(top["images"], path, "images"), "image", ("file_name", "coco_url"), path, findings)
    categories = _by_id(listed(top.get("categories", []), path, "categories"), "category", ("name",), path, findings)
    names = {key: str(item["name"]) for key, item in categories.items()}
    for image in images.values():
        if "file_name" not in image:
            image["file_name"] = name_of(image["coco_url"])
    rows = _rows_of(listed(top["annotations"], path, "annotations"), images, path, findings)
    info = top.get("info")
    ordered = dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))
    return CocoFile(Path(path), info if isinstance(info, dict) else {}, list(images.values()), rows, ordered)


def _by_id(
    items: list[Any], kind: str, name_keys: Sequence[str], path: StrPath, findings: Findings
) -> dict[Id, dict[str, Any]]:
    """Images or categories by their ids; of two with one id the first stays. name_keys: one of these has its name."""
    by_id: dict[Id, dict[str, Any]] = {}
    for i, item in enumerate(items):
        name = next((item[key] for key in name_keys if key in item), None) if isinstance(item, dict) else None
        if not is_id(name) or not is_id(item.get("id")):
            findings.add("malformed", path, None, f"{kind} {i} has no id or {name_keys[0]}: {item!r:.80}")
        elif item["id"] in by_id:
            findings.add("duplicate_id", path, item["id"], f"two {_PLURALS[kind]} have the id {item['id']!r}")
        else:
            by_id[item["id"]] = item
    return by_id


def _rows_of(items: list[Any], images: Collection[Id], path: StrPath, findings: Findings) -> list[dict[str, Any]]:
    """The annotations that belong to an image."""
    rows: list[dict[str, Any]] = []
    ids: set[Id | None] = set()
    for i, item in enumerate(items):
        if not isinstance(item, dict) or not is_id(item.get("image_id")) or not is_id(item.get("id", 0)):
            findings.add("malformed", path, None, f"annotation {i} has no image_id, or a strange id: {item!r:.80}")
            continue
        annotation_id = item.get("id")
        if annotation_id is not None and annotation_id in ids:
            findings.add("duplicate_id", path, annotation_id, f"two annotations have the id {annotation_id!r}")
        ids.add(annotation_id)
        if item["image_id"] not in images:
            findings.add("annotation_without_image", path, annotation_id, f"there is no image {item['image_id']!r}")
        else:
            rows.append(item)
    return rows


def annotated_boxes(
    image: dict[str, Any], file: CocoFile, findings: Findings
) -> Iterator[tuple[list[float], dict[str, Any]]]:
    """The corners of each box of an image, and its annotation; crowds are left out (note `crowd`)."""
    for annotation in file.annotations.get(image["id"], []):
        bbox = numbers(annotation.get("bbox"), 4)
        # 1, true, or "1" as some tools write it
        if annotation.get("iscrowd") not in (None, 0, "", "0", "false", "False"):
            findings.add("crowd", file.path, annotation.get("id"), "a crowd")
        elif bbox is None:
            text = f"bbox is not four numbers: {annotation.get('bbox')!r:.60}"
            findings.add("malformed", file.path, annotation.get("id"), text)
        else:
            yield xywh_corners(bbox), annotation


def labelled_boxes(image: dict[str, Any], file: CocoFile, findings: Findings) -> Boxes:
    """The boxes of an image that have a category, labelled with its id."""
    boxes = Boxes(file.path, image["id"], findings)
    for corners, annotation in annotated_boxes(image, file, findings):
        category = annotation.get("category_id")
        if is_id(category) and category in file.names:
            boxes.add(corners, category, id=annotation.get("id"))
        else:
            findings.add("unmapped_class", file.path, annotation.get("id"), f"there is no category {category!r}")
    return boxes


def name_of(address: object) -> str:
    """The file name in a coco_url: "train2017/000000391895.jpg"."""
    return "/".join(str(address).split("/")[-2:])


def image_files(file: CocoFile, images: StrPath | None) -> Files:
    """The images of a file: in the folder or tar given, else where most of its first ones are found."""
    names = [str(image.get("file_name", "")) for image in file.images[:50]]
    return search_images(file.path, names, images, file.path.stem.removeprefix("instances_"))


def search_images(path: Path, names: Sequence[str], images: StrPath | None, stem: str) -> Files:
    """The folder or tar that holds most of some images.

    Args:
        path: The annotation file, next to which the images are searched.
        names: Names of the images.
        images: The folder or tar given, or the folder above it; None searches the usual places.
        stem: What a folder of the file's images may be called.
    """
    if images is not None and Path(images).is_file():
        return Files(images)
    folder = path.parent
    bases = (folder, folder.parent) if images is None else (Path(images),)
    subfolders = ("images", stem, f"images/{stem}", ".") if images is None else (".", stem)
    candidates = [base / name for base in bases for name in subfolders]
    candidates += [base / f"{name}.tar" for base in bases for name in ("images", stem)]
    usable = [Files(p) for p in candidates if p.is_dir() or (p.suffix == ".tar" and p.is_file())]
    # max returns the first of equal ones; a missing image must not hide the folder of the others
    return max(usable, key=lambda f: sum(f.find(n) is not None for n in names), default=Files(images or folder))


def stored_size(image: dict[str, Any], files: Files, path: Path, findings: Findings) -> tuple[int, int] | None:
    """(height, width) from the file, or from the image's header where the file has none.

    None, and recorded as malformed or missing_image, when neither gives one.
    """
    height, width = image.get("height"), image.get("width")
    size = size_of(height, width)
    if size is not None:
        return size
    if height is not None or width is not None:
        findings.add("malformed", path, image["id"], f"height and width are {height!r} and {width!r}")
        return None
    return header_size(files.reference(str(image["file_name"])), findings, path, image["id"])


class _Categories:
    """Names of a source in the order of their ids, and the index of each id in them."""

    def __init__(self, file: CocoFile) -> None:
        self.names = file.names
        per_source = file.info.get("source_categories")
        self.per_source: dict[str, list[Id]] = per_source if isinstance(per_source, dict) else {}
        for name, ids in self.per_source.items():
            if not all(map(is_id, listed(ids, file.path, f"info.source_categories of {name!r}"))):
                raise DataError(f"{file.path}: info.source_categories of {name!r} holds {ids!r:.60}")
        self._made: dict[frozenset[Id], tuple[tuple[str, ...], dict[Id, int]]] = {}

    def of(self, source: object, used: list[Id]) -> tuple[tuple[str, ...], dict[Id, int]]:
        labelled = self.per_source.get(str(source))
        key = frozenset(self.names if labelled is None else [*labelled, *used])
        if key not in self._made:
            ids = [i for i in self.names if i in key]
            self._made[key] = tuple(self.names[i] for i in ids), {c: n for n, c in enumerate(ids)}
        return self._made[key]


def write_coco(samples: Iterable[Sample], path: StrPath) -> Losses:
    """Write COCO instances JSON. Phrases become categories; captions, scores and negatives are lost."""
    lost, images, annotations, image_path = Losses(), [], [], ImagePaths(path)
    ids: dict[str, int] = {}
    used: set[int] = set()
    for number, sample in enumerate(samples, start=1):
        count_lost(sample, lost, "caption", "phrase_spans", "scores", "negatives")
        for name in (*(sample.categories or ()), *sample.names):
            ids.setdefault(name, len(ids) + 1)
        image_id = free_id(sample, number, used, lost)
        height, width = sample.size
        images.append({"id": image_id, "file_name": image_path(sample), "width": width, "height": height})
        for name, (x, y, w, h) in zip(sample.names, xyxy_to_xywh(sample.boxes.astype(float)).tolist(), strict=True):
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, "category_id": ids[name], **box})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    with whole_file(path) as file:
        json.dump({"images": images, "categories": categories, "annotations": annotations}, file)
    return +lost


def first_image(candidate: Candidate) -> dict[str, Any] | None:
    """The first image record of a file in COCO's layout, empty where it has none; None for another layout."""
    content = candidate.json
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    images = content["images"]
    return images[0] if isinstance(images, list) and images and isinstance(images[0], dict) else {}


def _is_coco(candidate: Candidate) -> bool:
    """Files that aren't JSON count too: the reader says what is wrong with them."""
    if candidate.suffix == ".json" and candidate.json is None:
        return True
    if first_image(candidate) is None:
        return False
    annotations = candidate.json["annotations"]  # type: ignore[index]
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    return not (isinstance(first, dict) and "caption" in first and "bbox" not in first)  # COCO's captions: no boxes


COCO = Format("coco", read_coco, _is_coco, write=write_coco, suffixes=(".json",))
