"""Seconds and peak memory of a training step, each in a fresh process: GLIP-T and GLIP-L, with and without fusion.

Beside the paper's cost table (inference on a P100, training on a V100): what ours costs on this machine. On a GPU the
same script reports CUDA memory. Of what would not fit, by an estimate (kept activations, weights, gradients, moments),
only the inference is measured; the estimate stands in the step's place. Rows of earlier calls on the same
machine stay in the file: it can be made bit by bit.

    python benchmarks/training_cost.py [--device cuda] [--batches 1 2 4] [--models glip-t glip-t-a glip-l]
    python benchmarks/training_cost.py --memory-only --models glip-t --batches 1      # one training step, no times
    python benchmarks/training_cost.py --recompute --memory-only --models glip-l # the recipe's `recompute`
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import earlier, machine, write

PAPER = {  # images a second and GB; GLIP paper, table of the cost of fusion: inference P100, training V100
    "glip-t without fusion": {"inference": [4.84, 1.0], "training": [2.79, 11.5]},
    "glip-t": {"inference": [2.52, 2.4], "training": [1.62, 16.0]},
    "glip-l without fusion": {"inference": [0.54, 4.8], "training": [1.27, 19.7]},
    "glip-l": {"inference": [0.32, 7.7], "training": [0.88, 23.4]},
}


SIZE = (800, 1344)


def child(name: str, batch: int, device: str, what: str, recomputed: bool) -> None:
    """The second of two forward passes without and of two steps with gradients at 800 x 1344 with 194 tokens."""
    from openglip.model.recompute import recompute_blocks
    from openglip.training.assign import assign_batches
    from openglip.training.batches import Batch
    from openglip.training.loop import batch_losses
    from openglip.training.losses import GroundingCriterion
    from openglip.weights.load import build_model

    model: Any = build_model(name).to(device)
    if recomputed:
        recompute_blocks(model)
    images = torch.randn(batch, 3, *SIZE, device=device)
    ids = torch.randint(1000, 2000, (batch, 194), device=device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    boxes = torch.tensor([[100.0, 100.0, 400.0, 500.0], [30.0, 50.0, 90.0, 200.0]], device=device)
    annotated = Batch(
        images=images,
        ids=ids,
        mask=mask,
        targets=[(boxes, torch.eye(2, 194, device=device).bool())] * batch,
        labels=[None] * batch,
        sizes=[SIZE] * batch,
        sources=[""] * batch,
        image_ids=[None] * batch,
        captions=[""] * batch,
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-6, fused=True)

    def step() -> None:
        (targets,) = assign_batches(model.anchors, [annotated])
        terms = batch_losses(model, GroundingCriterion(), annotated, targets)
        optimizer.zero_grad()
        sum(terms.values()).backward()  # type: ignore[union-attr]
        optimizer.step()

    row: dict[str, Any] = {}
    if what == "memory":
        model.train()
        step()
        print(json.dumps({"training_peak_gib": peak_gib(device)}))
        return
    for mode, call in (("inference", lambda: model.eval()(images, ids, mask)), ("training", step)):
        if what == "inference" and mode != what:
            continue
        with torch.set_grad_enabled(mode == "training"):
            model.train(mode == "training")
            call()
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            row[f"{mode}_images_per_second"] = batch / (time.perf_counter() - start)
        row[f"{mode}_peak_gib"] = peak_gib(device)
    print(json.dumps(row))


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def estimate_gib(name: str, batch: int, recomputed: bool) -> float:
    """Weights, gradients and two moments, and what a step keeps for its backward pass."""
    from openglip.training.plan import cost_of_one, parameters
    from openglip.weights.load import build_model

    with torch.device("meta"):
        model: Any = build_model(name)
    counts = parameters(model)["all"]
    return (
        4 * (counts["parameters"] + 3 * counts["trained"]) + batch * cost_of_one(model, SIZE, recomputed)[1]
    ) / 2**30


def free_gib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / 2**30
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    return next(int(kilobytes) for name, kilobytes, *_ in lines if name == "MemAvailable:") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--models", nargs="+", default=["glip-t", "glip-t-a", "glip-l"])
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--child", nargs=3)
    arguments = parser.parse_args()
    if arguments.child:
        name, batch, what = arguments.child
        child(name, int(batch), arguments.device, what, arguments.recompute)
        return
    file = f"training_cost_{arguments.device}"
    result: dict[str, Any] = {"paper": PAPER, "device": arguments.device, "rows": earlier(file).get("rows", {})}
    for name in arguments.models:
        for batch in arguments.batches:
            estimate = estimate_gib(name, batch, arguments.recompute)
            row: dict[str, Any] = {"estimate_gib": estimate, "free_gib": free_gib(arguments.device)}
            fits = row["estimate_gib"] < 0.9 * row["free_gib"]
            if fits or not arguments.memory_only:
                what = "memory" if arguments.memory_only else "both" if fits else "inference"
                command = [sys.executable, __file__, "--device", arguments.device, "--child", name, str(batch), what]
                command += ["--recompute"] * arguments.recompute
                run = subprocess.run(command, capture_output=True, text=True)
                row |= json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else {"failed": run.stderr[-200:]}
            key = f"{name} batch {batch}" + ", recomputed" * arguments.recompute
            result["rows"][key] = result["rows"].get(key, {}) | row
            print(f"{key}: {row}", flush=True)
    print(machine())
    write(file, result)


if __name__ == "__main__":
    main()
