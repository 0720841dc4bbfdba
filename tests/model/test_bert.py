"""Text layers against the official values."""

from __future__ import annotations

import pytest
import torch
from model.operators import TOLERANCE, arrays, difference, load

from openglip.model.bert import BertLayer


@pytest.mark.parametrize("case", ["plain", "clamped"])
def test_text_layer(case: str):
    z = arrays("text_layer", case)
    module = load(BertLayer(48, int(z["num_heads"]), 96, float(z["layer_norm_eps"]), clamp=True), z)
    with torch.no_grad():
        output = module(z["input"], z["mask"].bool())
    real = z["mask"].bool()
    assert difference(output[real], z["output"][real]) < TOLERANCE
