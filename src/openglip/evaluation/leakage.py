"""Whether a result may be called zero-shot: the training list of the weights against the benchmark's images and boxes.

Zero-shot means here: no image and no box of the benchmark's data set was trained on. That its classes were (Objects365
covers COCO's) is no leak by this rule, and is written out. Source of what holds what: the data sets' own papers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A list that names COCO only to say that its images were taken out.
_NO_COCO = re.compile(r"(?:without|minus|no|excluding)\s+coco|coco\s+images?\s+(?:removed|left out)", re.IGNORECASE)
_COCO_BOXES = (r"\bcoco", "its boxes are COCO's")
_COCO_IMAGES = (
    (r"goldg\+", "it holds COCO images, some of val2017"),
    (r"visual genome|\bvg\b|\bgqa\b", "its images are partly COCO's, val2017 among them"),
    (r"\blvis", "its images are COCO's"),
    (r"refcoco|refer ?it", "its images are COCO train2014's"),
)
_MEETS: dict[str, tuple[tuple[str, str], ...]] = {
    "coco": (_COCO_BOXES, *_COCO_IMAGES),
    "coco-ov": (
        _COCO_BOXES,
        *_COCO_IMAGES,
        (r"objects365|\bo365|fourods|openimages|open images", "it has boxes of novel classes"),
    ),
    "lvis": ((r"\bcoco", "LVIS's images are COCO's: 15,000 of val are in train2017"), *_COCO_IMAGES),
    "flickr30k": (
        (r"flickr ?(?:30|8)k", "its images are Flickr30k's"),
        (r"goldg", "it holds the training part of Flickr30k Entities"),
    ),
    "odinw": (
        (r"odinw", "it is the benchmark"),
        (r"pascal|\bvoc\b", "it holds the source of PascalVOC"),
        (r"open ?images|fourods", "it holds the source of VehiclesOpenImages and ShellfishOpenImages"),
    ),
    "refcoco": ((r"\bcoco", "RefCOCO's images are COCO train2014's"), *_COCO_IMAGES),
}
_COCO_SETS = ("coco", "coco-ov", "lvis", "refcoco")
_CLASSES: dict[str, tuple[str, str]] = {
    "coco": (
        r"objects365|\bo365|fourods|goldg|openimages",
        "boxes of COCO's classes, on other images, were trained on",
    ),
}


@dataclass(frozen=True)
class Setting:
    """zero_shot: None when the training data is not known. meets: what meets, and why. notes: what else to say."""

    zero_shot: bool | None
    meets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def setting(
    benchmark: str,
    training: Sequence[str | Mapping[str, object]] | None,
    image_ids: Sequence[object] = (),
    annotations_sha256: str | None = None,
) -> Setting:
    """Judge a run. training: the weights' list: names of data sets, or records with "name" and what more is known
    ("image_ids" of the same data set, "sha256" of its annotation file); None: not known."""
    if not training:
        return Setting(None, notes=("the training data is not known",))
    meets, notes = [], []
    own = {str(i) for i in image_ids}
    for entry in training:
        record = entry if isinstance(entry, Mapping) else {"name": entry}
        name = str(record.get("name", record))
        head = name.split("(")[0]
        rules = () if benchmark in _COCO_SETS and _NO_COCO.search(name) else _MEETS.get(benchmark, ())
        for pattern, why in rules:
            if re.search(pattern, head, re.IGNORECASE):
                meets.append(f"{name}: {why}")
                break
        listed = record.get("image_ids")
        if isinstance(listed, Sequence) and (shared := own & {str(i) for i in listed}):
            meets.append(f"{name}: {len(shared)} of the images judged were trained on, such as {min(shared)}")
        if annotations_sha256 and record.get("sha256") == annotations_sha256:
            meets.append(f"{name}: it is the very annotation file that is judged")
        pattern, what = _CLASSES.get(benchmark, (r"(?!)", ""))
        if re.search(pattern, head, re.IGNORECASE):
            notes.append(f"{name}: {what}")
    return Setting(not meets, tuple(meets), tuple(notes))
