"""The rule for adapters: a parametrisation of a layer's weight is honoured on every path of every model."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from openglip.model.glip import GLIP
from openglip.model.mode import plain_formulas
from openglip.weights.load import build_model

IDS = torch.tensor([[101, 4937, 1012, 3899, 102]])
IMAGES = torch.randn(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))


class LowRank(nn.Module):
    """An update of rank one, as LoRA has it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.down = nn.Parameter(torch.randn(1, weight[0].numel(), generator=generator))
        self.up = nn.Parameter(torch.randn(len(weight), 1, generator=generator) * 0.05)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def outputs(model: GLIP, plain: bool) -> Tensor:
    with plain_formulas() if plain else nullcontext():
        out = model(IMAGES, IDS, IDS > 0)
    return torch.cat([out.logits.flatten(), out.box_regression.flatten(), out.centerness.flatten()])


@pytest.fixture(scope="module")
def model() -> GLIP:
    model = build_model("debug").eval()
    assert isinstance(model, GLIP)
    return model


def linear_layers(model: nn.Module) -> list[str]:
    unused = ("rpn.head.cls_logits",)  # of the closed set
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and name not in unused
    ]


def test_every_part_of_the_model_has_linear_layers(model: GLIP) -> None:
    names = linear_layers(model)
    for part in ("backbone.body.layers", "language_backbone.body.model.encoder", "b_attn.attn", "rpn.head.bbox_pred"):
        assert any(part in name for name in names), part


@pytest.mark.parametrize("plain", [False, True])
def test_an_adapter_of_any_layer_changes_the_outputs_as_the_merged_weight_does(model: GLIP, plain: bool) -> None:
    with torch.no_grad():
        base = outputs(model, plain)
        for name in linear_layers(model):
            layer = model.get_submodule(name)
            weight: Tensor = layer.weight.clone()  # type: ignore[operator,assignment]
            parametrize.register_parametrization(layer, "weight", LowRank(weight))
            adapted = outputs(model, plain)
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
            merged = outputs(model, plain)
            layer.weight.copy_(weight)  # type: ignore[operator]
            assert not torch.equal(adapted, base), f"the adapter of {name} is ignored"
            torch.testing.assert_close(adapted, merged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("plain", [False, True])
def test_every_adapter_gets_a_gradient(model: GLIP, plain: bool) -> None:
    adapted = copy.deepcopy(model)
    adapters = {}
    for name in linear_layers(adapted):
        layer = adapted.get_submodule(name)
        adapters[name] = LowRank(layer.weight)  # type: ignore[arg-type]
        parametrize.register_parametrization(layer, "weight", adapters[name])
    outputs(adapted, plain).square().sum().backward()
    for name, adapter in adapters.items():
        assert adapter.up.grad is not None, name
        assert adapter.up.grad.abs().sum() > 0, name
