"""LVIS box figures: fixed AP (10,000 per class over the set, no limit per image) and standard AP (300 per image).

The literature calls both AP, and they differ by points; reports hold both, always labelled. Both follow the federated
rule: a class counts in an image only where it is annotated or listed as absent (`neg_category_ids`); where it is not
labelled exhaustively, a box that matches nothing is ignored. Source: lvis-dataset/lvis-api; Dave et al. 2021 for fixed
AP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from openglip.errors import DataError
from openglip.evaluation.coco import Figures, Scores, category_figures
from openglip.evaluation.matching import Bools, Curves, GroundTruth, Ints, Predictions, precision_recall, rank_in_runs
from openglip.evaluation.read import Annotations, Record, concatenate

PER_CLASS, PER_IMAGE = 10_000, 300
SLACK = 2_000_000  # rows that may be held beyond those that remain


class TopRows:
    """The highest-scoring boxes of each class or image of a stream; of equal scores the first ones stay.

    Args:
        by: What groups the boxes.
        count: Number of boxes per group.
    """

    def __init__(self, by: Literal["category", "image"], count: int) -> None:
        self._by, self._count = by, count
        self._batches: list[Predictions] = []
        self._rows = self._limit = 0

    def add(self, batch: Predictions) -> None:
        """Take the next boxes of the stream."""
        self._batches.append(batch)
        self._rows += len(batch)
        if self._rows > self._limit + SLACK:
            top = self.result()
            self._batches, self._rows, self._limit = [top], len(top), len(top)

    def result(self) -> Predictions:
        """The boxes that remain, in the order of the stream."""
        boxes = concatenate(self._batches)
        group = getattr(boxes, self._by)
        order = np.lexsort((-boxes.scores, group))
        return boxes.take(np.sort(order[rank_in_runs(group[order]) < self._count]))


def score_lvis(
    annotations: Annotations, batches: Iterable[Predictions], *, per_class: int = PER_CLASS, per_image: int = PER_IMAGE
) -> Scores:
    """Fixed and standard AP, and the figures by frequency, IoU and size of both.

    Args:
        annotations: Of an LVIS file.
        batches: The predicted boxes; read once, so that a set of any size fits into memory.
        per_class: Boxes per class over the set, for fixed AP.
        per_image: Boxes per image, for standard AP.

    Raises:
        DataError: An image lacks its list of absent or of not exhaustively labelled classes, or a category its
            frequency; the message names file and id.
    """
    judged, lenient = _federation(annotations)
    groups = _frequencies(annotations)
    fixed, standard = TopRows("category", per_class), TopRows("image", per_image)
    for batch in batches:
        fixed.add(batch)
        standard.add(batch)
    figures: dict[str, float] = {}
    per_category: dict[str, Figures] = {name: {} for name in annotations.names}
    for suffix, top in (("_fixed", fixed), ("", standard)):
        boxes = top.result()
        boxes = boxes.take(judged[boxes.image, boxes.category])
        lenient_rows = lenient[boxes.image, boxes.category]
        curves = precision_recall(
            annotations.truth, boxes, len(annotations.names), cap=None, tops=(None,), lenient=lenient_rows
        )
        figures |= {name + suffix: value for name, value in _figures(curves, groups).items()}
        for name, values in category_figures(curves, annotations.names).items():
            per_category[name] |= {key + suffix: value for key, value in values.items()}
    protocol = {
        "metric": "box AP over IoU 0.50:0.95, federated, lvis-api's rules",
        "AP_fixed": f"{per_class} detections of a class over the set, no cap in an image",
        "AP": f"{per_image} detections in an image",
    }
    return Scores(figures, per_category, protocol)


def standard_boxes(annotations: Annotations, batches: Iterable[Predictions]) -> tuple[GroundTruth, Predictions]:
    """True and predicted boxes as standard AP takes them: 300 per image, without classes that do not count there."""
    top = TopRows("image", PER_IMAGE)
    for batch in batches:
        top.add(batch)
    boxes = top.result()
    return annotations.truth, boxes.take(_federation(annotations)[0][boxes.image, boxes.category])


def in_minival(image: Record) -> bool:
    """Whether an image is in COCO val2017 by its url: 4,809 of the 19,809 images of LVIS v1 val are."""
    return "/val2017/" in "/" + str(image.get("coco_url", ""))


def _federation(annotations: Annotations) -> tuple[Bools, Bools]:
    """images x classes: where a class counts, and where a box of it that matches nothing is ignored."""
    shape = len(annotations.images), len(annotations.names)
    judged, lenient = np.zeros(shape, bool), np.zeros(shape, bool)
    judged[annotations.truth.image, annotations.truth.category] = True
    for i, image in enumerate(annotations.images):
        for key, table in (("neg_category_ids", judged), ("not_exhaustive_category_ids", lenient)):
            ids = image.get(key)
            if not isinstance(ids, Sequence):
                raise DataError(f"{annotations.source}: image {image['id']} has no list {key!r}: is this an LVIS file?")
            for category_id in ids:
                if category_id not in annotations.category_index:
                    raise DataError(
                        f"{annotations.source}: image {image['id']}: no such category in {key}: {category_id!r}"
                    )
                table[i, annotations.category_index[category_id]] = True
    return judged, lenient


def _frequencies(annotations: Annotations) -> dict[str, Ints]:
    """Indices of the rare, common and frequent categories."""
    groups: dict[str, list[int]] = {"r": [], "c": [], "f": []}
    for k, category in enumerate(annotations.categories):
        if category.get("frequency") not in groups:
            raise DataError(f"{annotations.source}: category {category['id']} has no frequency r, c or f")
        groups[str(category["frequency"])].append(k)
    return {name: np.array(members, np.int64) for name, members in groups.items()}


def _figures(curves: Curves, groups: Mapping[str, Ints]) -> Figures:
    return {
        "AP": curves.ap(),
        **{f"AP{name}": curves.ap(categories=members) for name, members in groups.items()},
        **{"AP50": curves.ap(0.5), "AP75": curves.ap(0.75)},
        **{f"AP{name}": curves.ap(area=a) for name, a in (("s", 1), ("m", 2), ("l", 3))},
        **{f"AR{name}": curves.ar(area=a) for name, a in (("", 0), ("s", 1), ("m", 2), ("l", 3))},
    }
