"""GLIP-T against transformers' Grounding DINO-T: same image size, prompts and threads, random weights.

Both whole models, from prepared pixels to raw outputs; the peer's faster way of bf16 (autocast or bf16 weights) counts.
Needs `pip install transformers`. Run on a quiet machine:

    python benchmarks/grounding_dino.py
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from common import machine, matrix_peak, timed, write
from faithful import PROMPTS

from openglip.predict.device import half_copy, native_bf16
from openglip.prompts.text import detection_prompt
from openglip.prompts.tokens import tokenize
from openglip.weights.load import load_model


def peer() -> Any:
    """Grounding DINO with the Swin-T configuration that transformers has as its default."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    return GroundingDinoForObjectDetection(GroundingDinoConfig()).eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
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
    if native_bf16():
        variants += [
            ("bf16", "ours", half_copy(ours), torch.float32, True),
            ("bf16 autocast", "theirs", theirs, torch.float32, True),
            ("bf16 weights", "theirs", peer().to(torch.bfloat16), torch.bfloat16, False),
        ]
    for prompt, names in PROMPTS.items():
        ids = torch.tensor([tokenize(detection_prompt(names).caption).ids])
        mask = torch.ones_like(ids, dtype=torch.bool)
        rows: dict[str, Any] = {}
        for precision, side, model, dtype, autocast in variants:
            pixels = torch.randn(1, 3, 800, 1344, dtype=dtype)

            def call(model: Any = model, pixels: Any = pixels, side: str = side, autocast: bool = autocast) -> None:
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, autocast):
                    if side == "ours":
                        model(pixels, ids, mask)  # noqa: B023
                    else:
                        model(pixel_values=pixels, input_ids=ids, attention_mask=mask.long())  # noqa: B023

            rows[f"{side} {precision}"] = timed(call, repeats)
            print(
                f"{prompt:8} {side:7} {precision:14} {rows[f'{side} {precision}']['seconds_median']:7.2f} s", flush=True
            )
        rows["times_faster_fp32"] = ratio(rows, ["theirs fp32"], "ours fp32")
        if native_bf16():
            rows["times_faster_bf16"] = ratio(rows, ["theirs bf16 autocast", "theirs bf16 weights"], "ours bf16")
        print(prompt, {k: round(v, 2) for k, v in rows.items() if k.startswith("times")})
        result[prompt] = rows
    print(machine())
    write("grounding_dino", result)


def ratio(rows: dict[str, Any], theirs: list[str], ours: str) -> float:
    return min(rows[t]["seconds_median"] for t in theirs) / rows[ours]["seconds_median"]


if __name__ == "__main__":
    main()
