"""GLIP-T against transformers' Grounding DINO-T, in turn: same image size, prompts and threads, random weights.

Both whole models, from prepared pixels to raw outputs; the peer's faster way of bf16 (autocast or bf16 weights) counts.
Needs `pip install transformers`. Run on a quiet machine:

    python benchmarks/grounding_dino.py
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import in_turn, machine, matrix_peak, spread, times_faster, write
from faithful import PROMPTS

from openglip.prompts.text import detection_prompt
from openglip.prompts.tokens import tokenize
from openglip.runtime import half_copy, has_native_bf16
from openglip.weights.load import load_model


def peer() -> Any:
    """Grounding DINO with the Swin-T configuration that transformers has as its default."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    return GroundingDinoForObjectDetection(GroundingDinoConfig()).eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    import transformers

    torch.manual_seed(0)
    ours: Any = load_model("glip-t", "random")
    theirs = peer()
    variants = [("fp32", "ours", ours, torch.float32, False), ("fp32", "theirs", theirs, torch.float32, False)]
    result: dict[str, Any] = {
        "transformers": transformers.__version__,
        "image": [800, 1344],
        "peak_gflops": {"fp32": matrix_peak(torch.float32), "bf16": matrix_peak(torch.bfloat16)},
    }
    if has_native_bf16():
        variants += [
            ("bf16", "ours", half_copy(ours), torch.float32, True),
            ("bf16 autocast", "theirs", theirs, torch.float32, True),
            ("bf16 weights", "theirs", peer().to(torch.bfloat16), torch.bfloat16, False),
        ]
    for prompt, names in PROMPTS.items():
        ids = torch.tensor([tokenize(detection_prompt(names).caption).ids])
        mask = torch.ones_like(ids, dtype=torch.bool)
        calls: dict[str, Callable[[], Any]] = {}
        for precision, side, model, dtype, autocast in variants:
            pixels = torch.randn(1, 3, 800, 1344, dtype=dtype)

            def call(model: Any = model, pixels: Any = pixels, side: str = side, autocast: bool = autocast) -> None:
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, autocast):
                    if side == "ours":
                        model(pixels, ids, mask)  # noqa: B023
                    else:
                        model(pixel_values=pixels, input_ids=ids, attention_mask=mask.long())  # noqa: B023

            calls[f"{side} {precision}"] = call
        seconds = in_turn(calls, rounds)
        rows: dict[str, Any] = {name: spread(taken) for name, taken in seconds.items()}
        rows["fp32"] = times_faster(seconds["ours fp32"], seconds["theirs fp32"])
        if has_native_bf16():
            theirs_bf16 = min((seconds[f"theirs bf16 {way}"] for way in ("autocast", "weights")), key=statistics.median)
            rows["bf16"] = times_faster(seconds["ours bf16"], theirs_bf16)
        for name, row in rows.items():
            print(prompt, name, {k: round(v, 2) for k, v in row.items()}, flush=True)
        result[prompt] = rows
    print(machine())
    write("grounding_dino", result)


if __name__ == "__main__":
    main()
