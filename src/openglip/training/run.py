"""From a recipe to a finished run in a folder: model, data, loop; and to the run that goes on after a kill."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openglip.data.mixtures import Mixture
from openglip.errors import ConfigError, OpenGLIPError
from openglip.files import folder_lock, whole_file
from openglip.model.contrast import RegionWords
from openglip.model.glip import GLIP
from openglip.model.recompute import recompute_blocks
from openglip.runtime import is_first_process, pick_device, process_group, rank, world_size
from openglip.training import nano
from openglip.training.batches import Batch, batch_stream
from openglip.training.logs import STEPS
from openglip.training.loop import Criterion, Evaluate, Progress, Report, fit
from openglip.training.losses import ClosedSetCriterion, GroundingCriterion
from openglip.training.pretrained import load_parts
from openglip.training.recipe import Recipe, settings_of, to_json, with_settings
from openglip.training.recipes import RECIPES
from openglip.training.trackers import trackers
from openglip.weights.files import read_checkpoint
from openglip.weights.keys import from_official
from openglip.weights.load import load_state, model_builder

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.json"


def find_recipe(name: str, settings: Mapping[str, object] | None = None) -> Recipe:
    """A recipe by its name, or from the function `recipe()` of a Python file, with fields changed.

    Raises ConfigError for an unknown recipe or field.
    """
    if name.endswith(".py"):
        recipe = _from_file(Path(name))
    elif name in RECIPES:
        recipe = RECIPES[name]()
    else:
        raise ConfigError(
            f"there is no recipe {name!r}: {', '.join(RECIPES)}, or a Python file with a function recipe()"
        )
    return with_settings(recipe, settings or {})


def start(name: str, output: str | os.PathLike[str], settings: Mapping[str, object] | None = None) -> Recipe:
    """Open a new run's folder and write its `recipe.json`; of several processes the first does.

    Raises ConfigError when the folder holds a run. One that made no step, as its data were not there, is no run yet.
    """
    recipe, folder = find_recipe(name, settings), Path(output)
    if not is_first_process():
        return recipe
    log = folder / STEPS
    if any((folder / "checkpoints").glob("step-*")) or (log.is_file() and log.stat().st_size):
        raise ConfigError(f"{folder} holds a run already: continue it with --resume {folder}, or give another --output")
    where = str(Path(name).resolve()) if name.endswith(".py") else name
    with _only_run(folder), whole_file(folder / RECIPE_FILE) as file:
        file.write(json.dumps({"recipe": where, **to_json(recipe)}, indent=1) + "\n")
    return recipe


def resume(folder: str | os.PathLike[str]) -> Recipe:
    """The recipe of a run that was started in a folder. Raises ConfigError when there is none."""
    path = Path(folder) / RECIPE_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} holds no run: it has no {RECIPE_FILE}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        name = fields.pop("recipe")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a recipe that this program wrote: {error}") from error
    return find_recipe(name, fields)


def train(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    evaluate: Evaluate | None = None,
    device: str = "auto",
    report: Report | None = None,
) -> Progress:
    """Train a recipe in a folder, from its newest checkpoint if it has one; under `torchrun` on all its processes."""
    if evaluate is None and recipe.schedule == "plateau":
        raise ConfigError('schedule="plateau" follows evaluations: set val, or hand in evaluate')
    if recipe.evaluate_every and evaluate is None:
        logger.warning("evaluate_every is %d, but nothing to evaluate with is handed in", recipe.evaluate_every)
    if evaluate is not None and not recipe.evaluate_every:
        logger.warning("evaluate is handed in, but evaluate_every is 0: it is never called")
    with process_group(pick_device(device)) as own_device, _only_run(Path(output)):
        model = new_model(recipe).to(own_device)
        batches = batches_of(recipe, model, own_device, Path(output))
        tracks = trackers(recipe.trackers, Path(output), to_json(recipe)) if rank() == 0 else []

        def tell(kind: str, line: Mapping[str, Any]) -> None:
            for track in tracks:
                track(kind, line["step"], line)
            if report:
                report(kind, line)

        return fit(model, criterion_of(recipe, model), batches, recipe, Path(output), evaluate=evaluate, report=tell)


@contextmanager
def _only_run(folder: Path) -> Iterator[None]:
    """`folder_lock`, taken by the first of several processes."""
    with folder_lock(folder) if rank() == 0 else nullcontext():
        yield


def initial_model(recipe: Recipe) -> Any:
    """The recipe's model, initialised from its seed. Raises ConfigError for an unknown model."""
    build = model_builder(recipe.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model: Any = nano.NanoInTraining() if isinstance(recipe, nano.NanoRecipe) else build()
        if not (recipe.sub_sentences or recipe.contrast):
            return model
        if not isinstance(model, GLIP) or model.categories:
            raise ConfigError(f"sub_sentences and contrast are for models of words, not {recipe.model}")
        return model.use_sub_sentences() if recipe.sub_sentences else model


def new_model(recipe: Recipe) -> Any:
    """The recipe's model with the weights that it starts from."""
    model = initial_model(recipe)
    if isinstance(recipe, nano.NanoRecipe):
        return nano.start(model, recipe)
    load_parts(model, recipe.start, Path(recipe.data))
    if recipe.weights:
        found = read_checkpoint(recipe.weights)
        load_state(model, from_official(found.state)[0] if found.official else found.state, recipe.weights)
    if recipe.contrast:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model.contrast = RegionWords(model.head.cls_logits.in_channels, model.head.text_dim, recipe.contrast)
    if recipe.recompute:
        recompute_blocks(model)
    return model


def criterion_of(recipe: Recipe, model: nn.Module) -> Criterion:
    """Classes for a model with fixed categories, words for any other."""
    if isinstance(recipe, nano.NanoRecipe):
        return nano.criterion(recipe, model)
    return ClosedSetCriterion() if getattr(model, "categories", None) else GroundingCriterion()


def batches_of(recipe: Recipe, model: Any, device: torch.device, folder: Path) -> Callable[[int], Iterator[Batch]]:
    """This process's batches, from a number on. Raises ConfigError when the batch can't be shared out evenly.

    folder: that of the run, for a recipe that keeps its data in a form of its own.
    """
    shares = world_size() * recipe.accumulate
    if recipe.batch_size % shares:
        raise ConfigError(
            f"batch_size {recipe.batch_size} can't be shared by {world_size()} processes with accumulate "
            f"{recipe.accumulate}: make it a multiple of {shares}"
        )
    if isinstance(recipe, nano.NanoRecipe):
        return partial(nano.batches_from, nano.nano_batches(recipe, model, folder), recipe)
    mixture = Mixture(recipe.sources(recipe), recipe.seed)
    _check_categories(mixture, model)

    def batches(number: int) -> Iterator[Batch]:
        return batch_stream(
            mixture,
            recipe.transforms,
            model.preparation,
            recipe.batch_size // shares,
            rank=rank(),
            ranks=world_size(),
            start=number,
            workers=recipe.workers,
            pin_memory=device.type == "cuda",
        )

    return batches


def _check_categories(mixture: Mixture, model: Any) -> None:
    """A model with fixed categories counts them as its data do: labels of several sources share one list.

    Raises ConfigError for a source with another list.
    """
    wanted = getattr(model, "categories", None)
    if wanted is None:
        return
    for source in mixture.sources:
        samples = source.samples if isinstance(source.samples, list) else [source.samples[0]]  # others are made anew
        for own in {id(sample.categories): sample.categories for sample in samples}.values():
            if own != wanted:
                listed = "no categories" if own is None else f"{len(own)} categories ({', '.join(own[:3])} ...)"
                raise ConfigError(
                    f"source {source.name!r} has {listed}, the model {model.name} has {len(wanted)} "
                    f"({', '.join(wanted[:3])} ...) as its classes: bring the source to that list, or train a model of "
                    "words, which needs no common list"
                )


def _from_file(path: Path) -> Recipe:
    if not path.is_file():
        raise ConfigError(f"there is no recipe file {path}")
    spec = importlib.util.spec_from_file_location("openglip_recipe", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        recipe = module.recipe() if callable(getattr(module, "recipe", None)) else None
    except OpenGLIPError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else path
        raise ConfigError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{path} has no function recipe() that returns an openglip.training.recipe.Recipe")
    return with_settings(recipe, settings_of(recipe))  # says which field has a value of another type
