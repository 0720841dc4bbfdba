"""The pyramid against the official values."""

from __future__ import annotations

import pytest
import torch
from model.operators import TOLERANCE, arrays, difference, load

from openglip.model.fpn import FPN


@pytest.mark.parametrize("case", ["even", "odd"])
def test_pyramid(case: str):
    z = arrays("fpn", case)
    module = load(FPN((8, 12, 16), 16), arrays("fpn"))
    with torch.no_grad():
        outputs = module([z[f"input/{c}"] for c in ("c3", "c4", "c5")])
    for p, output in zip(("p3", "p4", "p5", "p6", "p7"), outputs, strict=True):
        assert difference(output, z[f"output/{p}"]) < TOLERANCE
