"""Visual Genome, the JSON files of its makers.

    image_data.json   [{"image_id", "width", "height", "url", "coco_id"}]
    objects.json      [{"image_id", "objects": [{"object_id", "x", "y", "w", "h", "names": [...]}]}]

Images are VG_100K/ID.jpg and VG_100K_2/ID.jpg below the root. Names are free text: the categories are all names, an
object has the first of its names. Nothing is known to be absent. Region descriptions are not read here: they train as
the captions of GoldG's mixed set (`mdetr`).
Source: homes.cs.washington.edu/~ranjay/visualgenome, version 1.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openglip.data.annotations import Boxes, is_id, listed, numbers, records, size_of, xywh_corners
from openglip.data.files import Files, read_json
from openglip.data.findings import Findings, collector
from openglip.data.format import Format
from openglip.files import StrPath
from openglip.structures.sample import Sample


def read_visual_genome(
    root: StrPath, images: StrPath | None = None, findings: Findings | None = None, *, without_coco: bool = False
) -> Iterator[Sample]:
    """Every image with its objects, in the order of objects.json.

    Recorded: duplicate_id (images: the first stays; objects), annotation_without_image, malformed, unmapped_class (an
    object without a name).

    Args:
        root: Folder of the JSON files.
        images: Folder of the images or above VG_100K; None is the root.
        findings: Collects what is left out; None logs it.
        without_coco: Leave out the images that are COCO's too (with a `coco_id`), so that COCO stays unseen.

    Raises:
        DataError: A file can't be read; the message names it.
    """
    report = collector(findings)
    root = Path(root)
    base = Path(images or root)
    folders = [Files(f) for f in (base, base / "VG_100K", base / "VG_100K_2") if f.is_dir()]
    sizes, coco_ids = _image_sizes(root / "image_data.json", report)
    path = root / "objects.json"
    entries = records(read_json(path), ("image_id", "objects"), path, "entry")
    for i, entry in enumerate(entries):
        listed(entry["objects"], path, f"objects of entry {i}")
    if without_coco:
        entries = [entry for entry in entries if not is_id(entry["image_id"]) or entry["image_id"] not in coco_ids]
    names = tuple(sorted({_name(item) for entry in entries for item in entry["objects"]} - {""}))
    index = {name: i for i, name in enumerate(names)}
    object_ids: set[int | str] = set()
    for entry in entries:
        image_id = entry["image_id"]
        if not is_id(image_id) or image_id not in sizes:
            report.add("annotation_without_image", path, image_id, "the image is not in image_data.json")
            continue
        boxes = Boxes(path, image_id, report)
        for item in entry["objects"]:
            box = numbers([item.get(k) for k in "xywh"], 4) if isinstance(item, dict) else None
            object_id = item.get("object_id") if isinstance(item, dict) else None
            if isinstance(object_id, int | str):
                if object_id in object_ids:
                    report.add("duplicate_id", path, object_id, f"two objects have the id {object_id!r}")
                object_ids.add(object_id)
            if box is None:
                boxes.report("malformed", f"an object has no x, y, w, h: {item!r:.60}")
            elif name := _name(item):
                boxes.add(xywh_corners(box), name, id=object_id)
            else:
                report.add("unmapped_class", path, object_id, "the object has no name")
        candidates = (folder.find(f"{image_id}.jpg") for folder in folders)
        image = next(filter(None, candidates), str(root / "VG_100K" / f"{image_id}.jpg"))
        yield boxes.sample(image, sizes[image_id], index, categories=names, source="visual_genome")
    report.done(path)


def _image_sizes(path: Path, findings: Findings) -> tuple[dict[int | str, tuple[int, int]], set[int | str]]:
    """(height, width) of each image id, and the ids of those that are COCO's too."""
    sizes: dict[int | str, tuple[int, int]] = {}
    coco_ids: set[int | str] = set()
    for image in records(read_json(path), ("image_id", "width", "height"), path, "image"):
        image_id, size = image["image_id"], size_of(image["height"], image["width"])
        if size is None or not is_id(image_id):
            findings.add("malformed", path, None, f"no id, height and width: {image!r:.80}")
        elif image_id in sizes:
            findings.add("duplicate_id", path, image_id, f"two images have the id {image_id!r}")
        else:
            sizes[image_id] = size
            if image.get("coco_id") is not None:
                coco_ids.add(image_id)
    return sizes, coco_ids


def _name(item: Any) -> str:
    names = item.get("names") if isinstance(item, dict) else None
    return str(names[0]).strip().lower() if isinstance(names, list) and names else ""


VISUAL_GENOME = Format(
    "visual-genome", read_visual_genome, lambda candidate: {"image_data.json", "objects.json"} <= candidate.names
)
