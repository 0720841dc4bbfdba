"""GLIP on a GPU: milliseconds of one call, eager and as a CUDA graph, fp32 and bf16, and kernels launched.

python benchmarks/gpu.py [--models glip-t glip-l]
python benchmarks/training_cost.py --device cuda
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import machine, write
from faithful import PROMPTS

from openglip.prompts.text import detection_prompt
from openglip.prompts.tokens import tokenize
from openglip.runtime import half_copy
from openglip.weights.load import load_model


def milliseconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Median milliseconds on the device."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def launches(call: Callable[[], Any]) -> int:
    """Kernels that one call starts."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        call()
        torch.cuda.synchronize()
    return sum(event.count for event in trace.key_averages())


def graphed(call: Callable[[], Any]) -> Callable[[], None]:
    """The same call recorded once and replayed."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["glip-t", "glip-l"])
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "no CUDA device is there\n")
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "rows": {}}
    for name in arguments.models:
        exact: Any = load_model(name, "random").cuda()
        for precision, model in (("fp32", exact), ("bf16", half_copy(exact))):
            for prompt, names in PROMPTS.items():
                ids = torch.tensor([tokenize(detection_prompt(names).caption).ids], device="cuda")
                mask = torch.ones_like(ids, dtype=torch.bool)
                pixels = torch.randn(1, 3, 800, 1344, device="cuda")

                def call(model: Any = model, precision: str = precision, ids: Any = ids, mask: Any = mask) -> Any:
                    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, precision == "bf16"):
                        return model(pixels, ids, mask)  # noqa: B023

                torch.cuda.reset_peak_memory_stats()
                row = {"eager_ms": milliseconds(call), "launches": launches(call)}
                row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
                try:
                    row["graph_ms"] = milliseconds(graphed(call))
                except RuntimeError as error:
                    row["graph"] = f"not captured: {str(error).splitlines()[0]}"
                result["rows"][f"{name} {precision} {prompt}"] = row
                print(f"{name} {precision} {prompt}: {row}", flush=True)
    print(machine())
    write("gpu", result)


if __name__ == "__main__":
    main()
