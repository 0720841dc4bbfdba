"""Random detection sets that hit the corners: ties of score and overlap, crowds, all sizes, absent classes."""

from __future__ import annotations

import numpy as np


def random_coco(seed: int, *, images: int = 12, classes: int = 4, per_image: int = 12, federated: bool = False):
    """Annotations and a results list in COCO's (or LVIS's) form."""
    rng = np.random.default_rng(seed)
    coarse = bool(rng.integers(2))  # whole pixels on a grid make equal overlaps

    def box() -> list[float]:
        side = np.exp(rng.uniform(np.log(4), np.log(250), 2))
        corner = rng.uniform(0, 300, 2)
        return (np.round([*corner, *side] if not coarse else np.array([*corner, *side]) / 16) * 16 + 16).tolist()

    ids = sorted(rng.choice(500, images, replace=False).tolist())
    labels = sorted((rng.choice(90, classes, replace=False) + 1).tolist())
    truth, found = [], []
    for image in ids:
        for _ in range(rng.integers(0, 6)):
            b = box()
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice(labels[:-1])),
                    "bbox": b,
                    "area": b[2] * b[3] * float(rng.uniform(0.4, 1)),
                    "iscrowd": 0 if federated else int(rng.random() < 0.15),
                }
            )
            if federated and rng.random() < 0.1:
                truth[-1]["ignore"] = 1
        near = [t for t in truth if t["image_id"] == image]
        for _ in range(rng.integers(0, per_image)):
            b, label = box(), int(rng.choice(labels))
            if near and rng.random() < 0.7:
                like = near[rng.integers(len(near))]
                b = (
                    (np.array(like["bbox"]) + rng.integers(-3, 4, 4) * (0 if rng.random() < 0.3 else 3))
                    .clip(1)
                    .tolist()
                )
                label = like["category_id"] if rng.random() < 0.8 else label
            found.append(
                {"image_id": image, "category_id": label, "bbox": b, "score": float(np.round(rng.random(), 1))}
            )
    order = rng.permutation(len(found))
    annotations = {
        "images": [{"id": i, "width": 640, "height": 480, "file_name": f"{i:012d}.jpg"} for i in ids],
        "annotations": truth,
        "categories": [{"id": c, "name": f"class {c}"} for c in labels],
    }
    if federated:
        for image in annotations["images"]:
            image["coco_url"] = f"http://images.example/val2017/{image['id']:012d}.jpg"
            image["neg_category_ids"] = rng.choice(labels, 2, replace=False).tolist()
            image["not_exhaustive_category_ids"] = rng.choice(labels, 1).tolist() if rng.random() < 0.4 else []
        for i, category in enumerate(annotations["categories"]):
            category["frequency"] = "rcf"[i % 3]
    return annotations, [found[i] for i in order]
