"""Groups of parameters, schedules of the learning rate, averaged weights, frozen parameters.

Source: docs/spec.md 8.3, 9.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from openglip.errors import ConfigError


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    weight_decay: float,
    lr_of: Mapping[str, float] | None = None,
    bias_factor: float = 2.0,
) -> list[dict]:
    """Groups for an optimizer by the official rules, one per pair of learning rate and weight decay.

    Parameters with "bias" in their name have no weight decay and another rate. These include the relative position
    tables of Swin and the alignment head's ``bias0`` and ``bias_lang``. Norms are decayed.

    Args:
        parameters: Names and parameters; those that do not train are left out.
        lr: The learning rate.
        weight_decay: The weight decay.
        lr_of: Learning rates of parameters by the beginning of their names.
        bias_factor: Factor of the learning rate of biases.

    Raises:
        ConfigError: A key of `lr_of` is the beginning of no name, or nothing trains.
    """
    lr_of = dict(lr_of or {})
    unused = set(lr_of)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        prefixes = [prefix for prefix in lr_of if name.startswith(prefix)]
        unused.difference_update(prefixes)
        if not parameter.requires_grad:
            continue
        rate, decay = (lr_of[prefixes[0]] if prefixes else lr), weight_decay
        if "bias" in name:
            rate, decay = rate * bias_factor, 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    if unused:
        raise ConfigError(f"no parameter's name begins with {', '.join(map(repr, sorted(unused)))}")
    if not groups:
        raise ConfigError("nothing trains: frozen includes every parameter")
    return [
        {"params": params, "lr": rate, "weight_decay": decay, "base_lr": rate, "base_decay": decay}
        for (rate, decay), params in groups.items()
    ]


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Stop the parameters whose names begin with a prefix from training.

    Raises:
        ConfigError: A prefix is the beginning of no name.
    """
    for prefix in prefixes:
        parameters = [parameter for name, parameter in model.named_parameters() if name.startswith(prefix)]
        if not parameters:
            raise ConfigError(f"can't freeze {prefix!r}: no parameter's name begins with it")
        for parameter in parameters:
            parameter.requires_grad_(False)


def train_mode(model: nn.Module) -> None:
    """Set a model to training mode, and modules in which nothing trains to evaluation mode (no dropout)."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


@dataclass(frozen=True)
class Steps:
    """Linear warm-up, then a factor ``gamma`` at each milestone (a fraction of ``total``, or a step when above 1)."""

    total: int
    milestones: tuple[float, ...] = (0.67, 0.89)
    gamma: float = 0.1
    warmup: int = 2000
    warmup_factor: float = 0.001

    def rate(self, step: int, base: float) -> float:
        """The learning rate of a step, counted from 0."""
        passed = sum(milestone <= step for milestone in self.milestone_steps())
        return base * _warm(step, self.warmup, self.warmup_factor) * self.gamma**passed

    def milestone_steps(self) -> list[int]:
        """The milestones as steps."""
        return [round(m * self.total) if m <= 1 else int(m) for m in self.milestones]


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine from the base rate towards ``floor``.

    Attributes:
        total: Steps of the run.
        warmup: Steps of the warm-up.
        warmup_factor: Factor of the first step's rate.
        floor: The rate at the end.
        official: As the official code, which divides by ``total`` although the curve begins after the warm-up, so that
            it ends above the floor.
    """

    total: int
    warmup: int = 2000
    warmup_factor: float = 0.001
    floor: float = 0.0
    official: bool = False

    def rate(self, step: int, base: float) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return base * _warm(step, self.warmup, self.warmup_factor)
        length = self.total if self.official else max(1, self.total - self.warmup)
        return self.floor + (base - self.floor) * (1 + math.cos(math.pi * (step - self.warmup) / length)) / 2


@dataclass
class Plateau:
    """Linear warm-up, then a factor ``gamma`` after ``patience`` + 1 evaluations in a row without improvement.

    An improvement is more than one part in 10,000. Evaluations during the warm-up do not count; a figure of 0 does. The
    state (best, bad, drops) belongs in a checkpoint.
    """

    patience: int = 3
    gamma: float = 0.1
    warmup: int = 0
    warmup_factor: float = 0.001
    floor: float = 1e-6
    best: float = -math.inf
    bad: int = 0
    drops: int = 0

    def rate(self, step: int, base: float) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return base * _warm(step, self.warmup, self.warmup_factor)
        return max(base * self.gamma**self.drops, min(self.floor, base))

    def observe(self, figure: float, step: int) -> None:
        """Record the figure of an evaluation after ``step`` steps."""
        if step < self.warmup:
            return
        if figure > self.best * 1.0001 or self.best == -math.inf:
            self.best, self.bad = figure, 0
        else:
            self.bad += 1
        if self.bad > self.patience:
            self.bad, self.drops = 0, self.drops + 1


Schedule = Steps | Cosine | Plateau


def _warm(step: int, length: int, factor: float) -> float:
    return factor * (1 - step / length) + step / length if step < length else 1.0


def decay_factor(step: int, milestones: Sequence[int], ratio: float = 0.667, gamma: float = 0.1) -> float:
    """The factor of the weight decay at a step, which falls some time before each milestone (GLIP-L)."""
    return gamma ** sum(step >= milestone * ratio for milestone in milestones)


def set_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, decay: float = 1.0) -> float:
    """Set the rates of all groups for a step, counted from 0, and return that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(step, group["base_lr"])
        group["weight_decay"] = group["base_decay"] * decay
    return optimizer.param_groups[0]["lr"]


class Average:
    """A running average of a model's state: after each step, average = decay x average + (1 - decay) x state.

    Args:
        model: Its state is where the average starts.
        decay: See above.
        warmup: Limits the decay to (n + 1) / (n + 1 + warmup) in step n, counted from 0.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: int = 0) -> None:
        self.decay, self.warmup = decay, warmup
        self.state = {key: value.detach().clone() for key, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int = 0) -> None:
        """Follow the model's state after a step."""
        decay = min(self.decay, (step + 1) / (step + 1 + self.warmup))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:  # counters and index tables have no average
                self.state[key].copy_(value)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """A context in which the model has the averaged state; afterwards its state is restored bit for bit."""
        state = {key: value.detach().clone() for key, value in model.state_dict().items()}
        model.load_state_dict(self.state)
        try:
            yield
        finally:
            model.load_state_dict(state)
