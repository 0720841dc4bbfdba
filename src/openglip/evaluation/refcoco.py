"""RefCOCO, RefCOCO+ and RefCOCOg: does the best box for an expression reach an IoU of 0.5 with its object."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openglip.data.files import read_json
from openglip.data.findings import Findings
from openglip.data.formats.coco import load_coco
from openglip.errors import DataError
from openglip.evaluation.coco import Scores
from openglip.evaluation.matching import GroundTruth, Predictions, pair_iou, rank_in_runs
from openglip.evaluation.read import STRICT, Annotations, Record, chosen_ids
from openglip.files import StrPath

IOU = 0.5


@dataclass(frozen=True)
class Expression:
    """A text for one object of an image.

    Attributes:
        id: The expression.
        text: Its words.
        file_name: Its image.
        box: x, y, width, height of the object in pixels.
    """

    id: object
    text: str
    file_name: str
    box: tuple[float, ...]


def read_expressions(
    source: StrPath, split: str | None = None, ids: Collection[object] | None = None
) -> list[Expression]:
    """The expressions of an MDETR JSON, where each image record is one expression, or of a folder as distributed.

    Args:
        source: The file, or a folder with `instances.json` and `refs(unc).p` (or another `refs*.p`, or `refs*.json`),
            where an expression's id is its `sent_id`.
        split: "val", "testA", ...: needed for a folder.
        ids: Ids of the expressions to use; None uses all.

    Raises:
        DataError: A file is damaged, or an id occurs twice or is missing. The message names file and id.
    """
    source = Path(source)
    expressions = list(_from_folder(source, split) if source.is_dir() else _from_mdetr(source))
    if not expressions:
        raise DataError(f"{source}: no expressions")
    (most_common, times), *_ = Counter(expression.id for expression in expressions).most_common(1)
    if times > 1:
        raise DataError(f"{source}: expression id {most_common} occurs twice")
    chosen = chosen_ids(ids, (expression.id for expression in expressions), source, "expression")
    return [expression for expression in expressions if str(expression.id) in chosen]


def _from_mdetr(path: Path) -> Iterator[Expression]:
    file = load_coco(path, Findings(fatal=STRICT))
    try:
        for image in file.images:
            if image["id"] not in file.annotations:
                raise DataError(f"{path}: expression {image['id']} has no box")
            box = tuple(float(v) for v in file.annotations[image["id"]][-1]["bbox"])
            yield Expression(image["id"], str(image["caption"]), str(image["file_name"]), box)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not an MDETR RefCOCO file: {type(error).__name__} {error}") from error


def _from_folder(folder: Path, split: str | None) -> Iterator[Expression]:
    files = sorted(folder.glob("refs*.p")) + sorted(folder.glob("refs*.json"))
    if len(files) != 1 or not (folder / "instances.json").is_file():
        raise DataError(f"{folder}: needs instances.json and exactly one refs*.p or refs*.json, not {len(files)}")
    refs = _plain_pickle(files[0]) if files[0].suffix == ".p" else read_json(files[0])
    instances = load_coco(folder / "instances.json", Findings(fatal=STRICT))
    try:
        boxes = {row["id"]: row["bbox"] for row in instances.rows}
        names = {image["id"]: image["file_name"] for image in instances.images}
        splits = sorted({ref["split"] for ref in refs})  # type: ignore[union-attr]
        if split not in splits:
            raise DataError(f"{files[0]}: which split? It holds {', '.join(splits)}, not {split}")
        for ref in (r for r in refs if r["split"] == split):  # type: ignore[union-attr]
            for sentence in ref["sentences"]:
                text = str(sentence.get("raw", sentence["sent"]))
                box = tuple(float(v) for v in boxes[ref["ann_id"]])
                yield Expression(sentence["sent_id"], text, names[ref["image_id"]], box)
    except (KeyError, TypeError) as error:
        raise DataError(f"{files[0]}: not RefCOCO's references: {type(error).__name__} {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, only lists, dictionaries and texts are read")


def _plain_pickle(path: Path) -> object:
    """A pickle of built-in containers, which can't run code."""
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a plain pickle: {error}") from error


def as_annotations(expressions: Sequence[Expression], source: str) -> Annotations:
    """Expressions as a table in which each is an image with one box, for reading results by "ref_id".

    Args:
        expressions: The expressions.
        source: Their file, for messages.
    """
    records: list[Record] = [{"id": e.id, "file_name": e.file_name} for e in expressions]
    n = len(records)
    boxes = np.array([e.box for e in expressions], np.float64).reshape(n, 4)
    zeros = np.zeros(n, np.int64)
    truth = GroundTruth(np.arange(n), zeros, boxes, boxes[:, 2] * boxes[:, 3], zeros.astype(bool), zeros.astype(bool))
    index: Mapping[object, int] = {e.id: i for i, e in enumerate(expressions)}
    return Annotations(source, tuple(records), (), (), index, {}, frozenset(), truth)


def score_refcoco(annotations: Annotations, predictions: Predictions) -> Scores:
    """P@1: the fraction of expressions whose best box (of equal scores the first) is right; no box is a miss."""
    order = np.lexsort((-predictions.scores, predictions.image))
    best = predictions.take(order[rank_in_runs(predictions.image[order]) == 0])
    truth = annotations.truth.take(best.image)
    right = int((pair_iou(best.boxes, truth.boxes, truth.crowd) >= IOU).sum())
    total = len(annotations.images)
    protocol = {
        "metric": f"share of expressions whose best box has IoU >= {IOU}",
        "expressions": total,
        "expressions_without_a_box": total - len(best),
    }
    return Scores({"P@1": right / total}, {}, protocol)
