"""The named recipes: promised fields, lab notes, prompts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from openglip.training.recipes import RECIPES
from openglip.training.run import find_recipe
from openglip.training.settings import to_json

INTERFACE_FIELDS = {"steps", "batch_size", "lr", "seed", "checkpoint_every", "evaluate_every", "workers", "data"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_promised_fields_and_a_lab_note(name: str) -> None:
    assert to_json(RECIPES[name]()).keys() >= INTERFACE_FIELDS
    note = RECIPES[name].__doc__ or ""
    for word in ("Data:", "Score:", "Hardware", f"`openglip train {name}"):
        assert word in note, word


def test_fine_tuning_asks_all_names_in_their_order(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 80}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(("cat", "dog", "bus"), start=1)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    (tmp_path / "coco" / "train2017").mkdir()
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    recipe = find_recipe("coco-finetune-t", {"data": str(tmp_path)})
    (source,) = recipe.sources(recipe)
    for seed in range(4):
        prompt = source.prompt(source.samples[0], random.Random(seed), np.random.RandomState(seed))
        assert prompt.caption.startswith("cat. dog. bus")
