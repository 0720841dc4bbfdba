"""Images a second that data loading gives, from 640 x 480 JPEG originals to normalised batches with prompts.

    python benchmarks/data_loading.py [--workers 0 1 2] [--pictures 64] [--seconds 10] [--short-side 256]

Pictures are made here, at the size and detail of COCO's (about 110 KB each), so that nothing has to be downloaded.
Also given: images per second of processor time, which other programs on the machine do not change.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import write
from PIL import Image

from openglip.data.mixtures import Mixture, Source
from openglip.data.training_prompts import detection_prompt_with_negatives
from openglip.data.transforms import Flip, Resize
from openglip.images.prepare import Preparation
from openglip.structures.sample import Sample
from openglip.training.batches import batch_stream

NAMES = tuple(f"thing {i}" for i in range(80))


def make_pictures(folder: Path, number: int) -> list[Sample]:
    """Smooth colours with grain, as JPEG; seven boxes each, as COCO has on average."""
    samples = []
    for i in range(number):
        rng = np.random.default_rng(i)
        smooth = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize(
            (640, 480), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 12, (480, 640, 1))
        path = folder / f"{i}.jpg"
        Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)).save(path, quality=85)
        corners = np.sort(rng.uniform(0, 1, (7, 2, 2)), axis=1) * (640, 480) + ((0, 0), (1, 1))
        labels = rng.integers(0, 80, 7)
        boxes = corners.reshape(7, 4)
        samples.append(
            Sample(str(path), (480, 640), boxes, categories=NAMES, labels=labels, exhaustive=True, image_id=i)
        )
    return samples


def measure(samples: list[Sample], transforms: tuple, workers: int, seconds: float, batch_size: int = 16) -> dict:
    """Wall and processor rates of a stream after its first two batches."""
    mixture = Mixture([Source("made", samples, detection_prompt_with_negatives)])
    stream = batch_stream(mixture, transforms, Preparation(), batch_size, workers=workers)
    for _ in range(2):
        next(stream)
    images, begin, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        images += len(next(stream).sources)
    wall, used = time.perf_counter() - begin, time.process_time() - used
    row = {"workers": workers, "images_per_second": round(images / wall, 1)}
    return row if workers else {**row, "images_per_processor_second": round(images / used, 1)}


def main() -> None:
    """Print one JSON line per number of workers and kind of transforms, and write them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--short-side", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    resize = Resize((given.short_side,), 2 * given.short_side)
    kinds = {"resize, flip": (resize, Flip())}
    with tempfile.TemporaryDirectory() as folder:
        samples = make_pictures(Path(folder), given.pictures)
        size = sum(os.path.getsize(str(s.image)) for s in samples) / len(samples) / 1000
        rows = []
        for kind, transforms in kinds.items():
            for workers in given.workers:
                rows.append({"transforms": kind, **measure(samples, transforms, workers, given.seconds)})
                print(json.dumps(rows[-1]), flush=True)
    write(
        "data_loading",
        {
            "short_side": given.short_side,
            "kilobytes_per_picture": round(size),
            "load_average": os.getloadavg()[0],
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
