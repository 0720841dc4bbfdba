"""COCO's box figures, closed set or zero-shot, and the open-vocabulary split of 48 base and 17 novel classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from openglip.errors import DataError
from openglip.evaluation.matching import Curves, Found, Ints, Truth, curves
from openglip.evaluation.read import Annotations
from openglip.prompts.tables import coco_ov_split
from openglip.prompts.text import clean_name

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
CAP = 100  # detections of a class that count in an image
Figures = dict[str, float]


@dataclass(frozen=True)
class Scores:
    """What a benchmark's file says of one set of predictions: fractions (-1: undefined) and the rules applied."""

    figures: Figures
    per_category: dict[str, Figures] = field(default_factory=dict)
    protocol: Mapping[str, object] = field(default_factory=dict)


def coco_figures(result: Curves) -> Figures:
    """The twelve figures in COCO's order."""
    values = [result.ap(), result.ap(0.5), result.ap(0.75), *(result.ap(area=a) for a in (1, 2, 3))]
    values += [result.ar(top) for top in range(3)] + [result.ar(area=a) for a in (1, 2, 3)]
    return dict(zip(FIGURES, values, strict=True))


def category_figures(result: Curves, names: tuple[str, ...]) -> dict[str, Figures]:
    """AP and AP50 of each class."""
    one = {name: np.array([k]) for k, name in enumerate(names)}
    return {name: {"AP": result.ap(categories=k), "AP50": result.ap(0.5, categories=k)} for name, k in one.items()}


def coco(annotations: Annotations, found: Found, *, plus_one: bool = False) -> Scores:
    """All twelve box figures, equal to pycocotools.

    plus_one: count a found box's width and height one pixel larger, as the official GLIP evaluation writes them.
    """
    if plus_one:
        found = replace(found, boxes=found.boxes + np.array([0, 0, 1, 1]))
    result = curves(annotations.truth, found, len(annotations.names), cap=CAP)
    protocol = {
        "metric": "box AP over IoU 0.50:0.95, pycocotools' rules; a class without objects is left out of the mean",
        "cap": f"{CAP} detections of a class in an image",
        "widths": "x2 - x1 + 1" if plus_one else "x2 - x1",
    }
    return Scores(coco_figures(result), category_figures(result, annotations.names), protocol)


def ov_columns(annotations: Annotations) -> tuple[list[int], list[int]]:
    """The base and the novel classes among the categories of a file. Raises DataError when there is none."""
    split = coco_ov_split()
    column = {clean_name(name).strip().casefold(): k for k, name in enumerate(annotations.names)}
    base, novel = ([column[n] for n in split[part] if n in column] for part in ("base", "novel"))
    if not base and not novel:
        raise DataError(f"{annotations.place}: none of the 65 classes of the 48/17 split is among its categories")
    return base, novel


def ov_rows(annotations: Annotations, found: Found, labelled_only: bool) -> tuple[Truth, Found, Ints]:
    """Boxes of the 65 classes alone, and the images judged; labelled_only: those with an object of these classes."""
    base, novel = ov_columns(annotations)
    truth = annotations.truth.take(np.isin(annotations.truth.category, base + novel))
    found = found.take(np.isin(found.category, base + novel))
    if not labelled_only:
        return truth, found, np.arange(len(annotations.images))
    images = np.unique(truth.image)
    return truth, found.take(np.isin(found.image, images)), images


def coco_ov(annotations: Annotations, found: Found, *, labelled_only: bool = False) -> Scores:
    """AP50 over novel, base and all 65 classes, generalized (all compete); other classes of the file are left out.

    labelled_only: judge only images with an object of the 65 classes (the convention of 4,836 images of val2017, used
    by OVR-CNN and Detic) instead of all images (5,000).
    """
    base, novel = ov_columns(annotations)
    truth, found, images = ov_rows(annotations, found, labelled_only)
    result = curves(truth, found, len(annotations.names), cap=CAP)
    groups = {"novel": np.array(novel, int), "base": np.array(base, int), "all": np.sort(np.array(base + novel))}
    every, known = category_figures(result, annotations.names), {annotations.names[k] for k in base + novel}
    protocol = {
        "metric": "AP at IoU 0.5, generalized: base and novel classes compete",
        "images_judged": len(images),
        "convention": "images with an object of the 65 classes (4,836 of val2017)"
        if labelled_only
        else "all images of the file (5,000 of val2017)",
        "cap": f"{CAP} detections of a class in an image",
        "base": [annotations.names[k] for k in base],
        "novel": [annotations.names[k] for k in novel],
        "classes_of_the_split": f"{len(known)} of 65 are categories of the file",
    }
    figures = {f"AP50_{name}": result.ap(0.5, categories=group) for name, group in groups.items()}
    return Scores(figures, {name: every[name] for name in annotations.names if name in known}, protocol)
