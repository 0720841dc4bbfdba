"""Whether a result may be called zero-shot: compares the training data with the benchmark's images and boxes.

Zero-shot means here: no image and no box of the benchmark's data set was trained on. Training on its classes
(Objects365 covers COCO's) is allowed by this rule, and noted. Which data set contains which is from their papers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A data set whose name mentions COCO only to say that its images were removed.
_NO_COCO = re.compile(r"(?:without|minus|no|excluding)\s+coco|coco\s+images?\s+(?:removed|left out)", re.IGNORECASE)
_COCO_BOXES = (r"\bcoco", "its boxes are COCO's")
_COCO_IMAGES = (
    (r"goldg\+", "it holds COCO images, some of val2017"),
    (r"visual genome|\bvg\b|\bgqa\b", "its images are partly COCO's, val2017 among them"),
    (r"\blvis", "its images are COCO's"),
    (r"refcoco|refer ?it", "its images are COCO train2014's"),
)
_OVERLAPS: dict[str, tuple[tuple[str, str], ...]] = {
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
_COCO_BENCHMARKS = ("coco", "coco-ov", "lvis", "refcoco")
_COCO_CLASSES = r"objects365|\bo365|fourods|goldg|openimages"


@dataclass(frozen=True)
class TrainingOverlap:
    """What the training data and a benchmark have in common.

    Attributes:
        zero_shot: Whether they have no images or boxes in common; None when the training data is unknown.
        overlaps: Each training data set that overlaps the benchmark, with the reason.
        notes: What else a reader should know.
    """

    zero_shot: bool | None
    overlaps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def training_overlap(
    benchmark: str,
    training_data: Sequence[str | Mapping[str, object]] | None,
    image_ids: Sequence[object] = (),
    annotations_sha256: str | None = None,
) -> TrainingOverlap:
    """Compare a list of training data with a benchmark.

    Args:
        benchmark: Name of the benchmark.
        training_data: Names of data sets, or mappings with "name" and, where known, "image_ids" (of the same data set)
            and "sha256" (of its annotation file); None when unknown.
        image_ids: Ids of the images that are evaluated.
        annotations_sha256: Digest of the annotation file.
    """
    if not training_data:
        return TrainingOverlap(None, notes=("the training data is not known",))
    overlaps, notes = [], []
    evaluated_ids = {str(i) for i in image_ids}
    for entry in training_data:
        record = entry if isinstance(entry, Mapping) else {"name": entry}
        name = str(record.get("name", record))
        head = name.split("(")[0]
        without_coco = benchmark in _COCO_BENCHMARKS and _NO_COCO.search(name)
        for pattern, reason in () if without_coco else _OVERLAPS.get(benchmark, ()):
            if re.search(pattern, head, re.IGNORECASE):
                overlaps.append(f"{name}: {reason}")
                break
        trained_ids = record.get("image_ids")
        if isinstance(trained_ids, Sequence) and (shared := evaluated_ids & {str(i) for i in trained_ids}):
            overlaps.append(f"{name}: {len(shared)} of the images judged were trained on, such as {min(shared)}")
        if annotations_sha256 and record.get("sha256") == annotations_sha256:
            overlaps.append(f"{name}: it is the very annotation file that is judged")
        if benchmark == "coco" and re.search(_COCO_CLASSES, head, re.IGNORECASE):
            notes.append(f"{name}: boxes of COCO's classes, on other images, were trained on")
    return TrainingOverlap(not overlaps, tuple(overlaps), tuple(notes))
