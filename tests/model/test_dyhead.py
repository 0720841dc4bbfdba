"""DyHead layers against the official values."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from model.operators import TOLERANCE, arrays, difference, load

from openglip.model.dyhead import DyConv, DynamicReLU, to_maps, to_sequence
from openglip.model.mode import plain_formulas


def test_dynamic_relu():
    z = arrays("dyrelu")
    module = load(DynamicReLU(16), z)
    with torch.no_grad():
        output = module(to_sequence([z["input"]]))
    assert difference(to_maps(output, [z["input"].shape[-2:]])[0], z["output"]) < TOLERANCE


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("case", ["odd", "five"])
def test_dyhead_layer(case: str, plain: bool):
    z = arrays("dyconv", case)
    module = load(DyConv(32), z)
    maps = [z[f"input/{i}"] for i in range(len([k for k in z if k.startswith("input/")]))]
    sizes = [tuple(m.shape[-2:]) for m in maps]
    with torch.no_grad(), plain_formulas() if plain else nullcontext():
        outputs = to_maps(module(to_sequence(maps), sizes), sizes)
    for i, output in enumerate(outputs):
        assert difference(output, z[f"output/{i}"]) < TOLERANCE
