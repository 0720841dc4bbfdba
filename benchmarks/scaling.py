"""How the time of a call grows: tokens, categories, image size, batch; and GLIP-T (A) with a cached vocabulary.

python benchmarks/scaling.py [SECTION ...]       # sections of earlier calls on the same machine stay in the file
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from common import earlier, machine, photo, timed, write

from openglip.predict.detector import Detector
from openglip.prompts.tables import read_table
from openglip.weights.load import load_model

COCO = list(read_table("coco"))


def names(count: int) -> list[str]:
    """COCO's names, then pairs of them."""
    return [*COCO, *(f"{a} {b}" for a in COCO for b in COCO if a != b)][:count]


def by_tokens(model: Any) -> dict[str, Any]:
    pixels, rows = torch.randn(1, 3, 800, 1344), {}
    with torch.inference_mode():
        pyramid = model.encode_image(pixels)
        for tokens in (4, 16, 64, 128, 194, 256):
            ids = torch.randint(1000, 2000, (1, tokens))
            text = model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))
            rows[str(tokens)] = timed(lambda text=text: model.align(pyramid, text), 3)
    return rows


def by_categories(detector: Detector, image: np.ndarray, counts: tuple[int, ...], repeats: int) -> dict[str, Any]:
    rows = {}
    for count in counts:
        text = detector.encode_text(names(count))
        rows[str(count)] = {
            "prompts": len(text.prompts),
            **timed(lambda text=text: detector.detect(image, text, threshold=0), repeats),
        }
    return rows


def shifted(model: Any, image: np.ndarray, per_level: int = 500) -> Any:
    """Shift the scores so that about `per_level` (anchor, token) pairs of a level pass the cut, as real weights do."""
    detector = Detector(model)
    text = detector.encode_text(COCO)
    with torch.inference_mode():
        encoded = detector.encode(image)
        out = model.align(encoded.maps, type(text.prompts[0].tokens)(*(f[None] for f in text.prompts[0].tokens)))
        levels = out.logits[0].split([h * w for h, w in out.sizes])
        highest = torch.stack([level.flatten().topk(min(per_level, level.numel() // 4)).values[-1] for level in levels])
        model.head.bias0 += torch.logit(torch.tensor(0.05)) - highest.median()
    return model


def measure(section: str) -> dict[str, Any]:
    image = photo()
    if section == "vocabulary":
        detector = Detector(shifted(load_model("glip-t-a", "random"), image))
        rows = by_categories(detector, image, (80, 1203), 5)
        return {**rows, "ratio_1203_to_80": rows["1203"]["seconds_median"] / rows["80"]["seconds_median"]}
    model: Any = load_model("glip-t", "random")
    detector = Detector(model)
    if section == "tokens":
        return by_tokens(model)
    if section == "categories":
        return by_categories(detector, image, (80, 365), 2)
    if section == "short_side":
        sides = (320, 480, 640, 800)
        return {
            str(s): timed(lambda s=s: detector.detect(image, COCO[:3], short_side=s, threshold=0), 2) for s in sides
        }
    return {
        str(b): timed(lambda b=b: detector.detect([image] * b, COCO[:3], batch_size=b, threshold=0), 1)
        for b in (1, 2, 4)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["tokens", "categories", "short_side", "batch", "vocabulary"]
    parser.add_argument("sections", nargs="*", default=every, choices=[*every, every])
    result = {section: measure(section) for section in parser.parse_args().sections}
    for name, row in result.items():
        print(name, {k: round(v["seconds_median"], 2) if isinstance(v, dict) else round(v, 2) for k, v in row.items()})
    print(machine())
    write("scaling", earlier("scaling") | result)


if __name__ == "__main__":
    main()
