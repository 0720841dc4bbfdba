"""How long judging takes: 5,000 images x 100 boxes against pycocotools, and a set of the size of LVIS val in memory.

    python benchmarks/evaluation_speed.py coco      # both evaluators on the same boxes, in this run
    python benchmarks/evaluation_speed.py lvis      # writes the synthetic files first, into --folder

Each prints a table and writes benchmarks/results/evaluation_speed_{coco,lvis}.json. Reading json is timed apart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from openglip.evaluation.coco import FIGURES, score_coco
from openglip.evaluation.read import read_annotations, read_results

RESULTS = Path(__file__).parent / "results"


def coco_set(images: int, per_image: int, classes: int, objects: int = 7, seed: int = 0):
    """Annotations and results with COCO's long tail of classes: two fifths of the boxes lie near an object."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, classes + 1)
    share /= share.sum()

    def boxes(n: int) -> np.ndarray:
        return np.concatenate([rng.uniform(0, 400, (n, 2)), np.exp(rng.uniform(2, 5.7, (n, 2)))], axis=1).round(2)

    true, label = boxes(images * objects), rng.choice(classes, images * objects, p=share)
    n = images * per_image
    image = np.repeat(np.arange(images), per_image)
    source = image * objects + rng.integers(0, objects, n)
    near = rng.random(n) < 0.4
    found = np.where(near[:, None], (true[source] * rng.uniform(0.85, 1.15, (n, 4))).round(2), boxes(n))
    guess = np.where(near & (rng.random(n) < 0.85), label[source], rng.choice(classes, n, p=share))
    scores = rng.random(n).round(4)
    crowd = rng.random(len(true)) < 0.01
    annotations = {
        "images": [{"id": i + 1, "width": 800, "height": 800} for i in range(images)],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(classes)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i // objects + 1,
                "category_id": int(k) + 1,
                "bbox": b,
                "area": b[2] * b[3],
                "iscrowd": int(c),
            }
            for i, (k, b, c) in enumerate(zip(label, true.tolist(), crowd, strict=True))
        ],
    }
    rows = [
        {"image_id": int(i) + 1, "category_id": int(k) + 1, "bbox": b, "score": float(s)}
        for i, k, b, s in zip(image, guess, found.tolist(), scores, strict=True)
    ]
    return annotations, rows


def machine() -> dict[str, object]:
    packages = {name: metadata.version(name) for name in ("numpy", "pycocotools")}
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version(), **packages}


def judge_coco(classes: int, repeats: int) -> dict[str, object]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, rows = coco_set(5000, 100, classes)
    annotations = read_annotations(truth)
    times: dict[str, list[float]] = {"rows to arrays": [], "judging": []}
    for _ in range(repeats):
        begin = time.perf_counter()
        found = read_results(rows, annotations)
        middle = time.perf_counter()
        ours = score_coco(annotations, found)
        times["rows to arrays"].append(middle - begin)
        times["judging"].append(time.perf_counter() - middle)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        begin = time.perf_counter()
        loaded = reference.loadRes(rows)
        middle = time.perf_counter()
        evaluation = COCOeval(reference, loaded, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        end = time.perf_counter()
    assert np.abs(np.array([ours.figures[name] for name in FIGURES]) - evaluation.stats).max() < 1e-9
    seconds = {name: round(float(np.median(values)), 3) for name, values in times.items()}
    theirs = {"loadRes": round(middle - begin, 3), "judging": round(end - middle, 3)}
    factor = round(theirs["judging"] / seconds["judging"], 1)
    whole = round(sum(theirs.values()) / sum(seconds.values()), 1)
    print(f"{classes:>4} classes: openglip {seconds}, pycocotools {theirs}: {factor} x, with the rows {whole} x")
    return {
        "classes": classes,
        "seconds_openglip": seconds,
        "seconds_pycocotools": theirs,
        "factor": factor,
        "factor_with_rows": whole,
    }


def write_lvis(folder: Path, images: int, classes: int, per_image: int) -> int:
    """Files of the size of LVIS v1 val (19,809 images, 1,203 classes, 244,707 boxes) with `per_image` results each."""
    rng = np.random.default_rng(0)
    boxes = np.round(np.concatenate([rng.uniform(0, 400, (244_707, 2)), rng.uniform(5, 200, (244_707, 2))], 1), 2)
    share = 1 / np.arange(1, classes + 1)
    label = rng.choice(classes, len(boxes), p=share / share.sum())
    place = rng.integers(0, images, len(boxes))
    records = [
        {
            "id": i,
            "coco_url": f"http://images.example/{'val' if i % 4 == 0 else 'train'}2017/{i:012d}.jpg",
            "neg_category_ids": rng.choice(classes, 6, replace=False).tolist(),
            "not_exhaustive_category_ids": rng.choice(classes, 1).tolist(),
        }
        for i in range(images)
    ]
    rows = [
        {"id": i, "image_id": int(p), "category_id": int(k), "bbox": b, "area": b[2] * b[3]}
        for i, (p, k, b) in enumerate(zip(place, label, boxes.tolist(), strict=True))
    ]
    categories = [{"id": k, "name": f"class {k}", "frequency": "fcr"[min(2, k // 401)]} for k in range(classes)]
    (folder / "truth.json").write_text(json.dumps({"images": records, "annotations": rows, "categories": categories}))
    by_image = [np.flatnonzero(place == i) for i in range(images)]
    with open(folder / "found.json", "w") as file:
        file.write("[")
        for i in range(images):
            own = rng.choice(by_image[i], per_image) if len(by_image[i]) else np.zeros(per_image, int)
            near = rng.random(per_image) < 0.1
            found = (boxes[own] * rng.uniform(0.9, 1.1, (per_image, 4))).round(2)
            guess = np.where(near, label[own], rng.integers(0, classes, per_image))
            lines = [
                f'{{"image_id": {i}, "category_id": {k}, "bbox": {b}, "score": {s:.5f}}}'
                for k, b, s in zip(guess.tolist(), found.tolist(), rng.random(per_image), strict=True)
            ]
            file.write(("," if i else "") + ",\n".join(lines))
        file.write("]")
    return images * per_image


def judge_lvis(folder: Path, images: int, per_image: int) -> dict[str, object]:
    folder.mkdir(parents=True, exist_ok=True)
    total = write_lvis(folder, images, 1203, per_image)
    size = (folder / "found.json").stat().st_size
    code = (
        "import sys, time, resource, openglip; b = time.perf_counter();"
        "r = openglip.evaluate('lvis', sys.argv[1], predictions=sys.argv[2]); s = time.perf_counter() - b;"
        "print(s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, r.figures['AP_fixed'])"
    )
    command = [sys.executable, "-c", code, str(folder / "truth.json"), str(folder / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory, ap = map(float, done.stdout.split())
    print(f"lvis: {images} images, {total:,} results, {size / 1e9:.2f} GB of json, AP_fixed {ap:.4f}")
    print(f"    {seconds:.0f} s with reading, peak {memory:.2f} GiB")
    (folder / "found.json").unlink()
    return {
        "images": images,
        "classes": 1203,
        "results": total,
        "json_gigabytes": round(size / 1e9, 3),
        "seconds_with_reading": round(seconds, 1),
        "peak_gibibytes": round(memory, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coco", "lvis"))
    parser.add_argument("--folder", type=Path, default=Path("openglip-output/evaluation_speed"))
    parser.add_argument("--images", type=int, default=19_809)
    parser.add_argument("--per-image", type=int, default=600, help="lvis: results of an image")
    arguments = parser.parse_args()
    if arguments.what == "coco":
        runs = [judge_coco(classes, repeats=3) for classes in (80, 1)]
    else:
        runs = [judge_lvis(arguments.folder, arguments.images, arguments.per_image)]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"evaluation_speed_{arguments.what}.json"
    path.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
