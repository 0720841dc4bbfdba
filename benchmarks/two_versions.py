"""The speed of two checkouts in turn: nano (threads 2; batch 1 and 8, 80 names) and GLIP-T (800 x 1344, 80 names).

    python benchmarks/two_versions.py OLD/src NEW/src [--turns 7] [--models nano glip-t]

Each version runs in its own process, which stays loaded; the processes take turns, so that a change of the machine's
speed affects both. Prints the ratio old / new of each measurement: above 1 the new version is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import write

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
CHILD = """
import sys, time, warnings
from pathlib import Path
import numpy as np
import torch
import openglip
from openglip.prompts.tables import read_table
warnings.simplefilter("ignore")
torch.set_num_threads(2)
names, photos = list(read_table("coco")), [str(p) for p in sorted(Path(sys.argv[2]).glob("*.jpg"))]
if sys.argv[1] == "nano":
    detector = openglip.load()
    text = detector.encode_text(names)
    calls = {f"batch {n}": lambda n=n: detector.detect((photos * 16)[:64], text, batch_size=n) for n in (1, 8)}
else:
    detector = openglip.load(sys.argv[1], "random")
    image = np.random.default_rng(0).integers(0, 255, (800, 1344, 3), dtype=np.uint8)
    text = detector.encode_text(names)
    calls = {"one image": lambda: detector.detect(image, text, threshold=0)}
for line in sys.stdin:
    begin = time.perf_counter()
    calls[line.strip()]()
    print(time.perf_counter() - begin, flush=True)
"""
CALLS = {"nano": ("batch 1", "batch 8"), "glip-t": ("one image",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs=2, metavar=("OLD", "NEW"))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--models", nargs="+", default=list(CALLS), choices=list(CALLS))
    arguments = parser.parse_args()
    result = {}
    for model in arguments.models:
        children = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, model, str(PHOTOS)],
                env={**os.environ, "PYTHONPATH": str(Path(source).resolve())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for source in arguments.sources
        ]
        for call in CALLS[model]:
            turns = [[_seconds(child, call) for child in children] for _ in range(arguments.turns + 1)][1:]  # warm-up
            ratios = [old / new for old, new in turns]
            result[f"{model}, {call}"] = {"seconds_old_new": turns, "ratio": statistics.median(ratios)}
            print(
                f"{model}, {call}: old / new {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            )
        for child in children:
            child.communicate()
    write("two_versions", {"turns": arguments.turns, "result": result})


def _seconds(child: subprocess.Popen[str], call: str) -> float:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(call + "\n")
    child.stdin.flush()
    return float(child.stdout.readline())


if __name__ == "__main__":
    main()
