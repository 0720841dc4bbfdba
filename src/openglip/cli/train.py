"""`openglip train`: the command, and the Python function `openglip.train` behind it.

The verb is put together here, above training and evaluation, which don't know each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from openglip.structures.sample import Sample


def figures_on(
    samples: Sequence[Sample], groups: Mapping[str, Sequence[str]], **detect: Any
) -> Callable[[nn.Module], dict[str, float]]:
    """Make a function that judges a model on samples of one exhaustive vocabulary, all of it asked for at once.

    groups: name of a figure and the categories over which it is the mean AP at IoU 0.5. detect: arguments for
    `Detector.detect`, such as batch_size.
    """
    from openglip.evaluation.coco import coco
    from openglip.evaluation.read import read_annotations, read_results
    from openglip.predict.detector import Detector

    names = list(samples[0].categories or ())
    annotations = read_annotations(_as_coco(samples, names))

    def judge(model: nn.Module) -> dict[str, float]:
        detector = Detector(model, device=next(model.parameters()).device)
        found = detector.detect([sample.image for sample in samples], names, threshold=0, **detect)
        rows = []
        for image, detections in enumerate(found):
            boxes = np.concatenate([detections.boxes[:, :2], detections.boxes[:, 2:] - detections.boxes[:, :2]], 1)
            for box, score, label in zip(
                boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
            ):
                rows.append({"image_id": image, "category_id": label, "bbox": box, "score": score})
        per_category = coco(annotations, read_results(rows, annotations)).per_category
        return {figure: float(np.mean([per_category[name]["AP50"] for name in own])) for figure, own in groups.items()}

    return judge


def _as_coco(samples: Sequence[Sample], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    images, boxes = [], []
    for image, sample in enumerate(samples):
        images.append({"id": image, "height": sample.size[0], "width": sample.size[1]})
        assert sample.labels is not None
        for (x1, y1, x2, y2), label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            box = {"id": len(boxes) + 1, "image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            boxes.append(box)
    return {"images": images, "annotations": boxes, "categories": [{"id": i, "name": n} for i, n in enumerate(names)]}
