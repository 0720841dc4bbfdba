"""GLIP-T against the faithful path, in turn: whole call and per component, COCO-80 and three names, fp32 and bf16.

The faithful path does what the official code does, with the same weights and image: text padded to 256 tokens,
fusion as the formula stands, torchvision's deformable convolution, group norm and dynamic ReLU one after the other.
It is the plain path of the model, which passes the same goldens. Run on a quiet machine:

    python benchmarks/faithful.py
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import in_turn, machine, matrix_peak, photo, spread, times_faster, write

from openglip.images.prepare import pad_batch, prepare
from openglip.model.bert import BertLayer
from openglip.model.dyhead import DyConv
from openglip.model.glip import GLIP
from openglip.model.head import Head
from openglip.model.mode import plain_formulas
from openglip.model.postprocess import best_candidates, class_scores, suppress
from openglip.predict.backends.torch import to_arrays
from openglip.predict.detector import Detector
from openglip.prompts.spans import token_map
from openglip.prompts.tables import read_table
from openglip.prompts.text import detection_prompt
from openglip.prompts.tokens import tokenize
from openglip.runtime import has_native_bf16
from openglip.weights.load import load_model

PROMPTS = {"coco-80": list(read_table("coco")), "three": ["person", "dog", "traffic light"]}


def faithful_detect(model: GLIP, image: np.ndarray, names: list[str]) -> int:
    """The official order of operations; returns the number of detections."""
    prompt = detection_prompt(names)
    tokens = tokenize(prompt.caption)
    ids = torch.zeros(1, 256, dtype=torch.long)
    ids[0, : len(tokens)] = torch.tensor(tokens.ids)
    mask = torch.arange(256)[None] < len(tokens)
    pixels = prepare(image, model.preparation)
    with torch.inference_mode():
        out = model(torch.from_numpy(pad_batch([pixels])), ids, mask)
        scores = class_scores(out.logits[0], token_map(prompt, tokens))
        anchors = model.anchors(out.sizes)
        size = (pixels.shape[1], pixels.shape[2])
        found = best_candidates(scores, out.box_regression[0], out.centerness[0], anchors, out.sizes, size)
        return len(to_arrays(suppress(found)).best(100).scores)


@contextlib.contextmanager
def components(model: GLIP, seconds: dict[str, float]):
    """Add up the seconds that each part of the model takes."""
    parts = {model.backbone["body"]: "swin", model.backbone["fpn"]: "fpn"}
    parts[model.language_backbone["body"]["model"]] = "bert"  # type: ignore[index]
    for module in model.head.dyhead_tower:
        kind = "dyhead" if isinstance(module, DyConv) else "text layers" if isinstance(module, BertLayer) else "fusion"
        parts[module] = kind
    starts: dict[Any, float] = {}
    handles = []
    for module, name in parts.items():

        def before(module: Any, _: Any) -> None:
            starts[module] = time.perf_counter()

        def after(module: Any, _: Any, __: Any, name: str = name) -> None:
            seconds[name] += time.perf_counter() - starts[module]

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    yield
    for handle in handles:
        handle.remove()


def parts_of(model: GLIP, call: Callable[[], Any]) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    with components(model, seconds):
        call()
    return {k: round(v, 3) for k, v in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    image = photo()
    model: GLIP = load_model("glip-t", "random")  # type: ignore[assignment]
    assert isinstance(model.head, Head)
    precisions = ["fp32", "bf16"] if has_native_bf16() else ["fp32"]
    result: dict[str, Any] = {
        "peak_gflops": {"fp32": matrix_peak(torch.float32), "bf16": matrix_peak(torch.bfloat16)},
        "image": [800, 1344],
    }
    for prompt, names in PROMPTS.items():
        models: dict[str, GLIP] = {}
        calls: dict[str, Callable[[], Any]] = {}
        for precision in precisions:
            detector = Detector(model, precision=precision)  # type: ignore[arg-type]

            def ours(detector: Detector = detector, names: list[str] = names) -> None:
                detector._text._cache.clear()  # the text is part of the whole call
                detector.detect(image, names, threshold=0)

            models[precision], calls[precision] = detector.model, ours

        def faithful(names: list[str] = names) -> None:
            with plain_formulas():
                faithful_detect(model, image, names)

        models["faithful"], calls["faithful"] = model, faithful
        seconds = in_turn(calls, rounds)
        rows: dict[str, Any] = {
            name: {
                **spread(seconds[name]),
                **times_faster(seconds[name], seconds["faithful"]),
                "components": parts_of(models[name], call),
            }
            for name, call in calls.items()
        }
        result[prompt] = rows
        for name, row in rows.items():
            parts = "  ".join(f"{k} {v:.2f}" for k, v in row["components"].items())
            ratio = f"{row['times_faster']:5.2f} x ({row['times_faster_min']:.2f} to {row['times_faster_max']:.2f})"
            print(f"{prompt:8} {name:9} {row['seconds_median']:7.2f} s  {ratio}   {parts}")
    print(machine(), result["peak_gflops"])
    write("faithful", result)


if __name__ == "__main__":
    main()
