"""From a recipe to a finished run in a folder, and to the run that goes on after a kill."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from openglip.errors import ConfigError, OpenGLIPError
from openglip.files import StrPath, folder_lock, whole_file
from openglip.model.contract import Model
from openglip.runtime import is_first_process, pick_device, process_group, rank, world_size
from openglip.training.logs import STEPS
from openglip.training.loop import Evaluate, Report, fit
from openglip.training.recipe import Recipe
from openglip.training.recipes import RECIPES
from openglip.training.settings import settings_of, to_json, with_settings
from openglip.training.state import Counters
from openglip.training.trackers import trackers
from openglip.weights.files import read_checkpoint
from openglip.weights.load import load_state
from openglip.weights.metadata import RUN_FILE

logger = logging.getLogger(__name__)

RECIPE_FILE = "recipe.json"
BEST_FILE = "best.safetensors"


def find_recipe(name: str, settings: Mapping[str, object] | None = None) -> Recipe:
    """A recipe by its name, or from the function `recipe()` of a Python file.

    Args:
        name: A recipe's name or a file's path. A file may import modules from its folder, as a script does.
        settings: Fields to change.

    Raises:
        ConfigError: There is no such recipe or field.
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


def start(recipe: str | Recipe, output: StrPath, settings: Mapping[str, object] | None = None) -> Recipe:
    """Open a new run's folder and write its `recipe.json`; of several processes the first does.

    Args:
        recipe: A recipe's name, a Python file, or a `Recipe`, which is needed again to resume the run.
        output: The run's folder.
        settings: Fields to change.

    Returns:
        The resolved recipe.

    Raises:
        ConfigError: The folder holds a run. One that made no step is no run yet.
    """
    if isinstance(recipe, Recipe):
        resolved, origin = with_settings(recipe, settings or {}), None
    else:
        resolved = find_recipe(recipe, settings)
        origin = str(Path(recipe).resolve()) if recipe.endswith(".py") else recipe
    if not is_first_process():
        return resolved
    folder = Path(output)
    log = folder / STEPS
    if any((folder / "checkpoints").glob("step-*")) or (log.is_file() and log.stat().st_size):
        raise ConfigError(f"{folder} holds a run already: continue it with --resume {folder}, or give another --output")
    with _only_run(folder), whole_file(folder / RECIPE_FILE) as file:
        file.write(json.dumps({"recipe": origin, **to_json(resolved)}, indent=1) + "\n")
    return resolved


def resume(folder: StrPath, recipe: Recipe | None = None) -> Recipe:
    """The recipe of a run that was started in a folder.

    Args:
        folder: The run's folder.
        recipe: The `Recipe` that it was started with, if it was started with one in Python.

    Raises:
        ConfigError: The folder holds no run, or the recipe is needed.
    """
    path = Path(folder) / RECIPE_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} holds no run: it has no {RECIPE_FILE}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        name = fields.pop("recipe")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a recipe that this program wrote: {error}") from error
    if recipe is not None:
        return with_settings(recipe, fields)
    if name is None:
        raise ConfigError(f"the run in {folder} was started with a Recipe in Python: resume it with that Recipe")
    return find_recipe(name, fields)


def load_weights(recipe: Recipe, folder: StrPath, *, best: bool = False) -> Model:
    """The model of a recipe with the weights of its run.

    Args:
        recipe: The run's recipe.
        folder: The run's folder.
        best: Take the weights of the best evaluation instead of the last ones.

    Raises:
        WeightsError: There are no such weights, or they are of another model.
    """
    path = Path(folder) / (BEST_FILE if best else RUN_FILE)
    model = recipe.build_model(recipe)
    assert isinstance(model, nn.Module)
    load_state(model, read_checkpoint(path).state, str(path))
    return model.eval().requires_grad_(False)


def train(
    recipe: Recipe,
    output: StrPath,
    *,
    evaluate: Evaluate | None = None,
    device: str = "auto",
    report: Report | None = None,
) -> Counters:
    """Train a recipe in a folder, from its newest checkpoint if it has one; under `torchrun` on all its processes.

    Args:
        recipe: The recipe.
        output: The run's folder.
        evaluate: Returns figures of a model, every `evaluate_every` steps.
        device: "auto", or a device of torch.
        report: Receives every line of the logs.

    Raises:
        ConfigError: A setting does not suit the data, the model or the processes.
    """
    if evaluate is None and recipe.schedule == "plateau":
        raise ConfigError('schedule="plateau" follows evaluations: set val, or pass evaluate')
    if recipe.evaluate_every and evaluate is None:
        logger.warning("evaluate_every is %d, but there is nothing to evaluate on: set val", recipe.evaluate_every)
    if evaluate is not None and not recipe.evaluate_every:
        logger.warning("evaluate is never called: evaluate_every is 0")
    folder = Path(output)
    with process_group(pick_device(device)) as process_device, _only_run(folder):
        _check_shares(recipe)
        model = recipe.load_start(recipe, recipe.build_model(recipe)).to(process_device)
        batches = recipe.batches(recipe, model, folder)
        tracks = trackers(recipe.trackers, folder, to_json(recipe)) if rank() == 0 else []

        def report_line(kind: str, line: Mapping[str, Any]) -> None:
            for track in tracks:
                track(kind, line["step"], line)
            if report:
                report(kind, line)

        criterion = recipe.criterion(recipe, model)
        return fit(model, criterion, batches, recipe, folder, evaluate=evaluate, report=report_line)


def _check_shares(recipe: Recipe) -> None:
    shares = world_size() * recipe.accumulate
    if recipe.batch_size % shares:
        raise ConfigError(
            f"batch_size {recipe.batch_size} can't be shared by {world_size()} processes with accumulate "
            f"{recipe.accumulate}: make it a multiple of {shares}"
        )


@contextmanager
def _only_run(folder: Path) -> Iterator[None]:
    """`folder_lock`, taken by the first of several processes."""
    with folder_lock(folder) if rank() == 0 else nullcontext():
        yield


def _from_file(path: Path) -> Recipe:
    if not path.is_file():
        raise ConfigError(f"there is no recipe file {path}")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)  # as for a script; processes that read data need it too, so it stays
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
        place = f"{path}, line {lines[-1]}" if lines else path
        raise ConfigError(f"{place}: {type(error).__name__}: {error}") from error
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"{path} has no function recipe() that returns an openglip.training.recipe.Recipe")
    return with_settings(recipe, settings_of(recipe))  # names the field that has a value of another type
