"""Visual Genome, the json files of its makers.

    image_data.json   [{"image_id", "width", "height", "url", "coco_id"}]
    objects.json      [{"image_id", "objects": [{"object_id", "x", "y", "w", "h", "names": [...]}]}]

Pictures are VG_100K/ID.jpg and VG_100K_2/ID.jpg below the root. Names are free text: the categories are all names, an
object has the first of its own. Nothing is known to be absent. Region descriptions are not read here: they train as the
captions of GoldG's mixed set (`readers.mdetr`).
Source: homes.cs.washington.edu/~ranjay/visualgenome, version 1.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openglip.data.files import Files, read_json
from openglip.data.findings import Findings
from openglip.data.readers.annotations import is_id, listed, numbers, record, size_of, usable_boxes
from openglip.files import StrPath
from openglip.structures.sample import Sample


def read_visual_genome(
    root: StrPath,
    images: StrPath | None = None,
    *,
    min_count: int = 1,
    without_coco: bool = False,
    findings: Findings | None = None,
) -> Iterator[Sample]:
    """Every picture with its objects, in the order of objects.json.

    images: folder of the pictures or above VG_100K; None: the root. min_count: rarer names are left out with their
    boxes (recorded as unmapped_class). without_coco: leave out the pictures that are COCO's too (with a `coco_id`), so
    that COCO stays unseen. Recorded: duplicate_id (pictures: the first stays; objects). Raises DataError with the file.
    """
    report = findings if findings is not None else Findings(keep=False)
    root = Path(root)
    files = [
        Files(f)
        for f in (Path(images or root), *(Path(images or root) / n for n in ("VG_100K", "VG_100K_2")))
        if f.is_dir()
    ]
    sizes: dict[int, tuple[int, int]] = {}
    of_coco: set[int] = set()
    for i, item in enumerate(listed(read_json(root / "image_data.json"), root / "image_data.json", "the file")):
        image = record(item, ("image_id", "width", "height"), root / "image_data.json", f"image {i}")
        size = size_of(image["height"], image["width"])
        if size is None or not is_id(image["image_id"]):
            report.add("malformed", root / "image_data.json", None, f"no id, height and width: {item!r:.80}")
        elif (own := image["image_id"]) in sizes:
            report.add("duplicate_id", root / "image_data.json", own, f"two images have the id {own!r}")
        else:
            sizes[image["image_id"]] = size
            if without_coco and image.get("coco_id") is not None:
                of_coco.add(image["image_id"])
    path = root / "objects.json"
    entries = [
        record(item, ("image_id", "objects"), path, f"entry {i}")
        for i, item in enumerate(listed(read_json(path), path, "the file"))
    ]
    for i, entry in enumerate(entries):
        listed(entry["objects"], path, f"objects of entry {i}")
    entries = [entry for entry in entries if not is_id(entry["image_id"]) or entry["image_id"] not in of_coco]
    counts = Counter(_name(item) for entry in entries for item in entry["objects"])
    names = tuple(sorted(name for name, n in counts.items() if name and n >= min_count))
    index = {name: i for i, name in enumerate(names)}
    seen: set[int | str] = set()
    for entry in entries:
        own = entry["image_id"]
        if not is_id(own) or own not in sizes:
            report.add("annotation_without_image", path, own, "the picture is not in image_data.json")
            continue
        boxes, labels = [], []
        for item in entry["objects"]:
            box = numbers([item.get(k) for k in "xywh"], 4) if isinstance(item, dict) else None
            name = _name(item)
            number = item.get("object_id") if isinstance(item, dict) else None
            if isinstance(number, int | str):
                if number in seen:
                    report.add("duplicate_id", path, number, f"two objects have the id {number!r}")
                seen.add(number)
            if box is None:
                report.add("malformed", path, own, f"an object has no x, y, w, h: {item!r:.60}")
            elif name not in index:
                report.add("unmapped_class", path, number, f"the name {name!r} is rare or empty")
            else:
                corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
                found, _ = usable_boxes([corners], sizes[own], report, path, number)
                boxes.extend(found)
                labels.extend([index[name]] * len(found))
        place = next((f for folder in files if (f := folder.find(f"{own}.jpg"))), str(root / "VG_100K" / f"{own}.jpg"))
        yield Sample(place, sizes[own], boxes, categories=names, labels=labels, image_id=own, source="visual_genome")  # type: ignore[arg-type]
    if findings is None:
        report.log(path)


def _name(item: Any) -> str:
    names = item.get("names") if isinstance(item, dict) else None
    return str(names[0]).strip().lower() if isinstance(names, list) and names else ""
