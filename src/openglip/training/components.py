"""The parts of a run that a recipe can replace, as they are for GLIP: model, start, batches, criterion, data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from openglip.data.mixtures import Mixture
from openglip.data.rendering import draw_view
from openglip.data.transforms import Resize
from openglip.errors import ConfigError, DataError
from openglip.images.prepare import resized_size
from openglip.model.contract import Model, check_model
from openglip.model.glip import GLIP
from openglip.model.recompute import recompute_blocks
from openglip.runtime import rank, world_size
from openglip.training.batches import Batch, Views, batch_stream
from openglip.training.contrast import ContrastCriterion, add_contrast
from openglip.training.losses import ClosedSetCriterion, Criterion, GroundingCriterion
from openglip.training.pretrained import load_parts
from openglip.weights.load import load_state, model_builder, start_state

if TYPE_CHECKING:
    from openglip.training.recipe import Recipe

FIRST_VIEWS = 8  # images of the first batch that a plan draws


def build_model(recipe: Recipe) -> Model:
    """The recipe's model, initialised from its seed.

    Raises:
        ConfigError: There is no such model, it lacks something (`check_model`), or it has no use for `sub_sentences` or
            `contrast`.
    """
    build: Callable[[], nn.Module] = model_builder(recipe.model) if isinstance(recipe.model, str) else recipe.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = check_model(build())
    if recipe.sub_sentences or recipe.contrast:
        if not isinstance(model, GLIP) or model.categories:
            raise ConfigError(f"sub_sentences and contrast are for GLIP with a text encoder, not for {model.name}")
        if recipe.sub_sentences:
            model.use_sub_sentences()
    return model


def load_start(recipe: Recipe, model: Model) -> Model:
    """Load the weights that the model starts from, then add what only training needs.

    Raises:
        WeightsError: A file is missing, damaged or of another model.
    """
    assert isinstance(model, nn.Module)
    load_parts(model, recipe.start, Path(recipe.data))
    name = recipe.model if isinstance(recipe.model, str) else None
    if (weights := start_state(name, recipe.weights)) is not None:
        load_state(model, *weights)
    if recipe.contrast:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            add_contrast(model, recipe.contrast)  # type: ignore[arg-type]
    if recipe.recompute:
        recompute_blocks(model)
    return model


def mixture_batches(recipe: Recipe, model: Model, folder: Path) -> Callable[[int], Iterator[Batch]]:
    """This process's batches of the recipe's sources, from a number on, without end.

    Args:
        recipe: Its sources and transforms.
        model: Says how images are prepared; it has to be on its device already.
        folder: The run's; nothing is written here.

    Raises:
        ConfigError: A source does not suit the model.
    """
    mixture = Mixture(recipe.sources(recipe), recipe.seed)
    check_categories(mixture, model)
    device = next(model.parameters()).device

    def batches(number: int) -> Iterator[Batch]:
        return batch_stream(
            mixture,
            recipe.transforms,
            model.preparation,
            recipe.batch_size // (world_size() * recipe.accumulate),
            rank=rank(),
            ranks=world_size(),
            start=number,
            workers=recipe.workers,
            max_tokens=model.max_tokens,
            pin_memory=device.type == "cuda",
        )

    return batches


def check_categories(mixture: Mixture, model: Model) -> None:
    """Check that every source has the fixed categories of a model that has some.

    Raises:
        ConfigError: A source has another list of categories.
    """
    if model.categories is None:
        return
    classes = model.categories
    for source in mixture.sources:
        # samples that are made when they are read are all alike
        samples = source.samples if isinstance(source.samples, list) else [source.samples[0]]
        for names in {id(sample.categories): sample.categories for sample in samples}.values():
            if names != classes:
                listed = "no categories" if names is None else f"{len(names)} categories ({', '.join(names[:3])} ...)"
                raise ConfigError(
                    f"source {source.name!r} has {listed}, the model {model.name} has {len(classes)} "
                    f"({', '.join(classes[:3])} ...) as its classes: bring the source to that list, or train a model "
                    "with a text encoder, which needs no common list"
                )


def criterion(recipe: Recipe, model: Model) -> Criterion:
    """The loss of classes for a model with fixed categories, of words for any other."""
    if model.categories is not None:
        return ClosedSetCriterion(coder=model.coder)
    grounding = GroundingCriterion(coder=model.coder)
    return ContrastCriterion(grounding, model) if recipe.contrast else grounding  # type: ignore[arg-type]


def describe_mixture(recipe: Recipe, model: Model, folder: Path | None) -> dict[str, Any]:
    """What a plan says of the data: samples and shares of the sources, epochs, the size of an image.

    Args:
        recipe: Its sources and transforms.
        model: Says how images are prepared.
        folder: Gets the first batch as images; None: none are drawn.

    Returns:
        JSON values; where the data are missing `data_missing` says which.
    """
    mixture = None
    described: dict[str, Any] = {}
    try:
        mixture = Mixture(recipe.sources(recipe), recipe.seed)
        described |= {
            "samples": {source.name: len(source.samples) for source in mixture.sources},
            "share": mixture.share(),
            "epochs": round(recipe.steps * recipe.batch_size / len(mixture.rows(0)), 2),
        }
        if folder is not None:
            described["first_batch"] = first_batch(recipe, mixture, folder)
    except DataError as error:
        described["data_missing"] = str(error)
    return {"picture_size": list(_typical_size(recipe, model, mixture)), **described}


def first_batch(recipe: Recipe, mixture: Mixture, folder: Path) -> list[str]:
    """Draw the first views of a run with their prompts and boxes, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    views = Views(mixture, recipe.transforms)
    files = []
    rows = next(iter(mixture.batches(recipe.batch_size // recipe.accumulate)))
    for i, row in enumerate(rows[:FIRST_VIEWS]):
        path = folder / f"first-batch-{i}.jpg"
        draw_view(views[row].view).convert("RGB").save(path, quality=90)
        files.append(str(path))
    return files


def _typical_size(recipe: Recipe, model: Model, mixture: Mixture | None) -> tuple[int, int]:
    """A 3:4 image after the middle one of the recipe's resizes; without a resize that of the first sample."""
    for transform in recipe.transforms:
        if isinstance(transform, Resize):
            sides = sorted(transform.short_sides)
            return resized_size(480, 640, sides[len(sides) // 2], transform.max_side)
    if mixture is not None:
        return mixture.sources[0].samples[0].size
    return resized_size(480, 640, model.preparation.short_side, model.preparation.max_side)
