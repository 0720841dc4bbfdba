"""What a run changes as it goes: weights, optimizer, schedule, average and counters; saved, restored and exported."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openglip.errors import ConfigError
from openglip.model.contract import Model
from openglip.runtime import from_first_rank, rank
from openglip.training import checkpoint, contrast
from openglip.training.optim import (
    Average,
    Cosine,
    Plateau,
    Schedule,
    Steps,
    decay_factor,
    freeze,
    parameter_groups,
    set_rates,
)
from openglip.training.recipe import Recipe
from openglip.weights.files import write_safetensors

logger = logging.getLogger(__name__)


@dataclass
class Counters:
    """How far a run has come.

    Attributes:
        step: Steps done, skipped ones included.
        skipped: Steps skipped.
        in_a_row: Steps skipped since the last good one.
        best: The best value of `figure` so far.
        best_step: The step of that evaluation; 0: none yet.
        figure: Name of the figure that decides.
    """

    step: int = 0
    skipped: int = 0
    in_a_row: int = 0
    best: float = -math.inf
    best_step: int = 0
    figure: str = ""


class RunState:
    """The changing state of a run, from its recipe's start or from a checkpoint.

    Args:
        model: On its device.
        recipe: The run's settings.
    """

    def __init__(self, model: Model, recipe: Recipe) -> None:
        assert isinstance(model, nn.Module)
        self.model, self.recipe = model, recipe
        self.device = next(model.parameters()).device
        freeze(model, recipe.frozen)
        lr_of = dict(recipe.lr_of) | ({} if recipe.text_lr is None else {"language_backbone.": recipe.text_lr})
        groups = parameter_groups(model.named_parameters(), recipe.lr, recipe.weight_decay, lr_of, recipe.bias_factor)
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.schedule = make_schedule(recipe)
        self.average = Average(model, recipe.average, recipe.average_warmup) if recipe.average else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")  # type: ignore[attr-defined]
        self.counters = Counters()

    def set_rates(self) -> float:
        """Set the learning rate and weight decay of the next step, and return the first group's rate."""
        decay = 1.0
        if self.recipe.decay_schedule:
            assert isinstance(self.schedule, Steps)
            decay = decay_factor(self.counters.step, self.schedule.milestone_steps())
        return set_rates(self.optimizer, self.schedule, self.counters.step, decay)

    def apply_gradients(self) -> float:
        """Clip the gradients and step, unless they are not finite; return their norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        parameters = list(self.model.parameters())
        norm = nn.utils.clip_grad_norm_(parameters, self.recipe.clip or math.inf).item()
        if math.isfinite(norm) or self.scaler.is_enabled():  # the scaler skips by itself, and lowers its factor
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return norm

    def scaler_is_settling(self) -> bool:
        """Whether gradients in float16 may still overflow because the loss's factor has to fall first."""
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1

    def finish_step(self, *, skipped: bool) -> None:
        """Drop the gradients, follow with the average, count."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None and not skipped:
            self.average.update(self.model, self.counters.step)
        self.counters.step += 1

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """A context in which the model has the weights that are evaluated and exported."""
        return self.average.in_place_of(self.model) if self.average and self.recipe.use_average else nullcontext()

    def judge(self, value: float) -> bool:
        """Take note of an evaluation's deciding figure; return whether it is the best so far."""
        counters = self.counters
        if not math.isfinite(value):
            logger.warning("step %d: %s is %s: it can't be the best model", counters.step, counters.figure, value)
        if isinstance(self.schedule, Plateau):
            self.schedule.observe(value, counters.step)
        if value > counters.best:
            counters.best, counters.best_step = value, counters.step
            return True
        return False

    def save(self, folder: Path) -> None:
        """Write a checkpoint of this step."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": asdict(self.schedule) if isinstance(self.schedule, Plateau) else {},
            "average": self.average.state if self.average else {},
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.counters),
        }
        checkpoint.save(folder / "checkpoints", self.counters.step, state, self.recipe.keep)

    def restore(self, folder: Path) -> None:
        """Go on from the newest checkpoint in a run's folder, if it has one.

        Raises:
            ConfigError: The recipe was changed so that the checkpoint does not fit it.
        """
        newest = checkpoint.newest(folder / "checkpoints")
        step = newest[0] if newest else 0
        if from_first_rank(step, self.device) != step:
            raise ConfigError(
                f"process {rank()} finds other checkpoints in {folder} than the first: all need one folder"
            )
        if newest is not None:
            self._load(newest[1], folder)
        self._judge_by(self.recipe.best)

    def _load(self, state: dict[str, Any], folder: Path) -> None:
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ConfigError(
                f"{folder}/recipe.json builds another model than its checkpoint holds (model, contrast): put it back "
                f"as it was, or start a new run with the weights of {folder}. {error}"
            ) from error
        rates = [{key: group[key] for key in ("base_lr", "base_decay")} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise ConfigError(
                f"{folder}/recipe.json trains other parameters than its checkpoint (frozen, lr_of, text_lr): {error}"
            ) from error
        for group, recipe_rates in zip(self.optimizer.param_groups, rates, strict=True):
            group.update(recipe_rates)  # those of the recipe, which may have been changed
        if self.average and state["average"].keys() != self.average.state.keys():
            raise ConfigError(f"{folder}/recipe.json asks for an average, its checkpoint holds none")
        self.scaler.load_state_dict(state["scaler"])
        for key, value in state["schedule"].items():
            setattr(self.schedule, key, value)
        if self.average:
            for key, value in state["average"].items():
                self.average.state[key].copy_(value)
        self.counters = Counters(**state["progress"])

    def _judge_by(self, figure: str) -> None:
        """Forget the best value of a run that was judged by another figure: the values can't be compared."""
        counters = self.counters
        if counters.figure not in ("", figure):
            logger.warning(
                "The selection metric changed from %s to %s; earlier best values are discarded", counters.figure, figure
            )
            counters.best, counters.best_step = -math.inf, 0
            if isinstance(self.schedule, Plateau):
                self.schedule.best, self.schedule.bad = -math.inf, 0
        counters.figure = figure

    def export(self, path: Path) -> None:
        """Write the weights that are evaluated as a checkpoint for `openglip.load`."""
        recipe = self.recipe
        weights = self.average.state if self.average and recipe.use_average else self.model.state_dict()
        weights = {key: value for key, value in weights.items() if not key.startswith(contrast.KEYS)}
        info: dict[str, Any] = {"model": self.model.name, "recipe": recipe.name}
        info |= {"step": self.counters.step, "data": recipe.data}
        info |= {"sub_sentences": True} if recipe.sub_sentences else {}
        if self.counters.best_step:
            info |= {"best": {recipe.best: self.counters.best, "step": self.counters.best_step}}
        write_safetensors(path, weights, info)


def make_schedule(recipe: Recipe) -> Schedule:
    """The schedule that a recipe names."""
    if recipe.schedule == "cosine":
        return Cosine(recipe.steps, recipe.warmup, recipe.warmup_factor)
    if recipe.schedule == "plateau":
        return Plateau(recipe.patience, recipe.gamma, recipe.warmup, recipe.warmup_factor)
    return Steps(recipe.steps, recipe.milestones, recipe.gamma, recipe.warmup, recipe.warmup_factor)
