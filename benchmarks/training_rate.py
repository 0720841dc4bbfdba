"""Images a second of training, the share of time spent waiting for data, and data loading alone beside it.

    python benchmarks/training_rate.py [--models nano glip-t] [--device cuda] [--workers 1] [--steps 12]

The loop is the real one; pictures are made (640 x 480, JPEG, as in data_loading.py). `nano` trains on packed pictures
at its own sizes, from the embedded weights, in batches of 16; `glip-t` at 800 x 1066 in batches of --batch. The first
step is left out. Loading: from the 640-pixel originals to batches with a short side of 256, with the same workers. Rows
of models measured earlier on the same machine stay in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import earlier, machine, write
from data_loading import make_pictures, measure

sys.path.append(str(Path(__file__).resolve().parents[1] / "projects" / "nano"))

from batches import NanoBatches, Texts, all_texts
from lab import batches_from
from packing import Picture, pack
from recipe import recipe as nano_recipe

import openglip
from openglip.data.mixtures import Source
from openglip.data.training_prompts import detection_prompt_with_negatives
from openglip.data.transforms import Flip, Resize
from openglip.prompts.tables import read_table
from openglip.structures.sample import Sample
from openglip.training.loop import fit
from openglip.training.recipes import RECIPES

EMBEDDED = Path(openglip.__file__).parent / "weights" / "embedded"


def packed_batches(samples: list[Sample], recipe: Any, model: Any, folder: Path) -> Any:
    """The recipe's batches from made samples."""
    names = list(read_table("coco"))
    pictures = []
    for sample in samples:
        height, width = sample.size
        boxes = (sample.boxes / [width, height, width, height]).tolist()
        labels = tuple(names[label] for label in sample.labels)  # type: ignore[union-attr]
        absent = tuple(name for name in names if name not in labels)
        pictures.append((Picture("coco", str(sample.image_id), boxes, (), labels, absent), sample.image))
    folder.mkdir(parents=True, exist_ok=True)
    packed = pack(pictures, folder)
    batches = NanoBatches(packed, Texts.encode(all_texts(packed.pictures), model, folder), set())
    return lambda number: batches_from(batches, recipe, number)


def rate(name: str, samples: list[Sample], folder: Path, given: argparse.Namespace, steps: int) -> dict[str, Any]:
    """Train for some steps; images a second and share of waiting, without the first step."""
    device = torch.device(given.device)
    changes = {"steps": steps, "workers": given.workers, "checkpoint_every": steps, "evaluate_every": 0}
    if name == "nano":
        recipe = replace(nano_recipe(), weights=str(EMBEDDED), **changes)
    else:
        source = Source("made", samples, detection_prompt_with_negatives)
        recipe = replace(RECIPES[name](), **changes, sources=lambda _: [source], start={}, batch_size=given.batch)
        recipe = replace(recipe, precision="fp32" if given.device == "cpu" else recipe.precision, average=0.0)
        recipe = replace(recipe, transforms=(Resize((800,), 1333), Flip()))
    model = recipe.load_start(recipe, recipe.build_model(recipe)).to(device)
    if name == "nano":
        batches = packed_batches(samples, recipe, model, folder / "packed")
    else:
        batches = recipe.batches(recipe, model, folder)
    lines: list[Mapping[str, Any]] = []
    criterion = recipe.criterion(recipe, model)
    fit(model, criterion, batches, recipe, folder / name, report=lambda _, line: lines.append(line))
    seconds = sum(line["seconds"] for line in lines[1:])
    return {
        "images_per_second": sum(line["images"] for line in lines[1:]) / seconds,
        "share_waiting": sum(line["seconds_waiting"] for line in lines[1:]) / seconds,
        "batch": recipe.batch_size,
        "steps": len(lines) - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["nano", "glip-t"], choices=["nano", "glip-t"])
    parser.add_argument("--steps", type=int, help="default: 12 of nano, 3 of glip-t")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1, help="of glip-t")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=64)
    given = parser.parse_args()
    result: dict[str, Any] = {"device": given.device, "workers": given.workers, "load_average": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as place:
        samples = make_pictures(Path(place), given.pictures)
        loading = measure(samples, (Resize((256,), 512), Flip()), given.workers, 8.0)
        result["loading"] = loading["images_per_second"]
        print(f"loading alone: {result['loading']} images a second", flush=True)
        for name in given.models:
            steps = given.steps or {"nano": 12, "glip-t": 3}[name]
            result[name] = rate(name, samples, Path(place) / f"run-{name}", given, steps)
            result[name]["loading_is_faster_by"] = result["loading"] / result[name]["images_per_second"]
            print(f"{name}: {json.dumps(result[name])}", flush=True)
    print(machine())
    name = f"training_rate_{given.device}"
    write(name, earlier(name) | result)


if __name__ == "__main__":
    main()
