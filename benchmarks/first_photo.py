"""Where the seconds of the README's first photo go, in fresh processes: importing torch and torchvision, and the rest.

python benchmarks/first_photo.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import machine, write

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "coffee.jpg"
REPEATS = 5
CHILD = """
import json, pathlib, sys, time
begin = last = time.perf_counter()
seconds = {}
def lap(name):
    global last
    now = time.perf_counter()
    seconds[name] = now - last
    last = now
import torch, torchvision
lap("import torch and torchvision")
import openglip
from openglip.cli import main, detect, output
import openglip.predict.detector
lap("import the rest")
detector = openglip.load()
lap("read the weights, build the model")
text = detector.encode_text("cup. table. cat")
lap("encode the words")
found = detector.detect(sys.argv[1], text)
lap("photo to boxes")
with output.Output(pathlib.Path(sys.argv[2]), "jsonl", pictures=True) as out:
    out.add(found)
lap("write results and picture")
print(json.dumps(seconds))
"""


def main() -> None:
    runs = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", CHILD, str(PHOTO), folder]
            said = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(said.stdout.splitlines()[-1]))
    seconds = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    besides = statistics.median(sum(run.values()) - run["import torch and torchvision"] for run in runs)
    for name, value in seconds.items():
        print(f"{value:6.2f} s  {name}")
    print(f"{besides:6.2f} s  besides torch and torchvision")
    write("first_photo", {"machine": machine(), "seconds": seconds, "besides_torch": besides})


if __name__ == "__main__":
    main()
