"""Boxes of transformers' Grounding DINO as a file that `openglip evaluate coco --predictions` judges.

python examples/predictions_from_grounding_dino.py truth.json images found.json IDEA-Research/grounding-dino-tiny
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image


def predictions(model: Any, processor: Any, annotations: dict, images: Path, threshold: float = 0.05) -> list[dict]:
    ids = {category["name"].lower(): category["id"] for category in annotations["categories"]}
    rows = []
    for record in annotations["images"]:
        picture = Image.open(images / record["file_name"]).convert("RGB")
        inputs = processor(images=picture, text=[list(ids)], return_tensors="pt")
        with torch.inference_mode():
            outputs = model.eval()(**inputs)
        found = processor.post_process_grounded_object_detection(
            outputs, inputs.input_ids, threshold=threshold, text_threshold=threshold, target_sizes=[picture.size[::-1]]
        )[0]
        for (x1, y1, x2, y2), label, score in zip(
            found["boxes"].tolist(), found["text_labels"], found["scores"].tolist(), strict=True
        ):
            if label in ids:  # a box may also be given words of several names: it then has no class
                box = [x1, y1, x2 - x1, y2 - y1]
                rows.append({"image_id": record["id"], "category_id": ids[label], "bbox": box, "score": score})
    return rows


if __name__ == "__main__":
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    truth, folder, output, name = sys.argv[1:5]
    peer = AutoModelForZeroShotObjectDetection.from_pretrained(name), AutoProcessor.from_pretrained(name)
    Path(output).write_text(json.dumps(predictions(*peer, json.loads(Path(truth).read_text()), Path(folder))))
