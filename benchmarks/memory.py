"""Peak resident memory of one call, each in a fresh process: GLIP-T against the faithful path, GLIP-L whole.

python benchmarks/memory.py
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import photo, write


def resident() -> int:
    """Resident bytes of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def child(name: str, path: str) -> None:
    """Load a model with random weights, make one call with COCO-80 at 800 x 1344, print the bytes."""
    from faithful import PROMPTS, faithful_detect

    from openglip.model.mode import plain_formulas
    from openglip.predict.detector import Detector
    from openglip.weights.load import load_model

    model = load_model(name, "random")
    image = photo()
    detector = Detector(model)
    before = peak = resident()
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, resident())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if path == "faithful":
        with plain_formulas():
            faithful_detect(model, image, PROMPTS["coco-80"])
    else:
        detector.detect(image, PROMPTS["coco-80"], threshold=0)
    stop.set()
    watcher.join()
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"before_gib": before / 2**30, "call_gib": (peak - before) / 2**30, "process_gib": whole / 2**30}))


def main() -> None:
    if len(sys.argv) == 3:
        child(*sys.argv[1:])
        return
    result = {}
    for name, path in (("glip-t", "fast"), ("glip-t", "faithful"), ("glip-l", "fast")):
        run = subprocess.run([sys.executable, __file__, name, path], check=True, capture_output=True, text=True)
        result[f"{name} {path}"] = json.loads(run.stdout.splitlines()[-1])
        print(f"{name} {path}: {result[f'{name} {path}']}")
    write("memory", result)


if __name__ == "__main__":
    main()
