"""`openglip.train`: the verb, put together above training and evaluation, which do not know each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openglip.errors import ConfigError

if TYPE_CHECKING:
    from openglip.training.loop import Evaluate, Progress
    from openglip.training.recipe import Recipe


def train(
    recipe: str | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    settings: Mapping[str, object] | None = None,
    resume: str | os.PathLike[str] | None = None,
    evaluate: Evaluate | None = None,
    device: str = "auto",
    report: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> Progress:
    """Train a recipe, by name or Python file, in a new folder; or go on with the run in the folder `resume`.

    output: default runs/NAME. settings: fields of the recipe to change. evaluate: takes the model, gives figures; None:
    the recipe's own, where it has one. report: called with ("train" or "evaluation", line) for each line of the logs.
    Raises ConfigError for unknown recipes and fields and for an output that holds a run.
    """
    from openglip.training import run

    if (recipe is None) == (resume is None):
        raise ConfigError("name a recipe, or give the folder of a run to resume")
    if resume is not None:
        folder, found = Path(resume), run.resume(resume)
    else:
        assert recipe is not None
        folder = Path(output) if output is not None else Path("runs") / Path(recipe).stem
        found = run.start(recipe, folder, settings)
    if evaluate is None and found.evaluate_every:
        evaluate = evaluation_of(found)
    return run.train(found, folder, evaluate=evaluate, device=device, report=report)


def evaluation_of(recipe: Recipe) -> Evaluate | None:
    """What judges a model during training: the recipe's `val`; for `debug` pictures of its own; for COCO its val.

    Raises ConfigError when it can't give the figure `best`.
    """
    from openglip.evaluation.coco import FIGURES
    from openglip.training.recipe import nearest
    from openglip.verbs import training_figures as figures

    on_shapes = recipe.name == "debug" and recipe.val is None
    known = figures.SHAPES_FIGURES if on_shapes else FIGURES
    if recipe.best not in known:
        raise ConfigError(f"the evaluation gives no figure {recipe.best!r} (best): {nearest(recipe.best, known)}")
    if on_shapes:
        return figures.on_shapes()
    if recipe.val is not None:
        return figures.on_coco(recipe.val, recipe.val_images)
    annotations = Path(recipe.data) / "coco" / "annotations" / "instances_val2017.json"
    if annotations.is_file():
        return figures.on_coco(annotations, Path(recipe.data) / "coco" / "val2017")
    return None
