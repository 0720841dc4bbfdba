"""What all benchmarks share: the machine in words, its measured peak, timing, the JSON that is written."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [x.split(":", 1)[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        model = lines[0] if lines else model
    import torchvision

    return {
        "processor": model,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def timed(call: Callable[[], Any], repeats: int, warm_up: int = 1) -> dict[str, Any]:
    """Median, least and greatest seconds of some calls."""
    for _ in range(warm_up):
        call()
    return spread([once(call) for _ in range(repeats)])


def in_turn(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in every round, after a round that does not count: what a shared machine does to one of them
    it does to all, so that ratios within a round hold.
    """
    seconds = [{name: once(call) for name, call in calls.items()} for _ in range(rounds + 1)][1:]
    return {name: [row[name] for row in seconds] for name in calls}


def once(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def spread(seconds: list[float]) -> dict[str, Any]:
    return {"seconds_median": statistics.median(seconds), "seconds_min": min(seconds), "seconds_max": max(seconds)}


def times_faster(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median, least and greatest ratio of the rounds of `in_turn`."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "times_faster": statistics.median(ratios),
        "times_faster_min": min(ratios),
        "times_faster_max": max(ratios),
    }


def matrix_peak(dtype: torch.dtype, size: int = 2048) -> float:
    """GFLOP/s of the best of ten square matrix products."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = timed(lambda: torch.nn.functional.linear(a, b), 10, 2)["seconds_min"]
    return 2 * size**3 / best / 1e9


def photo(height: int = 800, width: int = 1333) -> np.ndarray:
    """A smooth random picture, H x W x 3 uint8."""
    noise = np.random.default_rng(0).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return np.ascontiguousarray(noise.repeat(8, 0).repeat(8, 1)[:height, :width])


def write(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    print(f"written: {path}")


def earlier(name: str) -> dict[str, Any]:
    """What an earlier call on the same machine has written under this name, else nothing."""
    path = RESULTS / f"{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("machine") == machine() else {}
