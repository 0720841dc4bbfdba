"""`openglip train`: the command; the verb itself is `openglip.train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from openglip.errors import ConfigError
from openglip.runtime import Progress, is_first_process, peak_memory


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
    """Train a recipe in a new folder; under torchrun with many processes. Without RECIPE: list the recipes."""
    from openglip.training.recipes import RECIPES
    from openglip.verbs.train import train

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
    progress = None if quiet else _Console()
    folder = resume or output or Path("runs") / Path(recipe or "").stem
    try:
        run = train(recipe, output, settings=changes, resume=resume, device=device, progress=progress)
    except KeyboardInterrupt:
        print(f"go on with: openglip train --resume {folder}", file=sys.stderr)
        raise
    result = {"output": str(folder), "steps": run.steps, "skipped": run.skipped}
    if run.best_step:
        result |= {"best": run.best, "best_step": run.best_step}
    if is_first_process():
        print(json.dumps(result) if as_json else f"{folder}/model.safetensors: {run.steps} steps")


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text}: write KEY=VALUE")
    return key, value


def _dry_run(name: str, changes: Mapping[str, str], output: Path | None, device: str, as_json: bool) -> None:
    from openglip.runtime import pick_device
    from openglip.training.plan import plan, plan_text
    from openglip.training.run import find_recipe
    from openglip.verbs.train import evaluation_of

    recipe = find_recipe(name, changes)
    if recipe.evaluate_every:
        evaluation_of(recipe)
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: give a folder for the plan's images")
    described = plan(recipe, pick_device(device), None if output is None else output / "plan")
    print(json.dumps(described) if as_json else plan_text(described))


class _Console:
    """Lines of progress on stderr: loss, rate, time left, memory, share of the time spent waiting for data."""

    def __init__(self, every: float = 5.0) -> None:
        self.every, self.spent, self.waited, self.images, self.steps = every, 0.0, 0.0, 0.0, 0

    def __call__(self, progress: Progress) -> None:
        figures, step, steps = progress.figures, progress.done, progress.total or progress.done
        if progress.message == "evaluation":
            shown = (f"{name} {100 * value:.1f}" for name, value in figures.items() if name != "seconds")
            self._print(f"step {step}: " + ", ".join(shown))
            return
        self.spent += figures["seconds"]
        self.waited += figures["seconds_waiting"]
        self.images += figures["images"]
        self.steps += 1
        if self.spent < self.every and step > 1:
            return
        loss = f"{figures['loss']:.3f}" if "loss" in figures else "not finite"
        self._print(
            f"step {step}/{steps}  loss {loss}  lr {figures['lr']:.1e}  "
            f"{self.images / self.spent:.1f} images/s  {_duration((steps - step) * self.spent / self.steps)} left  "
            f"{peak_memory() / 2**30:.1f} GB  {100 * self.waited / self.spent:.0f} % waiting for data"
        )
        self.spent, self.waited, self.images, self.steps = 0.0, 0.0, 0.0, 0

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02} min" if hours else f"{rest // 60} min {rest % 60:02} s"
