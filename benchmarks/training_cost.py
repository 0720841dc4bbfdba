"""Seconds and peak memory of a training step, each in a fresh process: GLIP-T and GLIP-L, with and without fusion.

Beside the paper's cost table (inference on a P100, training on a V100): what ours costs on this machine. On a GPU the
same script reports CUDA memory. A row that does not fit is written as such.

    python benchmarks/training_cost.py [--device cuda] [--batches 1 2 4] [--models glip-t glip-t-a glip-l]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from common import machine, write

PAPER = {  # images a second and GB; GLIP paper, table of the cost of fusion: inference P100, training V100
    "glip-t without fusion": {"inference": [4.84, 1.0], "training": [2.79, 11.5]},
    "glip-t": {"inference": [2.52, 2.4], "training": [1.62, 16.0]},
    "glip-l without fusion": {"inference": [0.54, 4.8], "training": [1.27, 19.7]},
    "glip-l": {"inference": [0.32, 7.7], "training": [0.88, 23.4]},
}


def child(name: str, batch: int, device: str) -> None:
    """One forward pass without and one step with gradients at 800 x 1344 with 194 tokens."""
    from openglip.train.losses import GroundingCriterion
    from openglip.weights.load import build_model

    model: Any = build_model(name).to(device)
    images = torch.randn(batch, 3, 800, 1344, device=device)
    ids = torch.randint(1000, 2000, (batch, 194), device=device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    boxes = [torch.tensor([[100.0, 100.0, 400.0, 500.0], [30.0, 50.0, 90.0, 200.0]], device=device)] * batch
    words = [torch.eye(2, 194, device=device).bool()] * batch
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-6)

    def step() -> None:
        out = model(images, ids, mask)
        terms = GroundingCriterion()(out, model.anchors(out.sizes, device=device), boxes, words, mask)
        optimizer.zero_grad()
        sum(terms.values()).backward()  # type: ignore[union-attr]
        optimizer.step()

    row: dict[str, Any] = {}
    for mode, call in (("inference", lambda: model.eval()(images, ids, mask)), ("training", step)):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--models", nargs="+", default=["glip-t", "glip-t-a", "glip-l"])
    parser.add_argument("--child", nargs=2)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], int(arguments.child[1]), arguments.device)
        return
    result: dict[str, Any] = {"paper": PAPER, "device": arguments.device, "rows": {}}
    for name in arguments.models:
        for batch in arguments.batches:
            command = [sys.executable, __file__, "--device", arguments.device, "--child", name, str(batch)]
            run = subprocess.run(command, capture_output=True, text=True)
            row = (
                json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else {"does not fit": run.stderr[-200:]}
            )
            result["rows"][f"{name} batch {batch}"] = row
            print(f"{name} batch {batch}: {row}", flush=True)
    print(machine())
    write(f"training_cost_{arguments.device}", result)


if __name__ == "__main__":
    main()
