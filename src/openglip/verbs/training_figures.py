"""Figures that judge a model while it trains, made of the benchmark's own parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from torch import nn

from openglip.data.files import image_content
from openglip.data.findings import Findings
from openglip.data.formats.coco import image_files, load_coco
from openglip.errors import DataError
from openglip.evaluation.coco import score_coco
from openglip.evaluation.read import Annotations, read_annotations, read_results
from openglip.files import StrPath
from openglip.predict.detector import Detector
from openglip.structures.boxes import xyxy_to_xywh
from openglip.training.shapes import PAIRS, SEEN, SIDE, UNSEEN, Shapes

Figures = dict[str, float]
SHAPES_FIGURES = ("AP50", "AP50_seen")
HELD_OUT_SEED, HELD_OUT = 1_000_003, 200


def on_shapes() -> Callable[[nn.Module], Figures]:
    """AP at IoU 0.5 on generated pictures: AP50 over the pairs that training never shows, AP50_seen over the others."""
    shapes = Shapes(HELD_OUT, PAIRS, HELD_OUT_SEED)
    samples = [shapes[i] for i in range(len(shapes))]
    boxes = [
        {"id": f"{image}/{k}", "image_id": image, "category_id": int(label), "bbox": box}
        for image, sample in enumerate(samples)
        for k, (box, label) in enumerate(zip(xyxy_to_xywh(sample.boxes).tolist(), sample.labels, strict=True))  # type: ignore[arg-type]
    ]
    annotations = read_annotations(
        {
            "images": [{"id": image, "height": SIDE, "width": SIDE} for image in range(HELD_OUT)],
            "annotations": boxes,
            "categories": [{"id": i, "name": name} for i, name in enumerate(PAIRS)],
        }
    )
    pictures = [sample.image for sample in samples]

    def judge(model: nn.Module) -> Figures:
        per_category = _scores(model, pictures, annotations, batch_size=20, short_side=SIDE).per_category
        groups = zip(SHAPES_FIGURES, (UNSEEN, SEEN), strict=True)
        return {figure: _mean([per_category[name]["AP50"] for name in own]) for figure, own in groups}

    return judge


def on_coco(path: StrPath, images: StrPath | None = None) -> Callable[[nn.Module], Figures]:
    """The figures of a COCO-style file with its pictures (None: beside it), all names in one prompt.

    Raises DataError, before anything is trained, when the file can't be used or lacks a picture.
    """
    annotations = read_annotations(path)
    files = image_files(load_coco(path, Findings(keep=False)), images)
    names = [str(image.get("file_name", "")) for image in annotations.images]
    if missing := [name for name in names if files.find(name) is None]:
        raise DataError(f"{path}: {len(missing)} pictures are not in {files.path}, the first is {missing[0]}")
    return lambda model: _scores(model, (image_content(files.reference(n)) for n in names), annotations).figures


def _scores(model: nn.Module, pictures: Iterable[Any], annotations: Annotations, **detect: Any) -> Any:
    detector = Detector(model, device=next(model.parameters()).device)
    rows = []
    for image, found in zip(
        annotations.images, detector.stream(pictures, annotations.names, threshold=0, **detect), strict=True
    ):
        boxes = xyxy_to_xywh(found.boxes).tolist()
        for box, score, label in zip(boxes, found.scores.tolist(), found.labels.tolist(), strict=True):
            category = annotations.categories[label]["id"]
            rows.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": score})
    return score_coco(annotations, read_results(rows, annotations))


def _mean(values: Sequence[float]) -> float:
    """Over what is defined; -1 when nothing is."""
    defined = [value for value in values if value >= 0]
    return float(np.mean(defined)) if defined else -1.0
