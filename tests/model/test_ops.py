"""Single operators against values of the official code, on the plain and on the fast path."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from model.golden import golden_arrays
from torch import Tensor, nn

from openglip.model.bert import BertLayer
from openglip.model.deform import (
    corner_rows,
    corner_weights,
    deform_conv,
    deform_conv_reference,
    flat_kernel,
    flat_view,
    table_of,
)
from openglip.model.dyhead import DyConv, DynamicReLU, to_maps, to_sequence
from openglip.model.fpn import FPN
from openglip.model.fusion import Fusion
from openglip.model.mode import plain_formulas
from openglip.model.postprocess import ScoredBoxes, suppress
from openglip.model.swin import Swin, SwinStage, shift_mask
from openglip.runtime import torchvision_nms

TOLERANCE = 1e-5  # goldens' README, values of order 1


def arrays(name: str, case: str = "") -> dict[str, Tensor]:
    """Arrays of one case as tensors, names without the case."""
    prefix = f"{case}/" if case else ""
    return {
        k.removeprefix(prefix): torch.from_numpy(v)
        for k, v in golden_arrays(f"ops/{name}.npz").items()
        if k.startswith(prefix)
    }


def load(module: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    buffers = ("relative_position_index",)
    state = {k.removeprefix("w/"): v for k, v in values.items() if k.startswith("w/") and not k.endswith(buffers)}
    module.load_state_dict(state, strict=True)
    return module.eval()


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a - b).abs().max().item()


def fast_deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """As `deform_conv_reference`."""
    cells, weights = corner_weights(offset, mask)
    size, source = offset.shape[2:], x.shape[2:]
    rows = corner_rows(cells, (size[0], size[1]), stride, (source[0], source[1]))
    y = deform_conv(table_of(x), rows, weights, flat_kernel(weight, x.dtype), bias)
    return y.unflatten(1, size).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "case", ["s1", "s2", "s1_offsets_from_finer_map", "s1_offsets_from_finer_map_even", "big_offsets"]
)
def test_deformable_convolution(case: str):
    z = arrays("deform_conv", case)
    x, weight, bias, stride = z["input"], z["weight"], z["bias"], int(z["stride"])
    size = z["output"].shape[-2:]
    offset, mask = flat_view(z["offset"], *size), flat_view(z["mask"], *size)
    reference = deform_conv_reference(x, offset, mask, weight, bias, stride)
    assert difference(reference, z["output"]) < TOLERANCE
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            fast = fast_deform_conv(x, offset, mask, weight, bias, stride)
        assert difference(fast, z["output"]) < TOLERANCE


@pytest.mark.parametrize(("height", "width", "stride"), [(33, 47, 1), (33, 47, 2), (1, 5, 1), (2, 1, 2)])
def test_fast_deformable_convolution_and_its_gradients_equal_the_reference(height: int, width: int, stride: int):
    torch.manual_seed(0)
    x = torch.randn(2, 8, height, width, dtype=torch.double, requires_grad=True)
    h, w = (-(-side // stride) for side in (height, width))
    offset = (3 * torch.randn(2, 18, h, w, dtype=torch.double)).requires_grad_()
    mask = torch.rand(2, 9, h, w, dtype=torch.double, requires_grad=True)
    weight = torch.randn(6, 8, 3, 3, dtype=torch.double, requires_grad=True)
    bias = torch.randn(6, dtype=torch.double, requires_grad=True)
    inputs = (x, offset, mask, weight, bias)
    reference = deform_conv_reference(x, offset, mask, weight, bias, stride)
    fast = fast_deform_conv(x, offset, mask, weight, bias, stride)
    assert difference(fast, reference) < 1e-4  # sampling positions are computed in float32
    seed = torch.randn_like(reference)
    for a, b in zip(torch.autograd.grad(reference, inputs, seed), torch.autograd.grad(fast, inputs, seed), strict=True):
        assert difference(a, b) < 1e-3 * (1 + b.abs().max().item())


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


@pytest.mark.parametrize("case", ["plain", "clamped"])
def test_text_layer(case: str):
    z = arrays("text_layer", case)
    module = load(BertLayer(48, int(z["num_heads"]), 96, float(z["layer_norm_eps"]), clamp=True), z)
    with torch.no_grad():
        output = module(z["input"], z["mask"].bool())
    real = z["mask"].bool()
    assert difference(output[real], z["output"][real]) < TOLERANCE


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


@pytest.mark.parametrize("case", ["even", "odd"])
def test_pyramid(case: str):
    z = arrays("fpn", case)
    module = load(FPN((8, 12, 16), 16), arrays("fpn"))
    with torch.no_grad():
        outputs = module([z[f"input/{c}"] for c in ("c3", "c4", "c5")])
    for p, output in zip(("p3", "p4", "p5", "p6", "p7"), outputs, strict=True):
        assert difference(output, z[f"output/{p}"]) < TOLERANCE


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


def test_suppression_where_torchvisions_library_does_not_load_by_itself(monkeypatch: pytest.MonkeyPatch):
    def refuse(path: object) -> None:
        refused.append(path)
        raise OSError(f"undefined symbol in {path}")

    import torchvision  # noqa: F401  its operators are there from now on

    refused: list[object] = []
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr(torch.ops, "load_library", refuse)
    nms = torchvision_nms()
    assert refused
    assert nms(torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9]]), torch.tensor([0.1, 0.2]), 0.5).tolist() == [1]
