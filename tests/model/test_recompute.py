"""Recomputed blocks: the same run bit for bit, dropout included, for less memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop import lines, run, same_weights
from tiny import tiny_model

from openglip.model.bert import BertLayer
from openglip.model.dyhead import DyConv
from openglip.model.head import FusionBlock
from openglip.model.recompute import recompute_blocks
from openglip.model.swin import SwinBlock
from openglip.training.plan import cost_of_one
from openglip.training.recipes import RECIPES
from openglip.weights.load import model_builder

BLOCKS = (SwinBlock, BertLayer, DyConv, FusionBlock)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often blocks ran, by kind."""
    count = {kind.__name__: 0 for kind in BLOCKS}

    def counted(kind: type, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run_block(self, *args):
            count[kind.__name__] += 1
            return forward(self, *args)

        return run_block

    for kind in BLOCKS:
        monkeypatch.setattr(kind, "forward", counted(kind, kind.forward))
    return count


def test_a_run_that_recomputes_is_the_same_run(tmp_path: Path, passes: dict[str, int]) -> None:
    kept = run(tmp_path / "kept")
    once = dict(passes)
    model = tiny_model()
    recompute_blocks(model)
    recomputed = run(tmp_path / "recomputed", model=model)
    assert lines(kept) == lines(recomputed)
    assert same_weights(kept, recomputed)
    assert passes == {kind: 3 * number for kind, number in once.items()}  # once before, twice now


def test_a_recipe_asks_for_it(passes: dict[str, int]) -> None:
    recipe = replace(RECIPES["debug"](), recompute=True)
    model = recipe.load_start(recipe, recipe.build_model(recipe))
    torch.cat([level.flatten() for level in model.encode_image(torch.zeros(1, 3, 96, 96))]).sum().backward()
    blocks = sum(isinstance(module, SwinBlock) for module in model.modules())
    assert passes["SwinBlock"] == 2 * blocks


def test_the_plan_knows_that_less_is_kept() -> None:
    with torch.device("meta"):
        model = model_builder("debug")()
    (flops, kept), (same, less) = (cost_of_one(model, (96, 96), recomputed) for recomputed in (False, True))
    assert flops == same
    assert less < 0.7 * kept
