"""What a recipe will do, before it does it: parameters, steps, memory, hours, and the first batch as pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from openglip.data.mixtures import Mixture
from openglip.data.rendering import draw_view
from openglip.data.transforms import Resize
from openglip.errors import DataError
from openglip.images.prepare import padded_size, resized_size
from openglip.model.recompute import recomputable_blocks
from openglip.nano.text import TEXT_DIM
from openglip.training import nano
from openglip.training.batches import Views
from openglip.training.optim import freeze
from openglip.training.recipe import Recipe, to_json
from openglip.weights.load import model_builder

EFFICIENCY = 0.4  # share of the measured rate of large matrix products that training reaches
TOKENS = 128
STEP_OVER_PASS = 3  # forward and backward pass against the forward pass alone; 4 where blocks are recomputed


def plan(recipe: Recipe, model: Any, device: torch.device, pictures: Path | None = None) -> dict[str, Any]:
    """Describe a run as JSON values: settings, parameters that train by part, data, memory and hours (both estimates).

    pictures: a folder for the first batch as the model will see it. Without the data the plan says what is missing.
    """
    freeze(model, recipe.frozen)
    embedded = isinstance(recipe, nano.NanoRecipe)
    mixture, data = (None, _packed(recipe, pictures)) if embedded else _mixed(recipe, pictures)
    size = nano.SMALL if embedded else _typical_size(recipe, model, mixture)
    flops, held = cost_of_one(model, size, recipe.recompute)
    over = STEP_OVER_PASS + recipe.recompute
    small = recipe.batch_size // recipe.accumulate
    rate = _product_rate(device) * EFFICIENCY
    return {
        "recipe": to_json(recipe),
        "parameters": parameters(model),
        "picture_size": list(size),
        "gflop_per_picture": round(over * flops / 1e9, 1),
        "memory_gb_estimate": round((_state_bytes(model, recipe) + small * held) / 2**30, 2),
        "hours_estimate": round(recipe.steps * recipe.batch_size * over * flops / rate / 3600, 2),
        "estimated_for": f"one {device.type} at {rate / 1e9:.0f} GFLOP/s, all {recipe.batch_size} pictures on it",
        **data,
        **({"files_missing": missing} if (missing := _missing(recipe)) else {}),
    }


def _missing(recipe: Recipe) -> list[str]:
    """Checkpoints that the run would start from and that are not there."""
    files = [Path(recipe.weights)] if recipe.weights else []
    if not (files and isinstance(recipe, nano.NanoRecipe)):  # which takes its weights in place of `start`
        files += [Path(recipe.data) / name for name in recipe.start.values()]
    return [str(file) for file in files if not file.exists()]


def parameters(model: nn.Module) -> dict[str, dict[str, int]]:
    """Numbers of parameters in all and of those that train, by part of the model."""
    counts: dict[str, dict[str, int]] = {}
    depth = 2 if len(list(model.children())) < 10 else 1
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:depth])
        for key in (part, "all"):
            own = counts.setdefault(key, {"parameters": 0, "trained": 0})
            own["parameters"] += parameter.numel()
            own["trained"] += parameter.numel() * parameter.requires_grad
    return counts


def cost_of_one(model: Any, size: tuple[int, int], recomputed: bool = False) -> tuple[int, int]:
    """Operations of a forward pass of one picture, and bytes kept for its backward pass; nothing is computed.

    recomputed: of the blocks that can be recomputed their inputs are kept, and for a while all of the largest.
    """
    meta = _on_meta(model)
    kept: list[dict[int, int]] = [{}]  # by storage; the last is of the block that runs

    def keep(tensor: Tensor) -> Tensor:
        kept[-1][id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return tensor

    largest = 0

    def enter(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        for tensor in inputs:
            if isinstance(tensor, Tensor):
                keep(tensor)
        kept.append({})

    def leave(*_: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(kept.pop().values()))

    for block in recomputable_blocks(meta) if recomputed else ():
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    height, width = padded_size(*size, model.preparation.multiple)
    words = torch.ones(1, TOKENS, device="meta")
    ids = words[..., None].expand(1, TOKENS, 2 * TEXT_DIM) if isinstance(model, nano.NanoInTraining) else words.long()
    text = () if getattr(model, "categories", None) else (ids, words.bool())
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = meta(torch.zeros(1, 3, height, width, device="meta"), *text)
    del outputs
    return counter.get_total_flops(), sum(kept[0].values()) + largest


def _on_meta(model: Any) -> Any:
    with torch.device("meta"):
        # the embedded one is another model in evaluation; the others' random parts cost nothing
        meta = nano.NanoInTraining() if isinstance(model, nano.NanoInTraining) else model_builder(model.name)().eval()
    for own, given in zip(meta.parameters(), model.parameters(), strict=True):
        own.requires_grad_(given.requires_grad)
    return meta


def _state_bytes(model: nn.Module, recipe: Recipe) -> int:
    """Weights and average; gradients and Adam's two moments of what trains."""
    counts = parameters(model)["all"]
    return 4 * (counts["parameters"] * (2 if recipe.average else 1) + counts["trained"] * 3)


def _product_rate(device: torch.device) -> float:
    """Operations a second of a large matrix product."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    side = 8192 if device.type == "cuda" else 1024
    a = torch.ones(side, side, dtype=kind, device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


def _typical_size(recipe: Recipe, model: Any, mixture: Mixture | None) -> tuple[int, int]:
    """A 3:4 picture after the middle one of the recipe's sizes; without a resize that of the first sample."""
    for transform in recipe.transforms:
        if isinstance(transform, Resize):
            sides = sorted(transform.short_sides)
            return resized_size(480, 640, sides[len(sides) // 2], transform.max_side)
    if mixture is not None:
        return mixture.sources[0].samples[0].size
    return resized_size(480, 640, model.preparation.short_side, model.preparation.max_side)


def _packed(recipe: nano.NanoRecipe, pictures: Path | None) -> dict[str, Any]:
    try:
        found = nano.describe(recipe)
        return found if pictures is None else found | {"first_batch": nano.first_batch(recipe, pictures)}
    except DataError as error:
        return {"data_missing": str(error)}


def _mixed(recipe: Recipe, pictures: Path | None) -> tuple[Mixture | None, dict[str, Any]]:
    """The data and what is to say of them, or of what is missing."""
    try:
        mixture = Mixture(recipe.sources(recipe), recipe.seed)
        return mixture, _data(recipe, mixture, pictures)
    except DataError as error:
        return None, {"data_missing": str(error)}


def _data(recipe: Recipe, mixture: Mixture, pictures: Path | None) -> dict[str, Any]:
    rows = mixture.rows(0)
    found: dict[str, Any] = {
        "samples": {source.name: len(source.samples) for source in mixture.sources},
        "share": mixture.share(),
        "epochs": round(recipe.steps * recipe.batch_size / len(rows), 2),
    }
    if pictures is not None:
        found["first_batch"] = first_batch(recipe, mixture, pictures)
    return found


def first_batch(recipe: Recipe, mixture: Mixture, folder: Path, number: int = 8) -> list[str]:
    """Draw the first views of a run with prompt and boxes; gives the files."""
    folder.mkdir(parents=True, exist_ok=True)
    views = Views(mixture, recipe.transforms)
    files = []
    batch = next(iter(mixture.batches(recipe.batch_size // recipe.accumulate)))
    for place, row in enumerate(batch[:number]):
        example = views[row]
        path = folder / f"first-batch-{place}.jpg"
        draw_view(example.view).convert("RGB").save(path, quality=90)
        files.append(str(path))
    return files


def plan_text(described: dict[str, Any]) -> str:
    """The plan for a person."""
    recipe = described["recipe"]
    lines = [f"recipe {recipe['name']}: model {recipe['model']}, data {recipe['data']}", ""]
    lines += [
        f"{part:42} {own['parameters']:>13,} parameters, {own['trained']:>13,} train"
        for part, own in described["parameters"].items()
    ]
    lines += [
        "",
        f"steps        {recipe['steps']:,} of {recipe['batch_size']} pictures, about {described['picture_size'][0]} x "
        f"{described['picture_size'][1]} pixels",
        f"memory       about {described['memory_gb_estimate']} GB (estimate, float32)",
        f"time         about {described['hours_estimate']:,} hours on {described['estimated_for']} (estimate)",
    ]
    lines += [f"weights      missing: {file}" for file in described.get("files_missing", ())]
    if "data_missing" in described:
        lines.append(f"data         missing: {described['data_missing']}")
    else:
        lines += [
            f"data         {name}: {count:,} samples, {100 * described['share'][name]:.1f} % of what is seen"
            for name, count in described["samples"].items()
        ]
        lines.append(f"epochs       {described['epochs']}")
    lines += [f"first batch  {file}" for file in described.get("first_batch", [])]
    return "\n".join(lines)
