"""Boxes of torchvision's Faster R-CNN or Mask R-CNN as a file that `openglip evaluate coco --predictions` judges.

python examples/predictions_from_torchvision.py instances_val2017.json val2017 found.json fasterrcnn_resnet50_fpn
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from torchvision.models import get_model
from torchvision.transforms.functional import to_tensor


def predictions(model: torch.nn.Module, annotations: dict, images: Path) -> list[dict]:
    known = {category["id"] for category in annotations["categories"]}
    rows = []
    for record in annotations["images"]:
        picture = to_tensor(Image.open(images / record["file_name"]).convert("RGB"))
        with torch.inference_mode():
            found = model.eval()([picture])[0]  # labels are COCO's category ids
        for (x1, y1, x2, y2), label, score in zip(
            *(found[k].tolist() for k in ("boxes", "labels", "scores")), strict=True
        ):
            if label in known:
                box = [x1, y1, x2 - x1, y2 - y1]
                rows.append({"image_id": record["id"], "category_id": label, "bbox": box, "score": score})
    return rows


if __name__ == "__main__":
    truth, folder, output, name = sys.argv[1:5]
    found = predictions(get_model(name, weights="DEFAULT"), json.loads(Path(truth).read_text()), Path(folder))
    Path(output).write_text(json.dumps(found))
