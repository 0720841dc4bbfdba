"""The parts of a run that a recipe can replace, and their defaults."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from own_model import OwnModel, own_recipe

import openglip
from openglip.data.mixtures import Mixture, Source
from openglip.data.training_prompts import detection_prompt_of_all
from openglip.errors import ConfigError
from openglip.structures.sample import Sample
from openglip.training.components import build_model, check_categories, first_batch, load_start
from openglip.training.losses import GroundingCriterion
from openglip.training.recipe import Recipe
from openglip.training.recipes import RECIPES
from openglip.training.run import find_recipe


def test_a_recipe_replaces_its_functions(tmp_path: Path) -> None:
    class Doubled(GroundingCriterion):
        def __call__(self, outputs, batch, targets):
            return {name: 2 * term for name, term in super().__call__(outputs, batch, targets).items()}

    def built(recipe: Recipe) -> OwnModel:
        torch.manual_seed(0)
        return OwnModel(dim=8)

    def loss(folder: Path, **changes) -> float:
        openglip.train(replace(own_recipe(steps=1), build_model=built, **changes), folder, device="cpu")
        return json.loads((folder / "log.jsonl").read_text())["loss"]

    plain = loss(tmp_path / "plain")
    assert loss(tmp_path / "double", criterion=lambda recipe, model: Doubled()) == pytest.approx(2 * plain)


def test_an_incomplete_model_is_named() -> None:
    with pytest.raises(ConfigError, match="Linear is not a model for a Detector, it lacks name"):
        build_model(replace(own_recipe(), model=lambda: torch.nn.Linear(1, 1)))
    recipe = replace(own_recipe(), sources=Recipe.__dataclass_fields__["sources"].default)
    with pytest.raises(ConfigError, match="the recipe 'own' has no data"):
        recipe.batches(recipe, OwnModel(), Path())


def test_nano_starts_from_its_embedded_weights_unless_told_otherwise() -> None:
    embedded = openglip.load("nano", device="cpu").model.state_dict()
    recipe = RECIPES["nano"]()
    started = load_start(recipe, build_model(recipe)).state_dict()
    assert all(torch.equal(started[key], value) for key, value in embedded.items())
    recipe = replace(recipe, weights="random")
    assert not torch.equal(load_start(recipe, build_model(recipe)).state_dict()["keys.weight"], embedded["keys.weight"])
    recipe = replace(recipe, weights="nano")
    assert torch.equal(load_start(recipe, build_model(recipe)).state_dict()["keys.weight"], embedded["keys.weight"])


def test_a_model_with_fixed_classes_takes_no_source_with_others() -> None:
    samples = [Sample(b"", (8, 8), [], categories=names, labels=[], exhaustive=True) for names in (("cat",), ("dog",))]
    sources = [Source(name, [sample], detection_prompt_of_all) for name, sample in zip("ab", samples, strict=True)]
    model = SimpleNamespace(categories=("cat",), name="dyhead-t")
    with pytest.raises(ConfigError, match=r"source 'b' has 1 categories \(dog .* has 1 \(cat .* as its classes"):
        check_categories(Mixture(sources), model)  # type: ignore[arg-type]


def test_a_plan_fails_where_the_run_would(tmp_path: Path) -> None:
    samples = [Sample(f"{i}.jpg", (80, 100), [[0, 0, 9, 9]], categories=("a",), labels=[0]) for i in range(15)]
    mixture = Mixture([Source("mine", samples, detection_prompt_of_all)])
    with pytest.raises(ConfigError, match="15 samples fills no batch of 16"):
        first_batch(find_recipe("debug", {"batch_size": 16}), mixture, tmp_path)
