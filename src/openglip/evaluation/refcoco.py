"""RefCOCO, RefCOCO+ and RefCOCOg: does the best box for an expression reach an IoU of 0.5 with the object meant."""

from __future__ import annotations

import io
import pickle
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
from openglip.evaluation.read import STRICT, Annotations, Record

IOU = 0.5


@dataclass(frozen=True)
class Expression:
    """A text for one object of a picture. box: x, y, width, height in pixels."""

    id: object
    text: str
    file_name: str
    box: tuple[float, ...]


def read_expressions(
    source: str | Path, split: str | None = None, ids: Collection[object] | None = None
) -> list[Expression]:
    """The expressions of an MDETR json, where each image record is one expression, or of a folder as distributed.

    The folder holds `instances.json` and `refs(unc).p` (or another `refs*.p`, or `refs*.json`): an expression's id is
    its `sent_id` there, and `split` ("val", "testA", ...) is needed. ids: of the expressions to use.
    Raises DataError naming file and id.
    """
    source = Path(source)
    found = list(_from_folder(source, split) if source.is_dir() else _from_mdetr(source))
    seen: set[object] = set()
    for one in found:
        if one.id in seen:
            raise DataError(f"{source}: expression id {one.id} occurs twice")
        seen.add(one.id)
    wanted = {str(i) for i in (seen if ids is None else ids)}
    if missing := wanted - {str(i) for i in seen}:
        raise DataError(f"{source}: no expression {min(missing)}, which the list of ids asks for")
    if not found:
        raise DataError(f"{source}: no expressions")
    return [one for one in found if str(one.id) in wanted]


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


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, only lists, dictionaries and texts are read")


def _plain_pickle(path: Path) -> object:
    """A pickle of built-in containers, which can't run code."""
    try:
        return _Plain(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{path}: not a plain pickle: {error}") from error


def as_annotations(expressions: Sequence[Expression], place: str) -> Annotations:
    """Expressions as a table in which each is an image with one box, for reading results by "ref_id"."""
    records: list[Record] = [{"id": e.id, "file_name": e.file_name} for e in expressions]
    n = len(records)
    boxes = np.array([e.box for e in expressions], np.float64).reshape(n, 4)
    zeros = np.zeros(n, np.int64)
    truth = GroundTruth(np.arange(n), zeros, boxes, boxes[:, 2] * boxes[:, 3], zeros.astype(bool), zeros.astype(bool))
    index: Mapping[object, int] = {e.id: i for i, e in enumerate(expressions)}
    return Annotations(place, tuple(records), (), (), index, {}, frozenset(), truth)


def score_refcoco(annotations: Annotations, found: Predictions) -> Scores:
    """P@1: the share of expressions whose best box (of equal scores the first) is right; none found is a miss."""
    order = np.lexsort((-found.scores, found.image))
    best = found.take(order[rank_in_runs(found.image[order]) == 0])
    truth = annotations.truth.take(best.image)
    right = int((pair_iou(best.boxes, truth.boxes, truth.crowd) >= IOU).sum())
    total = len(annotations.images)
    protocol = {
        "metric": f"share of expressions whose best box has IoU >= {IOU}",
        "expressions": total,
        "expressions_without_a_box": total - len(best),
    }
    return Scores({"P@1": right / total}, {}, protocol)
