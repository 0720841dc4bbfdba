"""`openglip.train`: what it returns and reports; a model of one's own in all of the package."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from own_model import own_recipe
from PIL import Image

import openglip
from openglip.errors import ConfigError
from openglip.runtime import Progress
from openglip.training.shapes import PAIRS, Shapes


def write_shapes(folder: Path) -> Path:
    """Two generated images with captions next to them, and their annotations."""
    images, annotations = [], []
    for i in range(2):
        sample = Shapes(2, PAIRS, 5)[i]
        assert sample.labels is not None
        Image.open(io.BytesIO(sample.image)).save(folder / f"{i}.png")  # type: ignore[arg-type]
        names = [PAIRS[label] for label in sample.labels]
        (folder / f"{i}.txt").write_text("a " + " and a ".join(names))
        images.append({"id": i, "file_name": f"{i}.png", "height": 96, "width": 96})
        for (x1, y1, x2, y2), label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": label, "bbox": box})
    categories = [{"id": i, "name": name} for i, name in enumerate(PAIRS)]
    path = folder / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_a_model_of_ones_own_trains_detects_labels_and_is_evaluated(tmp_path: Path) -> None:
    val = write_shapes(tmp_path)
    recipe = own_recipe(evaluate_every=3, val=str(val), val_images=str(tmp_path))
    seen: list[Progress] = []
    run = openglip.train(recipe, tmp_path / "run", device="cpu", progress=seen.append)
    assert (run.folder, run.steps, run.skipped, run.best_step) == (tmp_path / "run", 3, 0, 3)
    assert run.best == run.figures["AP50"]
    assert [(p.done, p.total, p.unit, p.message) for p in seen] == [
        *((step, 3, "steps", "") for step in (1, 2, 3)),
        (3, 3, "steps", "evaluation"),
    ]
    assert all(p.figures["loss"] > 0 for p in seen[:3])
    detector = run.load(device="cpu")
    best = run.load(best=True, device="cpu").model.state_dict()
    assert all(torch.equal(value, best[key]) for key, value in detector.model.state_dict().items())
    detections = detector.detect(np.zeros((96, 96, 3), np.uint8), ["red circle", "blue square"], threshold=0)
    assert len(detections) > 0
    report = openglip.evaluate("coco", val, images=tmp_path, model=detector)
    assert report.figures["AP50"] == pytest.approx(run.figures["AP50"], abs=1e-6)
    manifest = openglip.label(tmp_path, tmp_path / "labels", model=detector, workers=0, threshold=0.01)
    assert manifest is not None
    lines = [json.loads(x) for f in (tmp_path / "labels" / "shards").glob("*.jsonl") for x in f.open()]
    assert [line["filename"] for line in lines] == ["0.png", "1.png"]


def test_a_run_of_a_recipe_in_python_is_resumed_with_it(tmp_path: Path) -> None:
    first = openglip.train(own_recipe(), tmp_path, device="cpu")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="resume it with that Recipe"):
        openglip.train(resume=tmp_path)
    again = openglip.train(own_recipe(lr=5.0), resume=tmp_path, device="cpu")
    assert again.recipe.lr == first.recipe.lr  # settings are those of the folder
    assert (tmp_path / "model.safetensors").is_file()
    with pytest.raises(ConfigError, match="not both"):
        openglip.train("debug", resume=tmp_path)


def test_the_old_callback_still_works(tmp_path: Path) -> None:
    lines: list[tuple[str, int]] = []
    with pytest.warns(DeprecationWarning, match="use progress"):
        openglip.train(own_recipe(steps=1), tmp_path, report=lambda kind, line: lines.append((kind, line["step"])))
    assert lines == [("train", 1)]
