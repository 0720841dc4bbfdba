"""Suppression against the official values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model.operators import arrays, difference

from openglip.model.postprocess import ScoredBoxes, suppress


@pytest.mark.parametrize(
    ("case", "iou", "plus_one", "expected"),
    [
        ("random", 0.3, True, "keep_0.3"),
        ("random", 0.5, True, "keep_0.5"),
        ("random", 0.6, True, "keep_0.6"),
        ("random", 0.6, False, "keep_0.6_without_plus_one"),
        ("edge", 0.6, True, "keep_0.6"),
    ],
)
def test_suppression(case: str, iou: float, plus_one: bool, expected: str):
    z = arrays("ml_nms", case)
    kept = suppress(ScoredBoxes(z["boxes"], z["scores"], torch.arange(len(z["boxes"]))), 2.0)
    assert len(kept.scores) == len(z["scores"])  # nothing overlaps by more than 1
    found = ScoredBoxes(z["boxes"], z["scores"], z["labels"])
    kept = suppress(found, iou, plus_one=plus_one)
    keep = z[expected]
    rows = np.lexsort((keep.numpy(), -z["scores"][keep].numpy()))
    assert difference(kept.boxes, z["boxes"][keep][rows]) == 0
    assert torch.equal(kept.labels, z["labels"][keep][rows])
