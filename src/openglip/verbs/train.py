"""`openglip.train`: joins training, evaluation and prediction, which do not import each other."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openglip.errors import ConfigError
from openglip.files import StrPath
from openglip.runtime import Progress

if TYPE_CHECKING:
    from openglip.predict.detector import Detector
    from openglip.training.loop import Evaluate
    from openglip.training.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: Holds logs, checkpoints and weights.
        steps: Steps done.
        skipped: Steps that were skipped because loss or gradients were not finite.
        figures: Of the last evaluation, by name; empty without one.
        best: The best value of the recipe's figure `best`; None without an evaluation.
        best_step: The step of that evaluation.
        recipe: The resolved recipe.
    """

    folder: Path
    steps: int
    skipped: int
    figures: Mapping[str, float]
    best: float | None
    best_step: int | None
    recipe: Recipe = field(repr=False)

    def load(self, *, best: bool = False, device: str = "auto") -> Detector:
        """A detector with the run's weights.

        Args:
            best: Take the weights of the best evaluation instead of the last ones.
            device: "auto" (CUDA where there is one, else the CPU), or a device of torch.

        Raises:
            WeightsError: There are no such weights.
        """
        from openglip.predict.detector import Detector
        from openglip.training.run import load_weights

        return Detector(load_weights(self.recipe, self.folder, best=best), device=device)


def train(
    recipe: str | Recipe | None = None,
    output: StrPath | None = None,
    *,
    settings: Mapping[str, object] | None = None,
    resume: StrPath | None = None,
    evaluate: Evaluate | None = None,
    device: str = "auto",
    progress: Callable[[Progress], None] | None = None,
    report: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> Run:
    """Train a recipe in a new folder, or go on with a run.

    Args:
        recipe: A recipe's name, a Python file with a function `recipe()`, or a `Recipe`. With `resume` only a `Recipe`
            from which that run was started in Python.
        output: The run's folder; None: runs/NAME.
        settings: Fields of the recipe to change.
        resume: Folder of the run to go on with.
        evaluate: Function of a model that returns figures by name; None: as the recipe says (`val`, `validation`).
        device: "auto" (CUDA where there is one, else the CPU), or a device of torch.
        progress: Called after each step, and after each evaluation with the message "evaluation", with a `Progress`
            whose figures are the numbers of the log's line.
        report: Deprecated, removed in 0.3; use `progress`.

    Returns:
        The finished run.

    Raises:
        ConfigError: The recipe or a field is unknown, or `output` holds a run.
        TrainingError: The loss is not finite ten times in a row.
    """
    from openglip.training import run

    if report is not None:
        warnings.warn("report is deprecated and will be removed in 0.3: use progress", DeprecationWarning, stacklevel=2)
    if resume is not None:
        if isinstance(recipe, str) or settings or output is not None:
            raise ConfigError("name a recipe, or give the folder of a run to resume, not both")
        folder, resolved = Path(resume), run.resume(resume, recipe)
    elif recipe is None:
        raise ConfigError("name a recipe, or give the folder of a run to resume")
    else:
        name = Path(recipe).stem if isinstance(recipe, str) else recipe.name
        folder = Path(output) if output is not None else Path("runs") / name
        resolved = run.start(recipe, folder, settings)
    if evaluate is None and resolved.evaluate_every:
        evaluate = evaluation_of(resolved)

    def report_line(kind: str, line: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        done = numbers.pop("step")
        total = numbers.pop("steps", resolved.steps)
        if progress:
            progress(Progress(int(done), int(total), "steps", "" if kind == "train" else kind, numbers))
        if report:
            report(kind, line)

    counters = run.train(resolved, folder, evaluate=evaluate, device=device, report=report_line)
    return Run(
        folder,
        counters.step,
        counters.skipped,
        _last_figures(folder),
        counters.best if counters.best_step else None,
        counters.best_step or None,
        resolved,
    )


def _last_figures(folder: Path) -> dict[str, float]:
    """The figures of a run's last evaluation, from its log."""
    from openglip.training.logs import EVALUATIONS

    path = folder / EVALUATIONS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if not lines:
        return {}
    return {name: value for name, value in json.loads(lines[-1]).items() if name not in ("step", "seconds")}


def evaluation_of(recipe: Recipe) -> Evaluate | None:
    """What judges a model during training: `val`, else the recipe's `validation`, else COCO val in `data`, if present.

    Raises:
        ConfigError: It has no figure `best`.
        DataError: Its files can't be used.
    """
    from openglip.evaluation.coco import FIGURES
    from openglip.training.settings import nearest
    from openglip.verbs import training_figures

    validation = recipe.validation(recipe) if recipe.validation is not None and recipe.val is None else None
    names = FIGURES if validation is None else tuple(validation.figures)
    if recipe.best not in names:
        raise ConfigError(f"the evaluation has no figure {recipe.best!r} (best): {nearest(recipe.best, names)}")
    if validation is not None:
        return training_figures.on_samples(validation)
    if recipe.val is not None:
        return training_figures.on_coco(recipe.val, recipe.val_images)
    coco = Path(recipe.data) / "coco"
    annotations = coco / "annotations" / "instances_val2017.json"
    return training_figures.on_coco(annotations, coco / "val2017") if annotations.is_file() else None
