"""Fusion against the official values, and its fast paths against the formula."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from model.operators import TOLERANCE, arrays, difference, load

from openglip.model.dyhead import to_maps, to_sequence
from openglip.model.fusion import Fusion
from openglip.model.mode import plain_formulas


@pytest.mark.parametrize("path", ["plain", "folded", "chunked"])
@pytest.mark.parametrize("case", ["plain", "clamped"])
def test_fusion(case: str, path: str):
    z = arrays("fusion", case)
    maps = [z[f"input_visual/{i}"] for i in range(5)]
    module = load(Fusion(32, 48, 64, int(z["num_heads"]), layer_scale=1.0), z)
    with torch.set_grad_enabled(path == "folded"), plain_formulas() if path == "plain" else nullcontext():
        v, text = module(to_sequence(maps), z["input_text"], z["text_mask"].bool())
    real = z["text_mask"].bool()  # what padding becomes is never read
    assert difference(text[real], z["output_text"][real]) < TOLERANCE
    for i, output in enumerate(to_maps(v, [tuple(m.shape[-2:]) for m in maps])):
        assert difference(output, z[f"output_visual/{i}"]) < TOLERANCE


@pytest.mark.parametrize(("positions", "tokens"), [(1, 1), (1025, 7), (2500, 33)])
def test_fast_fusion_and_its_gradients_equal_the_formula(positions: int, tokens: int):
    torch.manual_seed(1)
    module = Fusion(16, 24, 64, 4, layer_scale=0.5, dropout=0.0).double()
    v = torch.randn(2, positions, 16, dtype=torch.double, requires_grad=True)
    text = torch.randn(2, tokens, 24, dtype=torch.double, requires_grad=True)
    mask = torch.arange(tokens) < torch.tensor([[tokens], [max(1, tokens - 3)]])
    results = {}
    for plain in (True, False):
        with plain_formulas() if plain else nullcontext():
            out = module(v, text, mask)
        results[plain] = (*out, *torch.autograd.grad(sum(o.square().sum() for o in out), (v, text)))
    for a, b in zip(results[True], results[False], strict=True):
        assert difference(a, b) < 1e-9 * (1 + b.abs().max().item())
    module.float()
    with torch.no_grad():
        fast_v, fast_text = module(v.float(), text.float(), mask)
    assert difference(fast_v.double(), results[True][0]) < 1e-4
    assert difference(fast_text[mask].double(), results[True][1][mask]) < 1e-4


def test_fusion_with_dropout_keeps_the_expected_value():
    torch.manual_seed(2)
    module = Fusion(16, 24, 64, 4, layer_scale=1.0, dropout=0.3).train()
    v, text, mask = torch.randn(1, 40, 16), torch.randn(1, 5, 24), torch.ones(1, 5, dtype=torch.bool)
    mean = [torch.stack(x).mean(0) for x in zip(*(module(v, text, mask) for _ in range(300)), strict=True)]
    expected = module.eval()(v, text, mask)
    for a, b in zip(mean, expected, strict=True):
        assert (a - b).abs().mean().item() < 0.02
