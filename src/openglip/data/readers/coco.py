"""COCO instances json.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
     "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, width, height], "iscrowd"?}]}

Boxes are in pixels, x2 = x + width. Category ids may have gaps; a sample's categories are the names by rising id. Crowd
boxes are left out (note `crowd`). Also understood: `info.source_categories`, a list of category ids per `source` of the
images, for files merged from sources that each label only their own classes.
Source: cocodataset.org, "Data format".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openglip.data.files import Files, image_size, read_json
from openglip.data.findings import Findings
from openglip.data.readers.annotations import is_id, listed, numbers, record, size_of, usable_boxes
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample

Id = int | str


@dataclass(frozen=True)
class CocoFile:
    """A parsed file: its pictures, the annotations of each in the file's order, the name of each category id."""

    path: Path
    info: dict[str, Any]
    images: list[dict[str, Any]]
    annotations: dict[Id, list[dict[str, Any]]]
    names: dict[Id, str]


def read_coco(
    path: StrPath,
    images: StrPath | None = None,
    *,
    exhaustive: bool | Collection[str] = True,
    source: str | None = None,
    findings: Findings | None = None,
) -> Iterator[Sample]:
    """Every picture of a file with its boxes, pictures without boxes included, in the file's order.

    images: folder or uncompressed tar of the pictures; None: looked for beside the file.
    exhaustive: every object of the categories has a box; or the names of the sources (`source` of the pictures) of
    which that is true. source: name given to the samples; None: the picture's own, or the file's.
    findings: collects what is left out; None: logged. Raises DataError when the file is no COCO json.
    """
    report = findings if findings is not None else Findings(keep=False)
    file = load_coco(path, report)
    files = image_files(file, images)
    categories = _Categories(file)
    for image in file.images:
        size = stored_size(image, files, file.path, report)
        if size is None:
            continue
        found, ids = boxes_of(image, file, size, report)
        names, index = categories.of(image.get("source"), ids)
        origin = image.get("source")
        yield Sample(
            image=files.reference(str(image["file_name"])),
            size=size,
            boxes=found,
            categories=names,
            labels=[index[i] for i in ids],  # type: ignore[arg-type]
            exhaustive=exhaustive if isinstance(exhaustive, bool) else str(origin) in exhaustive,
            image_id=image["id"],
            source=source or str(origin or file.path.stem),
        )
    if findings is None:
        report.log(path)


def load_coco(path: StrPath, findings: Findings) -> CocoFile:
    """Parse a file and sort its annotations by picture; what can't be placed is recorded.

    Recorded: duplicate_id (pictures: the first stays; annotations, categories), annotation_without_image, malformed.
    """
    top = record(read_json(path), ("images", "annotations"), path, "the file")
    images: dict[Id, dict[str, Any]] = {}
    for i, item in enumerate(listed(top["images"], path, "images")):
        if (
            not isinstance(item, dict)
            or not is_id(item.get("id"))
            or not is_id(item.get("file_name", item.get("coco_url")))
        ):
            findings.add("malformed", path, None, f"image {i} has no id or file_name: {item!r:.80}")
        elif item["id"] in images:
            findings.add("duplicate_id", path, item["id"], f"two images have the id {item['id']!r}")
        else:
            images[item["id"]] = item if "file_name" in item else {**item, "file_name": name_of(item["coco_url"])}
    names: dict[Id, str] = {}
    for i, item in enumerate(listed(top.get("categories", []), path, "categories")):
        if not isinstance(item, dict) or not is_id(item.get("id")) or not is_id(item.get("name")):
            findings.add("malformed", path, None, f"category {i} has no id or name: {item!r:.80}")
        elif item["id"] in names:
            findings.add("duplicate_id", path, item["id"], f"two categories have the id {item['id']!r}")
        else:
            names[item["id"]] = str(item["name"])
    annotations: dict[Id, list[dict[str, Any]]] = defaultdict(list)
    seen: set[Id] = set()
    for i, item in enumerate(listed(top["annotations"], path, "annotations")):
        if not isinstance(item, dict) or not is_id(item.get("image_id")) or not is_id(item.get("id", 0)):
            findings.add("malformed", path, None, f"annotation {i} has no image_id, or a strange id: {item!r:.80}")
            continue
        own = item.get("id")
        if own is not None and own in seen:
            findings.add("duplicate_id", path, own, f"two annotations have the id {own!r}")
        seen.add(own)  # type: ignore[arg-type]
        if item["image_id"] not in images:
            findings.add("annotation_without_image", path, own, f"there is no image {item['image_id']!r}")
        else:
            annotations[item["image_id"]].append(item)
    info = top.get("info") if isinstance(top.get("info"), dict) else {}
    return CocoFile(Path(path), info, list(images.values()), annotations, dict(sorted(names.items(), key=_by_id)))  # type: ignore[arg-type]


def boxes_of(image: dict[str, Any], file: CocoFile, size: tuple[int, int], findings: Findings) -> tuple[Any, list[Id]]:
    """The usable boxes of a picture as xyxy, and the category id of each."""
    rows, ids = [], []
    for annotation in file.annotations.get(image["id"], []):
        own = annotation.get("id")
        bbox = numbers(annotation.get("bbox"), 4)
        if is_crowd(annotation):
            findings.add("crowd", file.path, own, "a crowd")
        elif bbox is None:
            findings.add("malformed", file.path, own, f"bbox is not four numbers: {annotation.get('bbox')!r:.60}")
        elif not is_id(annotation.get("category_id")) or annotation["category_id"] not in file.names:
            findings.add("unmapped_class", file.path, own, f"there is no category {annotation.get('category_id')!r}")
        else:
            # one at a time, so that a finding names the annotation and not only its picture
            box, _ = usable_boxes(
                [[bbox[0], bbox[1], bbox[0] + bbox[2], bbox[1] + bbox[3]]], size, findings, file.path, own
            )
            rows.extend(box)
            ids.extend([annotation["category_id"]] * len(box))
    return rows, ids


def name_of(address: object) -> str:
    """The file that a coco_url speaks of: "train2017/000000391895.jpg"."""
    return "/".join(str(address).split("/")[-2:])


def is_crowd(annotation: dict[str, Any]) -> bool:
    """Whether it is marked so: 1, true, or "1" as some tools write it."""
    return annotation.get("iscrowd") not in (None, 0, "", "0", "false", "False")


def image_files(file: CocoFile, images: StrPath | None) -> Files:
    """The pictures of a file: in the folder or tar given, else in the usual place that holds most of its first ones."""
    folder, stem = file.path.parent, file.path.stem.removeprefix("instances_")
    if images is not None and Path(images).is_file():
        return Files(images)
    bases = (folder, folder.parent) if images is None else (Path(images),)
    names = ("images", stem, f"images/{stem}", ".") if images is None else (".", stem)
    places = [base / name for base in bases for name in names]
    places += [base / f"{name}.tar" for base in bases for name in ("images", stem)]
    usable = [Files(p) for p in places if p.is_dir() or (p.suffix == ".tar" and p.is_file())]
    first = [str(image.get("file_name", "")) for image in file.images[:50]]
    # max keeps the first of equal ones; a missing picture must not hide the place of the others
    return max(usable, key=lambda f: sum(f.find(name) is not None for name in first), default=Files(images or folder))


def stored_size(image: dict[str, Any], files: Files, path: Path, findings: Findings) -> tuple[int, int] | None:
    """(height, width) as the file says, or from the picture's header where it does not say.

    None, and recorded as malformed or missing_image, when neither gives one.
    """
    height, width = image.get("height"), image.get("width")
    size = size_of(height, width)
    if size is not None:
        return size
    if height is not None or width is not None:
        findings.add("malformed", path, image["id"], f"height and width are {height!r} and {width!r}")
        return None
    try:
        return image_size(files.reference(str(image["file_name"])))
    except DataError as error:
        findings.add("missing_image", path, image["id"], str(error))
        return None


class _Categories:
    """Names of a source in the order of their ids, and the index of each id in them."""

    def __init__(self, file: CocoFile) -> None:
        self.names = file.names
        per_source = file.info.get("source_categories")
        self.per_source: dict[str, list[Id]] = per_source if isinstance(per_source, dict) else {}
        for name, ids in self.per_source.items():
            if not all(map(is_id, listed(ids, file.path, f"info.source_categories of {name!r}"))):
                raise DataError(f"{file.path}: info.source_categories of {name!r} holds {ids!r:.60}")
        self.made: dict[frozenset[Id], tuple[tuple[str, ...], dict[Id, int]]] = {}

    def of(self, source: object, used: list[Id]) -> tuple[tuple[str, ...], dict[Id, int]]:
        listed = self.per_source.get(str(source))
        key = frozenset(self.names if listed is None else [*listed, *used])
        if key not in self.made:
            ids = [i for i in self.names if i in key]
            self.made[key] = tuple(self.names[i] for i in ids), {c: n for n, c in enumerate(ids)}
        return self.made[key]


def _by_id(item: tuple[Id, str]) -> tuple[bool, Id]:
    return isinstance(item[0], str), item[0]
