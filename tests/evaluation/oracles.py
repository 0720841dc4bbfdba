"""The reference evaluators, run in silence."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import sys
import types
from unittest import mock

import numpy as np
import pytest

COCO_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def pycocotools_figures(annotations, results) -> tuple[dict[str, float], dict[str, float]]:
    """The twelve figures, and AP per category name."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = [c["name"] for c in sorted(annotations["categories"], key=lambda c: c["id"])]
    per_class = evaluation.eval["precision"][:, :, :, 0, 2]
    aps = [p[p > -1].mean() if (p := per_class[:, :, k])[p > -1].size else -1.0 for k in range(len(names))]
    return dict(zip(COCO_NAMES, map(float, evaluation.stats), strict=True)), dict(zip(names, aps, strict=True))


def lvis_figures(annotations, results, path, *, per_image: int) -> dict[str, float]:
    """Figures of the lvis package, which asks for numpy's old alias and for plotting packages it does not need here."""
    pytest.importorskip("pycocotools")
    stubs = {name: types.ModuleType(name) for name in ("cv2", "matplotlib", "matplotlib.pyplot", "matplotlib.patches")}
    stubs["matplotlib.patches"].Polygon = object
    with mock.patch.dict(sys.modules, {k: v for k, v in stubs.items() if k not in sys.modules}):
        lvis = pytest.importorskip("lvis")
    logging.getLogger("lvis").setLevel(logging.ERROR)
    path.write_text(json.dumps(annotations))
    with mock.patch.object(np, "float", float, create=True):
        truth = lvis.LVIS(str(path))
        found = lvis.LVISResults(truth, copy.deepcopy(results), max_dets=per_image)
        evaluation = lvis.LVISEval(truth, found, "bbox")
        evaluation.run()
    return dict(evaluation.results)
