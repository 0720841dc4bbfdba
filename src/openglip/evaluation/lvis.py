"""LVIS box figures: fixed AP (no cap per image, 10,000 per class over the set) and standard AP (300 per image).

The two share a name in the literature and differ by points; both are given, always labelled. Federated rule of both: a
class counts in an image only where it is annotated or listed as absent (`neg_category_ids`); where it is not labelled
exhaustively, what matches nothing is ignored. Source: lvis-dataset/lvis-api; Dave et al. 2021 for fixed AP.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from openglip.errors import DataError
from openglip.evaluation.coco import Figures, Scores, category_figures
from openglip.evaluation.matching import Bools, Curves, Found, Ints, Truth, curves, rank_in_runs
from openglip.evaluation.read import Annotations, Record, concatenate

PER_CLASS, PER_IMAGE = 10_000, 300
SLACK = 2_000_000  # rows beyond what is kept before the surplus is dropped


class Best:
    """The n highest-scoring rows of each group of a stream; of equal scores the first ones stay."""

    def __init__(self, by: Literal["category", "image"], n: int) -> None:
        self._by, self._n = by, n
        self._parts: list[Found] = []
        self._rows = self._limit = 0

    def add(self, part: Found) -> None:
        self._parts.append(part)
        self._rows += len(part)
        if self._rows > self._limit + SLACK:
            kept = self.result()
            self._parts, self._rows, self._limit = [kept], len(kept), len(kept)

    def result(self) -> Found:
        """What is kept, in the order of the stream."""
        found = concatenate(self._parts)
        group = getattr(found, self._by)
        order = np.lexsort((-found.scores, group))
        return found.take(np.sort(order[rank_in_runs(group[order]) < self._n]))


def lvis(
    annotations: Annotations, parts: Iterable[Found], *, per_class: int = PER_CLASS, per_image: int = PER_IMAGE
) -> Scores:
    """Fixed and standard AP, APr/c/f of both; `parts` is read once, so that a set of any size fits.

    Raises DataError naming file and id when an image lacks its lists of absent and of not exhaustively labelled
    classes, or a category its frequency.
    """
    judged, lenient = _federation(annotations)
    groups = _frequencies(annotations)
    truth = annotations.truth
    fixed, standard = Best("category", per_class), Best("image", per_image)
    for part in parts:
        fixed.add(part)
        standard.add(part)
    figures: dict[str, float] = {}
    per_category: dict[str, Figures] = {name: {} for name in annotations.names}
    for suffix, best in (("_fixed", fixed), ("", standard)):
        found = best.result()
        found = found.take(judged[found.image, found.category])
        lenient_rows = lenient[found.image, found.category]
        result = curves(truth, found, len(annotations.names), cap=None, tops=(None,), lenient=lenient_rows)
        figures |= {name + suffix: value for name, value in _figures(result, groups).items()}
        for name, values in category_figures(result, annotations.names).items():
            per_category[name] |= {key + suffix: value for key, value in values.items()}
    protocol = {
        "metric": "box AP over IoU 0.50:0.95, federated, lvis-api's rules",
        "AP_fixed": f"{per_class} detections of a class over the set, no cap in an image",
        "AP": f"{per_image} detections in an image",
    }
    return Scores(figures, per_category, protocol)


def standard_rows(annotations: Annotations, parts: Iterable[Found]) -> tuple[Truth, Found]:
    """True and found boxes as standard AP judges them: 300 in an image, those of classes not judged there left out."""
    best = Best("image", PER_IMAGE)
    for part in parts:
        best.add(part)
    found = best.result()
    return annotations.truth, found.take(_federation(annotations)[0][found.image, found.category])


def in_minival(image: Record) -> bool:
    """Whether an image lies in COCO val2017 by its url: 4,809 of the 19,809 images of LVIS v1 val."""
    return "/val2017/" in "/" + str(image.get("coco_url", ""))


def _federation(annotations: Annotations) -> tuple[Bools, Bools]:
    """images x classes: where a class is judged, and where an unmatched box of it is ignored."""
    shape = len(annotations.images), len(annotations.names)
    judged, lenient = np.zeros(shape, bool), np.zeros(shape, bool)
    judged[annotations.truth.image, annotations.truth.category] = True
    for i, image in enumerate(annotations.images):
        for key, table in (("neg_category_ids", judged), ("not_exhaustive_category_ids", lenient)):
            ids = image.get(key)
            if not isinstance(ids, Sequence):
                raise DataError(f"{annotations.place}: image {image['id']} has no list {key!r}: is this an LVIS file?")
            for k in ids:
                if k not in annotations.category_index:
                    raise DataError(f"{annotations.place}: image {image['id']}: no such category in {key}: {k!r}")
                table[i, annotations.category_index[k]] = True
    return judged, lenient


def _frequencies(annotations: Annotations) -> dict[str, Ints]:
    groups: dict[str, list[int]] = {"r": [], "c": [], "f": []}
    for k, category in enumerate(annotations.categories):
        if category.get("frequency") not in groups:
            raise DataError(f"{annotations.place}: category {category['id']} has no frequency r, c or f")
        groups[str(category["frequency"])].append(k)
    return {name: np.array(members, np.int64) for name, members in groups.items()}


def _figures(result: Curves, groups: Mapping[str, Ints]) -> Figures:
    return {
        "AP": result.ap(),
        **{f"AP{name}": result.ap(categories=members) for name, members in groups.items()},
        **{"AP50": result.ap(0.5), "AP75": result.ap(0.75)},
        **{f"AP{name}": result.ap(area=a) for name, a in (("s", 1), ("m", 2), ("l", 3))},
        **{f"AR{name}": result.ar(area=a) for name, a in (("", 0), ("s", 1), ("m", 2), ("l", 3))},
    }
