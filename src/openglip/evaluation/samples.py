"""A data set of any format, as annotations to judge by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np

from openglip.data.formats.coco import COCO
from openglip.data.formats.lvis import LVIS
from openglip.data.reading import read, recognise
from openglip.errors import ConfigError, DataError
from openglip.evaluation.matching import Bools
from openglip.evaluation.read import Annotations, JsonSource, load_json, read_annotations, source_name
from openglip.structures.boxes import xyxy_to_xywh
from openglip.structures.sample import ImageReference, Sample

References = Mapping[object, ImageReference]


def read_custom(
    source: JsonSource, ids: Iterable[object] | None, split: str | None, images: str | PathLike[str] | None
) -> tuple[Annotations, References]:
    """The annotations of a data set of any format.

    A COCO-style file keeps its ids; in another format a category's id is its position in the sorted list of names, from
    0. Where a source labels only some classes (`info.source_categories` of a COCO file, a sample that is not
    exhaustive), the others are not judged on its images.

    Args:
        source: The file or folder, or what `json.load` returns for a COCO-style file.
        ids: Ids of the images to use; None uses all.
        split: Which split, where the source holds several.
        images: Folder or tar of the images, where they are not next to the annotations.

    Returns:
        The annotations, and the images by their ids, as far as the format's reader knows them.

    Raises:
        ConfigError: The split must be named.
        DataError: The data set has no categories, or can't be read.
    """
    if not isinstance(source, (str, PathLike)) or (Path(source).is_file() and recognise(Path(source)) in (COCO, LVIS)):
        if split is not None:
            raise ConfigError(f"{source_name(source, 'annotations')} is one file without splits: leave split out")
        data = load_json(source)
        annotations = read_annotations(data, ids)  # type: ignore[arg-type]
        if isinstance(source, (str, PathLike)):
            annotations = replace(annotations, source=str(source))
        return replace(annotations, judged=_judged_by_source(data, annotations)), {}
    samples = list(read(source, split=split, images=images))
    return _from_samples(samples, str(source), ids)


def _judged_by_source(data: object, annotations: Annotations) -> Bools | None:
    """Images x categories, from the categories that each source of a merged COCO file labels."""
    info = data.get("info") if isinstance(data, Mapping) else None
    listed = info.get("source_categories") if isinstance(info, Mapping) else None
    if not isinstance(listed, Mapping):
        return None
    judged = np.ones((len(annotations.images), len(annotations.names)), bool)
    for i, image in enumerate(annotations.images):
        if image.get("source") in listed:
            judged[i] = [c["id"] in listed[image["source"]] for c in annotations.categories]
    judged[annotations.truth.image, annotations.truth.category] = True
    return judged


def _from_samples(
    samples: Sequence[Sample], source: str, ids: Iterable[object] | None
) -> tuple[Annotations, References]:
    names = sorted({name for sample in samples for name in sample.categories or ()})
    if not names:
        raise DataError(f"{source}: no image has categories, so there is nothing to judge by")
    index = {name: k for k, name in enumerate(names)}
    images = [{"id": s.image_id, "file_name": s.file_name, "height": s.size[0], "width": s.size[1]} for s in samples]
    rows = [
        {"image_id": s.image_id, "category_id": index[name], "bbox": box.tolist()}
        for s in samples
        for name, box in zip(s.names, xyxy_to_xywh(s.boxes.astype(np.float64)), strict=True)
    ]
    categories = [{"id": k, "name": name} for name, k in index.items()]
    annotations = read_annotations({"images": images, "annotations": rows, "categories": categories}, ids)
    judged = np.zeros((len(annotations.images), len(names)), bool)
    judged[annotations.truth.image, annotations.truth.category] = True
    for sample in samples:
        if sample.image_id in annotations.image_index:
            labelled = (sample.categories or ()) if sample.exhaustive else sample.negatives
            judged[annotations.image_index[sample.image_id], [index[n] for n in labelled if n in index]] = True
    annotations = replace(annotations, source=source, judged=None if judged.all() else judged)
    return annotations, {s.image_id: s.image for s in samples if s.image_id in annotations.image_index}
