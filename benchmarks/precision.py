"""What bf16 costs: figures of the embedded model in bf16 and fp32 on the same photos, and GLIP-T's outputs.

    python benchmarks/precision.py --flickr FLICKR_VAL --ids IDS --coco COCO_JSON --photos COCO_PHOTOS --output FOLDER

Differences have the 95 % interval of a bootstrap by photo. GLIP-T has the synthetic weights of the golden values and
looks at the example photos.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, write

sys.path.append(str(Path(__file__).resolve().parents[1] / "projects" / "ladder"))

from ladder_figures import Figure, ap50, draws_of, recall

import openglip
from openglip.evaluation.flickr import read_sentences
from openglip.evaluation.read import read_annotations
from openglip.predict.detector import Detector
from openglip.prompts.tables import read_table
from openglip.structures.boxes import iou
from openglip.weights.load import build_model

ROOT = Path(__file__).parents[1]


def difference(exact: Figure, half: Figure, photos: int) -> dict[str, float]:
    low, high = np.percentile([half(w) - exact(w) for w in draws_of(photos)], [2.5, 97.5])
    once = np.ones(photos)
    return {"fp32": exact(once), "bf16": half(once), "difference": half(once) - exact(once), "low": low, "high": high}


def nano(arguments: argparse.Namespace) -> dict[str, Any]:
    folders = {p: arguments.output / p for p in ("fp32", "bf16")}
    for precision, folder in folders.items():
        common: dict[str, Any] = {"model": "nano", "precision": precision, "batch_size": 1}
        openglip.evaluate(
            "flickr30k",
            arguments.flickr,
            images=arguments.flickr / "images",
            ids=arguments.ids,
            output=folder / "flickr",
            **common,
        )
        openglip.evaluate("coco", arguments.coco, images=arguments.photos, output=folder / "coco", **common)
    sentences, _ = read_sentences(arguments.flickr, arguments.ids.read_text().split())
    annotations = read_annotations(arguments.coco)
    recalls = [recall(sentences, folder / "flickr" / "predictions.json") for folder in folders.values()]
    precisions = [ap50(annotations, folder / "coco" / "predictions.json") for folder in folders.values()]
    return {
        "Recall@1": difference(recalls[0], recalls[1], len(recalls[0].phrases)),
        "AP50": difference(precisions[0], precisions[1], len(annotations.images)),
    }


def glip_t() -> dict[str, float]:
    """Largest and mean difference of fp32's detections from bf16's best overlap of the same class."""
    sys.path.insert(0, str(ROOT / "tests"))
    from model.golden import fill_model

    model = fill_model(build_model("glip-t"))
    exact, half = Detector(model, precision="fp32"), Detector(model, precision="bf16")
    scores, overlaps = [], []
    for photo in sorted((ROOT / "examples" / "photos").glob("*.jpg")):
        a, b = (d.detect(photo, list(read_table("coco")), threshold=0, top_k=100) for d in (exact, half))
        same = a.labels[:, None] == b.labels[None]
        near = np.where(same, iou(a.boxes, b.boxes), -1) if len(b) else np.full((len(a), 1), -1.0)
        best = near.argmax(1)
        overlaps += near.max(1).tolist()
        scores += [abs(a.scores[i] - b.scores[k]) for i, k in enumerate(best) if near[i, k] >= 0.5]
    found = np.array(overlaps) >= 0.5
    return {
        "detections": len(overlaps),
        "share_found_again": float(found.mean()),
        "score_difference_mean": float(np.mean(scores)),
        "score_difference_max": float(np.max(scores)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("flickr", "ids", "coco", "photos", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    result = {"nano": nano(arguments), "glip-t": glip_t(), "machine": machine()}
    for name, row in result["nano"].items():
        print(f"{name}: fp32 {row['fp32']:.4f}, bf16 {row['bf16']:.4f}, {100 * row['difference']:+.2f} points"
              f" ({100 * row['low']:+.2f} to {100 * row['high']:+.2f})")  # fmt: skip
    print("glip-t", result["glip-t"], torch.get_num_threads(), "threads")
    write("precision", result)


if __name__ == "__main__":
    main()
