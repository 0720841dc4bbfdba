"""Figures that judge a model while it trains, computed as the benchmarks compute theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from openglip.data.files import image_content
from openglip.data.findings import Findings
from openglip.data.formats.coco import image_files, load_coco
from openglip.errors import DataError
from openglip.evaluation.coco import Scores, score_coco
from openglip.evaluation.read import Annotations, read_annotations, read_results
from openglip.files import StrPath
from openglip.predict.detector import Detector
from openglip.predict.options import DetectOptions
from openglip.structures.boxes import xyxy_to_xywh

if TYPE_CHECKING:
    from torch import nn

    from openglip.training.recipe import Validation

Figures = dict[str, float]


def on_samples(validation: Validation) -> Callable[[nn.Module], Figures]:
    """Function of a model that returns the figures which a recipe's validation names.

    Args:
        validation: Samples, all with the same categories, and the categories of each figure.
    """
    samples = validation.samples
    names = samples[0].categories or ()
    annotations = read_annotations(
        {
            "images": [{"id": i, "height": s.size[0], "width": s.size[1]} for i, s in enumerate(samples)],
            "annotations": [
                {"id": f"{i}/{k}", "image_id": i, "category_id": int(label), "bbox": box}
                for i, sample in enumerate(samples)
                for k, (box, label) in enumerate(
                    zip(xyxy_to_xywh(sample.boxes).tolist(), sample.labels, strict=True)  # type: ignore[arg-type]
                )
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        }
    )

    def evaluate(model: nn.Module) -> Figures:
        images = (image_content(sample.image) for sample in samples)
        per_category = _scores(model, images, annotations, validation.options).per_category
        return {
            figure: _mean([per_category[name]["AP50"] for name in group])
            for figure, group in validation.figures.items()
        }

    return evaluate


def on_coco(path: StrPath, images: StrPath | None = None) -> Callable[[nn.Module], Figures]:
    """Function of a model that returns the figures of `evaluate coco`, with all names in one prompt.

    Args:
        path: Annotations in COCO's format.
        images: Folder of the images; None: next to the file.

    Raises:
        DataError: The file can't be used or lacks an image.
    """
    annotations = read_annotations(path)
    files = image_files(load_coco(path, Findings(keep=False)), images)
    names = [str(image.get("file_name", "")) for image in annotations.images]
    if missing := [name for name in names if files.find(name) is None]:
        raise DataError(f"{path}: {len(missing)} images are not in {files.path}, the first is {missing[0]}")

    def evaluate(model: nn.Module) -> Figures:
        contents = (image_content(files.reference(name)) for name in names)
        return _scores(model, contents, annotations, DetectOptions(threshold=0)).figures

    return evaluate


def _scores(model: nn.Module, images: Iterable[bytes], annotations: Annotations, options: DetectOptions) -> Scores:
    detector = Detector(model, device=next(model.parameters()).device)
    rows = []
    for image, detections in zip(
        annotations.images, detector.stream(images, annotations.names, options=options), strict=True
    ):
        boxes = xyxy_to_xywh(detections.boxes).tolist()
        for box, score, label in zip(boxes, detections.scores.tolist(), detections.labels.tolist(), strict=True):
            category = annotations.categories[label]["id"]
            rows.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": score})
    return score_coco(annotations, read_results(rows, annotations))


def _mean(values: list[float]) -> float:
    """The mean of the values that are defined; -1 when none is."""
    defined = [value for value in values if value >= 0]
    return float(np.mean(defined)) if defined else -1.0
