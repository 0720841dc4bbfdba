"""COCO's box figures, closed set or zero-shot, and the open-vocabulary split of 48 base and 17 novel classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from openglip.errors import DataError
from openglip.evaluation.matching import Curves, GroundTruth, Predictions, precision_recall
from openglip.evaluation.read import Annotations
from openglip.prompts.tables import coco_ov_split
from openglip.prompts.text import clean_name

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
MAX_DETECTIONS = 100  # per image and class that count
Figures = dict[str, float]


@dataclass(frozen=True)
class Scores:
    """The result of scoring one set of predictions.

    Attributes:
        figures: Fractions by name, -1 where undefined.
        per_category: Figures of each category by its name.
        protocol: The rules that were applied.
    """

    figures: Figures
    per_category: dict[str, Figures] = field(default_factory=dict)
    protocol: Mapping[str, object] = field(default_factory=dict)


def coco_figures(curves: Curves) -> Figures:
    """The twelve figures in COCO's order."""
    values = [curves.ap(), curves.ap(0.5), curves.ap(0.75), *(curves.ap(area=a) for a in (1, 2, 3))]
    values += [curves.ar(top) for top in range(3)] + [curves.ar(area=a) for a in (1, 2, 3)]
    return dict(zip(FIGURES, values, strict=True))


def category_figures(curves: Curves, names: tuple[str, ...]) -> dict[str, Figures]:
    """AP and AP50 of each category by its name."""
    indices = {name: np.array([k]) for k, name in enumerate(names)}
    return {name: {"AP": curves.ap(categories=k), "AP50": curves.ap(0.5, categories=k)} for name, k in indices.items()}


def score_coco(annotations: Annotations, predictions: Predictions, *, plus_one: bool = False) -> Scores:
    """All twelve box figures, equal to those of pycocotools.

    Args:
        annotations: What is to be found.
        predictions: Boxes on the same images.
        plus_one: Make each predicted box one pixel wider and higher, as the official GLIP evaluation writes them.
    """
    if plus_one:
        predictions = replace(predictions, boxes=predictions.boxes + np.array([0, 0, 1, 1]))
    curves = precision_recall(annotations.truth, predictions, len(annotations.names), cap=MAX_DETECTIONS)
    protocol = {
        "metric": "box AP over IoU 0.50:0.95, pycocotools' rules; a class without objects is left out of the mean",
        "cap": f"{MAX_DETECTIONS} detections of a class in an image",
        "widths": "x2 - x1 + 1" if plus_one else "x2 - x1",
    }
    return Scores(coco_figures(curves), category_figures(curves, annotations.names), protocol)


def ov_categories(annotations: Annotations) -> tuple[list[int], list[int]]:
    """Indices of the base and of the novel classes among the categories of a file.

    Raises:
        DataError: None of the classes is among them.
    """
    split = coco_ov_split()
    index = {clean_name(name).strip().casefold(): k for k, name in enumerate(annotations.names)}
    base, novel = ([index[name] for name in split[group] if name in index] for group in ("base", "novel"))
    if not base and not novel:
        raise DataError(f"{annotations.source}: none of the 65 classes of the 48/17 split is among its categories")
    return base, novel


def ov_boxes(
    annotations: Annotations, predictions: Predictions, labelled_only: bool
) -> tuple[GroundTruth, Predictions]:
    """The boxes that count for open-vocabulary COCO.

    Args:
        annotations: Of all classes of the file.
        predictions: Of all classes of the file.
        labelled_only: Keep only images with an object of the 65 classes.

    Returns:
        True and predicted boxes of the 65 classes.
    """
    base, novel = ov_categories(annotations)
    truth = annotations.truth.take(np.isin(annotations.truth.category, base + novel))
    predictions = predictions.take(np.isin(predictions.category, base + novel))
    if labelled_only:
        predictions = predictions.take(np.isin(predictions.image, truth.image))
    return truth, predictions


def score_coco_ov(annotations: Annotations, predictions: Predictions, *, labelled_only: bool = False) -> Scores:
    """AP50 over novel, base and all 65 classes, generalized: all compete, other classes of the file are left out.

    Args:
        annotations: What is to be found.
        predictions: Boxes on the same images.
        labelled_only: Score only images with an object of the 65 classes (the convention with 4,836 images of val2017,
            which OVR-CNN and Detic use) instead of all images (5,000).
    """
    base, novel = ov_categories(annotations)
    truth, predictions = ov_boxes(annotations, predictions, labelled_only)
    curves = precision_recall(truth, predictions, len(annotations.names), cap=MAX_DETECTIONS)
    groups = {"novel": np.array(novel, int), "base": np.array(base, int), "all": np.sort(np.array(base + novel))}
    per_category = category_figures(curves, annotations.names)
    classes = [annotations.names[k] for k in sorted(base + novel)]
    protocol = {
        "metric": "AP at IoU 0.5, generalized: base and novel classes compete",
        "images_judged": len(np.unique(truth.image)) if labelled_only else len(annotations.images),
        "convention": "images with an object of the 65 classes (4,836 of val2017)"
        if labelled_only
        else "all images of the file (5,000 of val2017)",
        "cap": f"{MAX_DETECTIONS} detections of a class in an image",
        "base": [annotations.names[k] for k in base],
        "novel": [annotations.names[k] for k in novel],
        "classes_of_the_split": f"{len(classes)} of 65 are categories of the file",
    }
    figures = {f"AP50_{name}": curves.ap(0.5, categories=group) for name, group in groups.items()}
    return Scores(figures, {name: per_category[name] for name in classes}, protocol)
