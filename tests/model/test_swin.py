"""Swin against the official values."""

from __future__ import annotations

import pytest
import torch
from model.operators import TOLERANCE, arrays, difference, load

from openglip.model.swin import Swin, SwinStage, shift_mask


@pytest.mark.parametrize("case", ["odd", "smaller_than_window", "exact"])
def test_swin_stage(case: str):
    z = arrays("swin", case)
    h, w = (int(side) for side in z["hw"])
    module = load(SwinStage(24, 2, 3, 7, (0.0, 0.0), downsample=True), z)
    x = z["input"].view(-1, h, w, 24)
    mask = shift_mask(-(-h // 7) * 7, -(-w // 7) * 7, 7, 3)
    assert torch.equal(mask, z["attention_mask"])
    with torch.no_grad():
        assert difference(module.blocks[0](x, mask).flatten(1, 2), z["after_block0"]) < TOLERANCE  # type: ignore[index]
        output, merged = module(x)
    assert difference(output.flatten(1, 2), z["output"]) < TOLERANCE
    assert difference(merged.flatten(1, 2), z["downsampled"]) < TOLERANCE


def test_whole_small_swin():
    z = arrays("swin", "tiny")
    module = load(Swin(12, z["depths"].tolist(), z["heads"].tolist(), 7), z)
    with torch.no_grad():
        maps = module(z["input"])
    for i, output in enumerate(maps):
        assert difference(output, z[f"stage{i + 2}"]) < TOLERANCE
