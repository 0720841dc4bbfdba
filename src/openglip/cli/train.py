"""`openglip train`: the command, and the Python function `openglip.train` behind it.

The verb is put together here, above training and evaluation, which don't know each other.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openglip.errors import ConfigError

if TYPE_CHECKING:
    from openglip.train.loop import Evaluate, Progress
    from openglip.train.recipe import Recipe


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
    from openglip.train import run

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
    from openglip.cli import training_figures as figures
    from openglip.evaluation.coco import FIGURES
    from openglip.train.recipe import nearest

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


def command(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="A recipe's name, or a Python file with recipe().")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe; repeat it.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the run. Default: runs/RECIPE.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with the run in this folder.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan: what trains, steps, memory, hours, the first batch.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document at the end.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")] = False,
) -> None:
    """Train a recipe in a folder of its own; under torchrun on many processes. Without RECIPE: list them."""
    from openglip.train.recipes import RECIPES

    if recipe is None and resume is None:
        for name, make in RECIPES.items():
            print(f"{name:18} {(make.__doc__ or '').splitlines()[0]}")
        return
    if resume is not None and (recipe or settings or output or dry_run):
        raise ConfigError("--resume takes the run as it was started: no recipe, --set, --output or --dry-run with it")
    changes = dict(_setting(text) for text in settings or [])
    if dry_run:
        assert recipe is not None
        _dry_run(recipe, changes, output, device, as_json)
        return
    report = None if quiet else _Console()
    folder = resume or output or Path("runs") / Path(recipe or "").stem
    try:
        done = train(recipe, output, settings=changes, resume=resume, device=device, report=report)
    except KeyboardInterrupt:
        print(f"go on with: openglip train --resume {folder}", file=sys.stderr)
        raise
    result = {"output": str(folder), "steps": done.step, "skipped": done.skipped}
    if done.best_step:
        result |= {"best": done.best, "best_step": done.best_step}
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(result) if as_json else f"{folder}/model.safetensors: {done.step} steps")


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text}: write KEY=VALUE")
    return key, value


def _dry_run(name: str, changes: Mapping[str, str], output: Path | None, device: str, as_json: bool) -> None:
    import torch

    from openglip.predict.detector import pick_device
    from openglip.train import run
    from openglip.train.plan import plan, plan_text

    found = run.find_recipe(name, changes)
    if found.evaluate_every:
        evaluation_of(found)
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: give a folder for the plan's pictures")
    pictures = None if output is None else output / "plan"
    with torch.device("meta"):  # its shapes are enough
        model = run.initial_model(found)
    described = plan(found, model, pick_device(device), pictures)
    print(json.dumps(described) if as_json else plan_text(described))


class _Console:
    """Lines of progress on stderr: loss, rate, time left, memory, share of the time spent waiting for data."""

    def __init__(self, every: float = 5.0) -> None:
        self.every, self.spent, self.waited, self.images, self.steps = every, 0.0, 0.0, 0, 0

    def __call__(self, kind: str, line: Mapping[str, Any]) -> None:
        if kind == "evaluation":
            figures = {k: v for k, v in line.items() if k not in ("step", "seconds")}
            self._say(f"step {line['step']}: " + ", ".join(f"{k} {100 * v:.1f}" for k, v in figures.items()))
            return
        self.spent += line["seconds"]
        self.waited += line["seconds_waiting"]
        self.images += line["images"]
        self.steps += 1
        if self.spent < self.every and line["step"] > 1:
            return
        loss = "not finite" if line["loss"] is None else f"{line['loss']:.3f}"
        left = (line["steps"] - line["step"]) * self.spent / self.steps
        self._say(
            f"step {line['step']}/{line['steps']}  loss {loss}  lr {line['lr']:.1e}  "
            f"{self.images / self.spent:.1f} images/s  {_duration(left)} left  {_memory_gb():.1f} GB  "
            f"{100 * self.waited / self.spent:.0f} % waiting for data"
        )
        self.spent, self.waited, self.images, self.steps = 0.0, 0.0, 0, 0

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02} min" if hours else f"{rest // 60} min {rest % 60:02} s"


def _memory_gb() -> float:
    """Peak of the accelerator's memory, or of the process's."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
