"""The training loop, top to bottom: data, forward, backward, step; then log, evaluate, save.

A run is a function of its recipe and its data: what is random in a step follows from (seed, step, process), and the
data from a count of batches, so that a run that is killed and resumed is, on a CPU, the undisturbed run bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from openglip.errors import ConfigError, DataError, TrainingError
from openglip.runtime import from_first_rank, mean_over_ranks, pick_precision, rank, world_size
from openglip.training import checkpoint
from openglip.training.assign import Targets, assign
from openglip.training.batches import Batch
from openglip.training.contrast import region_word_contrast
from openglip.training.logs import Logs
from openglip.training.losses import ClosedSetCriterion, GroundingCriterion, Normalisers, normalisers
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
    train_mode,
)
from openglip.training.recipe import Recipe
from openglip.weights.files import write_safetensors

logger = logging.getLogger(__name__)

Criterion = GroundingCriterion | ClosedSetCriterion
Evaluate = Callable[[nn.Module], Mapping[str, float]]
Report = Callable[[str, Mapping[str, Any]], None]
"""Takes "train" or "evaluation", and the line."""
MAX_BAD_STEPS = 10


@dataclass
class Progress:
    """Where a run stands: steps done, steps skipped (in all, in a row), the best value of a figure and its step."""

    step: int = 0
    skipped: int = 0
    in_a_row: int = 0
    best: float = -math.inf
    best_step: int = 0
    figure: str = ""


def fit(
    model: nn.Module,
    criterion: Criterion,
    batches: Callable[[int], Iterator[Batch]],
    recipe: Recipe,
    folder: Path,
    *,
    evaluate: Evaluate | None = None,
    report: Report | None = None,
) -> Progress:
    """Train a model, from the newest checkpoint in `folder` if there is one; the results lie in `folder`.

    batches: gives this process's batches from a number on, without end. evaluate: figures of a model; called on the
    first process. report: called on the first process with every line of the logs.
    Raises TrainingError when ten steps in a row have a loss that is not finite.
    """
    device = next(model.parameters()).device
    freeze(model, recipe.frozen)
    lr_of = dict(recipe.lr_of) | ({} if recipe.text_lr is None else {"language_backbone.": recipe.text_lr})
    groups = parameter_groups(model.named_parameters(), recipe.lr, recipe.weight_decay, lr_of, recipe.bias_factor)
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = make_schedule(recipe)
    average = Average(model, recipe.average, recipe.average_warmup) if recipe.average else None
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")  # type: ignore[attr-defined]
    precision = recipe.precision if recipe.precision == "fp16" else pick_precision(recipe.precision, device)
    progress = _restore(folder, model, optimizer, schedule, average, scaler)
    _judge_by(recipe.best, progress, schedule)
    logs = Logs(folder, progress.step) if rank() == 0 else None
    network = DistributedDataParallel(model) if world_size() > 1 else model
    stream = batches(progress.step * recipe.accumulate)
    train_mode(model)

    while progress.step < recipe.steps:
        began = time.perf_counter()
        small = [next(stream).to(device) for _ in range(recipe.accumulate)]
        waited = time.perf_counter() - began
        _seed_draws(recipe.seed, progress.step)
        decay = decay_factor(progress.step, schedule.milestone_steps()) if recipe.decay_schedule else 1.0  # type: ignore[union-attr]
        lr = set_rates(optimizer, schedule, progress.step, decay)
        terms, bad = _backward(network, model, criterion, small, scaler, precision)
        norm = math.nan
        if bad is None:
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or math.inf).item()
            if math.isfinite(norm) or scaler.is_enabled():  # the scaler skips by itself, and lowers its factor
                scaler.step(optimizer)
                scaler.update()
            if not math.isfinite(norm):
                bad = "gradient"
        # gradients of float16 overflow at first, until the factor has fallen
        _count_skips(
            progress, bad, small, stop=not (bad == "gradient" and scaler.is_enabled() and scaler.get_scale() >= 1)
        )
        optimizer.zero_grad(set_to_none=True)
        if average is not None and bad is None:
            average.update(model, progress.step)
        progress.step += 1

        if logs is not None:
            line = _line(progress, terms, bad, lr, norm, small, time.perf_counter() - began, waited)
            logs.step(line)
            if report:
                report("train", line | {"steps": recipe.steps})
        last = progress.step == recipe.steps
        if evaluate and recipe.evaluate_every and (progress.step % recipe.evaluate_every == 0 or last):
            _evaluate(model, evaluate, average, schedule, progress, recipe, folder, logs, report)
        # not amid skipped steps: what follows them may stop the run, and older checkpoints are thrown away
        if logs is not None and ((progress.step % recipe.checkpoint_every == 0 and not progress.in_a_row) or last):
            logs.to_disk()
            state = _state(model, optimizer, schedule, average, scaler, progress)
            checkpoint.save(folder / "checkpoints", progress.step, state, recipe.keep)

    if logs is not None:
        logs.close()
        _export(folder / "model.safetensors", model, average, recipe, progress)
    return progress


def make_schedule(recipe: Recipe) -> Schedule:
    if recipe.schedule == "cosine":
        return Cosine(recipe.steps, recipe.warmup, recipe.warmup_factor)
    if recipe.schedule == "plateau":
        return Plateau(recipe.patience, recipe.gamma, recipe.warmup, recipe.warmup_factor)
    return Steps(recipe.steps, recipe.milestones, recipe.gamma, recipe.warmup, recipe.warmup_factor)


def _backward(
    network: nn.Module,
    model: nn.Module,
    criterion: Criterion,
    small: Sequence[Batch],
    scaler: Any,
    precision: str,
) -> tuple[dict[str, float], str | None]:
    """Add up the gradients of the small batches of one step; gives the mean terms, and the first that is not finite.

    Targets depend on the batches alone: counted before, they make the sum of small batches equal one large batch. A
    loss that is not finite on any process stops all of them before its backward pass.
    """
    anchors = [_anchors(model, batch) for batch in small]
    targets = [assign(*grid, [boxes for boxes, _ in batch.targets]) for grid, batch in zip(anchors, small, strict=True)]
    counts = normalisers(targets)
    totals: dict[str, float] = {}
    for number, (batch, (grid, _), wanted) in enumerate(zip(small, anchors, targets, strict=True)):
        last = number == len(small) - 1
        hold = contextlib.nullcontext() if last or network is model else network.no_sync()  # type: ignore[operator]
        with hold:
            losses = batch_losses(network, criterion, batch, grid, wanted, counts, precision)
            values = mean_over_ranks(torch.stack([value.detach() for value in losses.values()])).tolist()
            for term, value in zip(losses, values, strict=True):
                totals[term] = totals.get(term, 0.0) + value
            bad = next((term for term, value in totals.items() if not math.isfinite(value)), None)
            if bad is not None:
                return totals, bad
            scaler.scale(torch.stack(list(losses.values())).sum()).backward()
    return totals, None


def batch_losses(
    network: nn.Module,
    criterion: Criterion,
    batch: Batch,
    anchors: Tensor,
    targets: Targets | None = None,
    counts: Normalisers | None = None,
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """The terms of one batch: the network in its precision, the losses in float32."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    boxes = [own for own, _ in batch.targets]
    with torch.autocast(anchors.device.type, dtype=half, enabled=half is not None):
        closed = isinstance(criterion, ClosedSetCriterion)
        outputs = network(batch.images) if closed else network(batch.images, batch.ids, batch.mask)
    if isinstance(criterion, ClosedSetCriterion):
        labels = [_labels(own, batch, i) for i, own in enumerate(batch.labels)]
        return criterion(outputs, anchors, boxes, labels, targets=targets, counts=counts)
    maps = [tokens for _, tokens in batch.targets]
    if outputs.contrast is None:
        return criterion(outputs, anchors, boxes, maps, batch.mask, targets=targets, counts=counts)
    targets = targets or assign(anchors, outputs.sizes, boxes)
    counts = counts or normalisers([targets])
    terms = criterion(outputs, anchors, boxes, maps, batch.mask, targets=targets, counts=counts)
    return terms | {"contrast": region_word_contrast(outputs.contrast, targets, maps, batch.ids, batch.mask, counts)}


def _anchors(model: Any, batch: Batch) -> tuple[Tensor, list[tuple[int, int]]]:
    height, width = batch.images.shape[-2:]
    sizes = [(-(-height // stride), -(-width // stride)) for stride in model.anchors.strides]
    return model.anchors(sizes, device=batch.images.device), sizes


def _labels(labels: Tensor | None, batch: Batch, image: int) -> Tensor:
    if labels is None:
        raise DataError(f"image {batch.image_ids[image]!r} of {batch.sources[image]} has no class labels")
    return labels


def _seed_draws(seed: int, step: int) -> None:
    """Dropout and its like draw from a state that only seed, step and process decide; evaluations can't disturb it."""
    state = np.random.SeedSequence([seed, step, rank()]).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state) >> 1)


def _count_skips(progress: Progress, bad: str | None, small: Sequence[Batch], *, stop: bool) -> None:
    if bad is None:
        progress.in_a_row = 0
        return
    progress.skipped += 1
    progress.in_a_row += 1
    images = [
        f"{source}:{image}" for batch in small for source, image in zip(batch.sources, batch.image_ids, strict=True)
    ]
    logger.warning("step %d skipped: %s is not finite; images: %s", progress.step + 1, bad, ", ".join(images))
    if progress.in_a_row >= MAX_BAD_STEPS and stop:
        raise TrainingError(
            f"{bad} is not finite for {MAX_BAD_STEPS} steps in a row, the last is step {progress.step + 1} with the "
            f"images {', '.join(images)}: lower lr, or lengthen warmup; the last checkpoint is from before these steps"
        )


def _line(
    progress: Progress,
    terms: Mapping[str, float],
    bad: str | None,
    lr: float,
    norm: float,
    small: Sequence[Batch],
    seconds: float,
    waited: float,
) -> dict[str, Any]:
    sources: dict[str, int] = {}
    for batch in small:
        for source in batch.sources:
            sources[source] = sources.get(source, 0) + 1
    return {
        "step": progress.step,
        "loss": _finite(sum(terms.values())),
        **{term: _finite(value) for term, value in terms.items()},
        "lr": lr,
        "images": sum(len(batch.images) for batch in small) * world_size(),
        "grad_norm": _finite(norm),
        "skipped": bad,
        "dropped_boxes": sum(batch.dropped for batch in small),
        "unreadable": sum(len(batch.failures) for batch in small),
        "sources": sources,
        "seconds": seconds,
        "seconds_waiting": waited,
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _evaluate(
    model: nn.Module,
    evaluate: Evaluate,
    average: Average | None,
    schedule: Schedule,
    progress: Progress,
    recipe: Recipe,
    folder: Path,
    logs: Logs | None,
    report: Report | None,
) -> None:
    """Figures on the first process, known to all: they decide the rate, and which weights are the best."""
    began = time.perf_counter()
    figures: dict[str, float] = {}
    if rank() == 0:
        model.eval()
        with (
            average.in_place_of(model) if average and recipe.use_average else contextlib.nullcontext(),
            torch.no_grad(),
        ):
            figures = {name: float(value) for name, value in evaluate(model).items()}
        train_mode(model)
    figures = from_first_rank(figures, next(model.parameters()).device)  # type: ignore[assignment]
    if recipe.best not in figures:
        raise ConfigError(
            f"the evaluation gives no figure {recipe.best!r}, but {', '.join(figures)}: set best to one of them (to go "
            f"on with this run, in {folder}/recipe.json)"
        )
    if not math.isfinite(figures[recipe.best]):
        logger.warning("step %d: %s is %s: no best model can be told", progress.step, recipe.best, figures[recipe.best])
    if isinstance(schedule, Plateau):
        schedule.observe(figures[recipe.best], progress.step)
    better = figures[recipe.best] > progress.best
    if better:
        progress.best, progress.best_step = figures[recipe.best], progress.step
    if logs is not None:
        if better:
            _export(folder / "best.safetensors", model, average, recipe, progress)
        line = {"step": progress.step, **{name: _finite(value) for name, value in figures.items()}}
        line["seconds"] = time.perf_counter() - began
        logs.evaluation(line)
        if report:
            report("evaluation", line)


def _state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    average: Average | None,
    scaler: Any,
    progress: Progress,
) -> dict[str, object]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": asdict(schedule) if isinstance(schedule, Plateau) else {},
        "average": average.state if average else {},
        "scaler": scaler.state_dict(),
        "progress": asdict(progress),
    }


def _restore(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    average: Average | None,
    scaler: Any,
) -> Progress:
    found = checkpoint.newest(folder / "checkpoints")
    step = found[0] if found else 0
    if from_first_rank(step, next(model.parameters()).device) != step:
        raise ConfigError(f"process {rank()} finds other checkpoints in {folder} than the first: all need one folder")
    if found is None:
        return Progress()
    state: dict[str, Any] = found[1]
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ConfigError(
            f"{folder}/recipe.json builds another model than its checkpoint holds (model, contrast): put it back as it "
            f"was, or start anew with the weights of {folder}. {error}"
        ) from error
    rates = [{key: group[key] for key in ("base_lr", "base_decay")} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state["optimizer"])
    except ValueError as error:
        raise ConfigError(
            f"{folder}/recipe.json trains other parameters than its checkpoint (frozen, lr_of, text_lr): {error}"
        ) from error
    for group, own in zip(optimizer.param_groups, rates, strict=True):
        group.update(own)  # the recipe's, should it have been changed
    if average and state["average"].keys() != average.state.keys():
        raise ConfigError(f"{folder}/recipe.json asks for an average, its checkpoint holds none")
    scaler.load_state_dict(state["scaler"])
    for key, value in state["schedule"].items():
        setattr(schedule, key, value)
    if average:
        for key, value in state["average"].items():
            average.state[key].copy_(value)
    return Progress(**state["progress"])


def _judge_by(figure: str, progress: Progress, schedule: Schedule) -> None:
    """Forget the best value of a run that was judged by another figure: they can't be compared."""
    if progress.figure not in ("", figure):
        logger.warning("best was %s and is %s now: the best model is told anew from here on", progress.figure, figure)
        progress.best, progress.best_step = -math.inf, 0
        if isinstance(schedule, Plateau):
            schedule.best, schedule.bad = -math.inf, 0
    progress.figure = figure


def _export(path: Path, model: nn.Module, average: Average | None, recipe: Recipe, progress: Progress) -> None:
    weights = average.state if average and recipe.use_average else model.state_dict()
    weights = {key: value for key, value in weights.items() if not key.startswith("contrast.")}  # for training alone
    info = {"model": recipe.model, "recipe": recipe.name, "step": progress.step, "data": recipe.data}
    info |= {"sub_sentences": True} if recipe.sub_sentences else {}
    if progress.best_step:
        info |= {"best": {recipe.best: progress.best, "step": progress.best_step}}
    write_safetensors(path, weights, info)
