"""What a recipe will do, before it does it: parameters, data, memory, hours, and the first batch as images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from openglip.images.prepare import padded_size
from openglip.model.contract import Model
from openglip.model.recompute import recomputable_blocks
from openglip.training.optim import freeze
from openglip.training.recipe import Recipe
from openglip.training.settings import to_json
from openglip.weights.records import RECORDS

EFFICIENCY = 0.4  # share of the measured rate of large matrix products that training reaches
TOKENS = 128
STEP_OVER_PASS = 3  # forward and backward pass against the forward pass alone; 4 where blocks are recomputed


def plan(recipe: Recipe, device: torch.device, folder: Path | None = None) -> dict[str, Any]:
    """Describe a run: settings, parameters by module, data, memory and hours (both estimates).

    Args:
        recipe: The recipe.
        device: Where the run would take place.
        folder: Gets the first batch as the model would see it; None: it is not drawn.

    Returns:
        JSON values. Where data or weights are missing they say which.
    """
    model = _on_meta(recipe)
    data = recipe.describe_data(recipe, model, folder)
    size = data.pop("picture_size")
    flops, stored = cost_of_one(model, (size[0], size[1]), recipe.recompute)
    over = STEP_OVER_PASS + recipe.recompute
    small = recipe.batch_size // recipe.accumulate
    rate = _product_rate(device) * EFFICIENCY
    missing, settings = _missing(recipe), to_json(recipe)
    return {
        "recipe": settings | {"model": model.name},
        "parameters": parameters(model),
        "picture_size": size,
        "gflop_per_picture": round(over * flops / 1e9, 1),
        "memory_gb_estimate": round((_state_bytes(model, recipe) + small * stored) / 2**30, 2),
        "hours_estimate": round(recipe.steps * recipe.batch_size * over * flops / rate / 3600, 2),
        "estimated_for": f"one {device.type} at {rate / 1e9:.0f} GFLOP/s, all {recipe.batch_size} pictures on it",
        **data,
        **({"files_missing": missing} if missing else {}),
    }


def _on_meta(recipe: Recipe) -> Model:
    """The recipe's model without values: its shapes are enough."""
    with torch.device("meta"):
        model = recipe.build_model(recipe)
    assert isinstance(model, nn.Module)
    freeze(model, recipe.frozen)
    return model


def _missing(recipe: Recipe) -> list[str]:
    """Checkpoints that the run would start from and that do not exist."""
    files = [Path(recipe.data) / name for name in recipe.start.values()]
    if recipe.weights is not None and recipe.weights != "random" and recipe.weights not in RECORDS:
        files.insert(0, Path(recipe.weights))
    return [str(file) for file in files if not file.exists()]


def parameters(model: Model) -> dict[str, dict[str, int]]:
    """How many parameters there are and how many train, by module, and of "all"."""
    assert isinstance(model, nn.Module)
    counts: dict[str, dict[str, int]] = {}
    depth = 2 if len(list(model.children())) < 10 else 1
    for name, parameter in model.named_parameters():
        module = ".".join(name.split(".")[:depth])
        for key in (module, "all"):
            count = counts.setdefault(key, {"parameters": 0, "trained": 0})
            count["parameters"] += parameter.numel()
            count["trained"] += parameter.numel() * parameter.requires_grad
    return counts


def cost_of_one(model: Model, size: tuple[int, int], recomputed: bool = False) -> tuple[int, int]:
    """What the forward pass of one image costs. Nothing is computed.

    Args:
        model: On the meta device.
        size: (height, width) of the image in pixels.
        recomputed: Whether blocks that can be recomputed are: only their inputs are stored, and for a while all of the
            largest.

    Returns:
        Floating-point operations, and bytes stored for the backward pass.
    """
    assert isinstance(model, nn.Module)
    stored: list[dict[int, int]] = [{}]  # bytes by storage; the last are of the block that runs
    largest = 0
    handles = []

    def store(tensor: Tensor) -> Tensor:
        stored[-1][id(tensor.untyped_storage())] = tensor.untyped_storage().nbytes()
        return tensor

    def enter(block: nn.Module, inputs: tuple[Any, ...]) -> None:
        for tensor in inputs:
            if isinstance(tensor, Tensor):
                store(tensor)
        stored.append({})

    def leave(*_: Any) -> None:
        nonlocal largest
        largest = max(largest, sum(stored.pop().values()))

    for block in recomputable_blocks(model) if recomputed else ():
        handles += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    model.eval()  # what is random costs nothing
    model.training = True  # but the outputs are those of training
    height, width = padded_size(*size, model.preparation.multiple)
    ids = torch.ones(1, TOKENS, dtype=torch.int64, device="meta")
    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
        outputs = model(torch.zeros(1, 3, height, width, device="meta"), ids, ids.bool())
    del outputs
    model.train()
    for handle in handles:
        handle.remove()
    return counter.get_total_flops(), sum(stored[0].values()) + largest


def _state_bytes(model: Model, recipe: Recipe) -> int:
    """Weights and average; gradients and Adam's two moments of what trains."""
    counts = parameters(model)["all"]
    return 4 * (counts["parameters"] * (2 if recipe.average else 1) + counts["trained"] * 3)


def _product_rate(device: torch.device) -> float:
    """Operations per second of a large matrix product."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    side = 8192 if device.type == "cuda" else 1024
    a = torch.ones(side, side, dtype=dtype, device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


def plan_text(described: dict[str, Any]) -> str:
    """A plan as text for people.

    Args:
        described: Of `plan`.
    """
    recipe = described["recipe"]
    lines = [f"recipe {recipe['name']}: model {recipe['model']}, data {recipe['data']}", ""]
    lines += [
        f"{module:42} {count['parameters']:>13,} parameters, {count['trained']:>13,} train"
        for module, count in described["parameters"].items()
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
            f"data         {name}: {count:,} samples, {100 * described['share'][name]:.1f} % of the images"
            for name, count in described["samples"].items()
        ]
        lines.append(f"epochs       {described['epochs']}")
    lines += [f"first batch  {file}" for file in described.get("first_batch", [])]
    return "\n".join(lines)
