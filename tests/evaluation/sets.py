"""Small data sets and predictions that several tests use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from openglip.cli.main import app

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"


def load_golden(name: str):
    return json.loads((GOLDENS / name).read_text())


def write_entities(root: Path) -> None:
    """The golden's ground truth as Flickr30k Entities is distributed."""
    for folder in ("Sentences", "Annotations"):
        (root / folder).mkdir()
    golden = load_golden("eval_flickr/ground_truth.json")
    for image, record in golden["images"].items():
        (root / "Sentences" / f"{image}.txt").write_text("\n".join(golden["sentence_files"][image]) + "\n")
        size = f"<size><width>{record['width']}</width><height>{record['height']}</height></size>"
        corners = ("xmin", "ymin", "xmax", "ymax")
        objects = [
            f"<object><name>{chain}</name><bndbox>"
            + "".join(f"<{c}>{v}</{c}>" for c, v in zip(corners, box, strict=True))
            + "</bndbox></object>"
            for chain, boxes in record["boxes"].items()
            for box in boxes
        ]
        objects += [f"<object><name>{c}</name><nobndbox>1</nobndbox></object>" for c in record["nobox"]]
        objects += [f"<object><name>{c}</name><scene>1</scene></object>" for c in record["scene"]]
        xml = f"<annotation>{size}{''.join(objects)}</annotation>"
        (root / "Annotations" / f"{image}.xml").write_text(xml)


def run_command(*arguments: object):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def square(i: int, image: int, category: int = 1, box=(10, 10, 40, 40)):
    return {
        "id": i,
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


def hit(image: int, score: float, category: int = 1, box=(10, 10, 40, 40)):
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def coco_file(annotations, names=("cat",), images: int = 4):
    return {
        "images": [{"id": i, "width": 100, "height": 80, "file_name": f"{i}.jpg"} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
    }


def coco_set(root: Path, images: int = 10, names=("cat", "dog", "a red ball"), **extra) -> Path:
    """Noise images of two shapes, one object each."""
    rng = np.random.default_rng(0)
    (root / "val2017").mkdir(parents=True)
    records, rows = [], []
    for i in range(images):
        width, height = (64, 48) if i % 3 else (48, 64)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(root / f"val2017/{i}.png")
        records.append({"id": 10 + i, "file_name": f"val2017/{i}.png", "width": width, "height": height} | extra)
        box = [8, 8, 24, 24]
        rows.append({"id": i, "image_id": 10 + i, "category_id": 5 * (i % len(names)), "bbox": box, "iscrowd": 0})
    categories = [{"id": 5 * k, "name": name, "frequency": "f"} for k, name in enumerate(names)]
    path = root / "truth.json"
    path.write_text(json.dumps({"images": records, "annotations": rows, "categories": categories}))
    return path


def dataset(boxes, *, crowd=(), areas=None, **image):
    """One image per list of boxes, one class, with 2 more classes that have no objects."""
    rows = []
    for i, image_boxes in enumerate(boxes):
        for box in image_boxes:
            area = box[2] * box[3] if areas is None else areas[len(rows)]
            rows.append({"id": len(rows) + 1, "image_id": i, "category_id": 1, "bbox": list(box), "area": area})
            rows[-1]["iscrowd"] = int(len(rows) - 1 in crowd)
    return {
        "images": [{"id": i, "width": 500, "height": 500, **image} for i in range(len(boxes))],
        "annotations": rows,
        "categories": [{"id": k, "name": f"class {k}", "frequency": "f"} for k in (1, 2, 3)],
    }


def result(image, box, score, category=1):
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def perfect(truth, score=lambda i: 0.9 - i / 1000):
    rows = [a for a in truth["annotations"] if not a.get("iscrowd")]
    return [result(a["image_id"], a["bbox"], score(i), a["category_id"]) for i, a in enumerate(rows)]
