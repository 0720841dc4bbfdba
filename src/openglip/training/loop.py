"""The training loop, top to bottom: data, forward, backward, step; then log, evaluate, save.

A run is a function of its recipe and its data: what is random in a step follows from (seed, step, process), and the
data from a count of batches. So a run that is killed and resumed is, on a CPU, the undisturbed run bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from openglip.errors import ConfigError, TrainingError
from openglip.model.contract import Model
from openglip.runtime import from_first_rank, mean_over_ranks, pick_precision, rank, world_size
from openglip.training.assign import Targets, assign_batches
from openglip.training.batches import Batch
from openglip.training.logs import Logs, finite, step_line
from openglip.training.losses import Criterion
from openglip.training.optim import train_mode
from openglip.training.recipe import Recipe
from openglip.training.state import Counters, RunState
from openglip.weights.metadata import RUN_FILE

logger = logging.getLogger(__name__)

Evaluate = Callable[[nn.Module], Mapping[str, float]]
"""Returns figures of a model."""
Report = Callable[[str, Mapping[str, Any]], None]
"""Receives every line of the logs, after its kind: "train" or "evaluation"."""
MAX_BAD_STEPS = 10


def fit(
    model: Model,
    criterion: Criterion,
    batches: Callable[[int], Iterator[Batch]],
    recipe: Recipe,
    folder: Path,
    *,
    evaluate: Evaluate | None = None,
    report: Report | None = None,
) -> Counters:
    """Train a model, from the newest checkpoint in `folder` if there is one.

    Args:
        model: On its device.
        criterion: The loss.
        batches: Returns this process's batches from a number on, without end.
        recipe: The settings.
        folder: Of the run; gets logs, checkpoints and weights.
        evaluate: Returns figures of the model; called on the first process.
        report: Called on the first process with every line of the logs.

    Raises:
        TrainingError: Ten steps in a row have a loss that is not finite.
    """
    state = RunState(model, recipe)
    state.restore(folder)
    counters = state.counters
    precision = recipe.precision if recipe.precision == "fp16" else pick_precision(recipe.precision, state.device)
    logs = Logs(folder, counters.step) if rank() == 0 else None
    network: nn.Module = DistributedDataParallel(state.model) if world_size() > 1 else state.model
    stream = batches(counters.step * recipe.accumulate)
    train_mode(state.model)

    while counters.step < recipe.steps:
        began = time.perf_counter()
        small = [next(stream).to(state.device) for _ in range(recipe.accumulate)]
        waited = time.perf_counter() - began
        _seed_draws(recipe.seed, counters.step)
        lr = state.set_rates()
        targets = assign_batches(model.anchors, small)
        terms, bad = _backward(network, criterion, small, targets, state.scaler, precision)
        norm = math.nan
        if bad is None:
            norm = state.apply_gradients()
            bad = None if math.isfinite(norm) else "gradient"
        _count_skips(counters, bad, small, stop=not (bad == "gradient" and state.scaler_is_settling()))
        state.finish_step(skipped=bad is not None)

        if logs is not None:
            seconds = time.perf_counter() - began
            line = step_line(counters.step, terms, bad, lr, norm, small, seconds, waited)
            logs.step(line)
            if report:
                report("train", line | {"steps": recipe.steps})
        last = counters.step == recipe.steps
        if evaluate and recipe.evaluate_every and (counters.step % recipe.evaluate_every == 0 or last):
            _evaluate(state, evaluate, folder, logs, report)
        # not amid skipped steps: what follows them may stop the run, and older checkpoints are removed
        if logs is not None and ((counters.step % recipe.checkpoint_every == 0 and not counters.in_a_row) or last):
            logs.to_disk()
            state.save(folder)

    if logs is not None:
        logs.close()
        state.export(folder / RUN_FILE)
    return counters


def _backward(
    network: nn.Module,
    criterion: Criterion,
    small: Sequence[Batch],
    targets: Sequence[Targets],
    scaler: Any,
    precision: str,
) -> tuple[dict[str, float], str | None]:
    """Add up the gradients of a step's small batches; return the mean terms, and the first that is not finite.

    A loss that is not finite on any process stops all of them before its backward pass.
    """
    totals: dict[str, float] = {}
    for i, (batch, batch_targets) in enumerate(zip(small, targets, strict=True)):
        synchronises = i == len(small) - 1 or not isinstance(network, DistributedDataParallel)
        with contextlib.nullcontext() if synchronises else network.no_sync():  # type: ignore[operator]
            losses = batch_losses(network, criterion, batch, batch_targets, precision)
            values = mean_over_ranks(torch.stack([value.detach() for value in losses.values()])).tolist()
            for term, value in zip(losses, values, strict=True):
                totals[term] = totals.get(term, 0.0) + value
            bad = next((term for term, value in totals.items() if not math.isfinite(value)), None)
            if bad is not None:
                return totals, bad
            scaler.scale(torch.stack(list(losses.values())).sum()).backward()
    return totals, None


def batch_losses(
    network: nn.Module, criterion: Criterion, batch: Batch, targets: Targets, precision: str = "fp32"
) -> dict[str, Tensor]:
    """The terms of one batch: the network in its precision, the loss in float32."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.autocast(batch.images.device.type, dtype=half, enabled=half is not None):
        outputs = network(batch.images, batch.ids, batch.mask)
    return criterion(outputs, batch, targets)


def _seed_draws(seed: int, step: int) -> None:
    """Dropout and the like depend on seed, step and process alone, whatever an evaluation has drawn."""
    state = np.random.SeedSequence([seed, step, rank()]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state) >> 1)


def _count_skips(counters: Counters, bad: str | None, small: Sequence[Batch], *, stop: bool) -> None:
    if bad is None:
        counters.in_a_row = 0
        return
    counters.skipped += 1
    counters.in_a_row += 1
    images = [
        f"{source}:{image}" for batch in small for source, image in zip(batch.sources, batch.image_ids, strict=True)
    ]
    logger.warning("step %d skipped: %s is not finite; images: %s", counters.step + 1, bad, ", ".join(images))
    if counters.in_a_row >= MAX_BAD_STEPS and stop:
        raise TrainingError(
            f"{bad} is not finite for {MAX_BAD_STEPS} steps in a row, the last is step {counters.step + 1} with the "
            f"images {', '.join(images)}: lower lr, or lengthen warmup; the last checkpoint is from before these steps"
        )


def _evaluate(state: RunState, evaluate: Evaluate, folder: Path, logs: Logs | None, report: Report | None) -> None:
    """Evaluate on the first process; all processes know the figures, which decide the rate and the best weights."""
    began = time.perf_counter()
    recipe, counters = state.recipe, state.counters
    figures: dict[str, float] = {}
    if rank() == 0:
        state.model.eval()
        with state.evaluated_weights(), torch.no_grad():
            figures = {name: float(value) for name, value in evaluate(state.model).items()}
        train_mode(state.model)
    figures = from_first_rank(figures, state.device)  # type: ignore[assignment]
    if recipe.best not in figures:
        raise ConfigError(
            f"the evaluation has no figure {recipe.best!r}, but {', '.join(figures)}: set best to one of them (to go "
            f"on with this run, in {folder}/recipe.json)"
        )
    is_best = state.judge(figures[recipe.best])
    if logs is not None:
        if is_best:
            state.export(folder / "best.safetensors")
        line = {"step": counters.step, **{name: finite(value) for name, value in figures.items()}}
        line["seconds"] = time.perf_counter() - began
        logs.evaluation(line)
        if report:
            report("evaluation", line)
