"""Where the seconds of the README's first photo go, in fresh processes: importing torch, and the rest.

torchvision is not imported any more. The package is compiled to byte code first, as pip does when it installs.

python benchmarks/first_photo.py
"""

from __future__ import annotations

import compileall
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import machine, write

import openglip

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "coffee.jpg"
WORDS = "cup. table. cat"
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
import torch
lap("import torch")
import openglip
from openglip.cli import main, detect, output
import openglip.predict.detector
lap("import the rest")
detector = openglip.load()
lap("read the weights, build the model")
text = detector.encode_text(sys.argv[3])
lap("encode the words")
found = detector.detect(sys.argv[1], text)
lap("photo to boxes")
with output.Output(pathlib.Path(sys.argv[2]), "jsonl", pictures=True) as out:
    out.add(found)
lap("write results and picture")
print(json.dumps(seconds))
"""


def main() -> None:
    compileall.compile_dir(Path(openglip.__file__).parent, quiet=1)
    runs, commands = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", CHILD, str(PHOTO), folder, WORDS]
            said = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(said.stdout.splitlines()[-1]))
            command = [sys.executable, "-m", "openglip", "detect", str(PHOTO), "--prompt", WORDS, "--output", folder]
            begin = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            commands.append(time.perf_counter() - begin)
    seconds = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    besides = statistics.median(sum(run.values()) - run["import torch"] for run in runs)
    whole = statistics.median(commands)
    for name, value in seconds.items():
        print(f"{value:6.2f} s  {name}")
    print(f"{besides:6.2f} s  besides torch")
    print(f"{whole:6.2f} s  the command, from start to end")
    write("first_photo", {"machine": machine(), "seconds": seconds, "besides_torch": besides, "command": whole})


if __name__ == "__main__":
    main()
