"""Photos a second of the embedded model, decoding and suppression included, cached vocabulary of COCO-80.

python benchmarks/nano_rate.py
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from common import machine, matrix_peak, timed, write

import openglip
from openglip.prompts.tables import read_table

PHOTOS = sorted((Path(__file__).parents[1] / "examples" / "photos").glob("*.jpg"))

ROUNDS = 5


def main() -> None:
    photos = (PHOTOS * 16)[:64]
    # where "auto" is fp32, too, one detector is left
    detectors = {d.precision: d for d in (openglip.load(precision="fp32"), openglip.load(precision="auto"))}
    words = {precision: detector.encode_text(list(read_table("coco"))) for precision, detector in detectors.items()}
    seconds: dict[str, list[float]] = defaultdict(list)
    peaks: dict[str, list[float]] = defaultdict(list)
    for turn in range(ROUNDS + 1):  # settings in turn, as machines change their speed; the first round warms up
        for precision, detector in detectors.items():
            text = words[precision]
            for threads in (1, 2):
                torch.set_num_threads(threads)
                for batch in (1, 8):
                    name = f"{precision} threads {threads} batch {batch}"
                    peak = matrix_peak(torch.bfloat16 if precision == "bf16" else torch.float32)
                    spent = timed(lambda d=detector, t=text, b=batch: d.detect(photos, t, batch_size=b), 1, 0)
                    if turn:
                        peaks[name].append(peak)
                        seconds[name].append(spent["seconds_median"])
    result: dict[str, Any] = {}
    for name, spent in seconds.items():
        rates = sorted(len(photos) / s for s in spent)
        result[name] = {
            "photos_per_second": statistics.median(rates),
            "least": rates[0],
            "greatest": rates[-1],
            "peak_gflops": statistics.median(peaks[name]),
        }
        row = result[name]
        print(
            f"{name}: {row['photos_per_second']:.1f} photos a second ({rates[0]:.1f} to {rates[-1]:.1f}); "
            f"matrix products reach {row['peak_gflops']:.0f} GFLOP/s"
        )
    print(machine())
    write("nano_rate", result)


if __name__ == "__main__":
    main()
