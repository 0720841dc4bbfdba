"""Photos a second of the embedded model, decoding and suppression included, cached vocabulary of COCO-80.

python benchmarks/nano_rate.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from common import machine, timed, write

import openglip
from openglip.prompts.tables import read_table

PHOTOS = sorted((Path(__file__).parents[1] / "examples" / "photos").glob("*.jpg"))


def main() -> None:
    result: dict[str, Any] = {}
    photos = (PHOTOS * 16)[:64]
    for precision in ("fp32", "auto"):
        detector = openglip.load(precision=precision)  # type: ignore[arg-type]
        text = detector.encode_text(list(read_table("coco")))
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for batch in (1, 8):

                def call(detector: Any = detector, text: Any = text, batch: int = batch) -> None:
                    detector.detect(photos, text, batch_size=batch)

                seconds = timed(call, 3)
                seconds["photos_per_second"] = len(photos) / seconds["seconds_median"]
                result[f"{detector.precision} threads {threads} batch {batch}"] = seconds
    for name, row in result.items():
        print(f"{name}: {row['photos_per_second']:.1f} photos a second")
    print(machine())
    write("nano_rate", result)


if __name__ == "__main__":
    main()
