"""From images with captions to a few training steps of the example's recipe, with the stub as teacher."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from labelling.stub import fast

import openglip
from openglip.labelling.export import publish
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings

EXAMPLE = Path(__file__).parents[2] / "examples" / "student.py"


def test_the_examples_recipe_trains_the_embedded_model_on_published_labels(images: Path, tmp_path: Path) -> None:
    label(images, tmp_path / "run", model=fast, workers=0, labels=LabelSettings(chunker="rules"))
    data = tmp_path / "data"
    publish(tmp_path / "run", data / "labels")
    (data / "images").symlink_to(images)
    settings = {"data": str(data), "steps": 2, "batch_size": 2, "workers": 0, "checkpoint_every": 2, "warmup": 0}
    run = openglip.train(str(EXAMPLE), tmp_path / "student", settings=settings, device="cpu")
    lines = [json.loads(x) for x in (tmp_path / "student" / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [1, 2]
    assert all(math.isfinite(x["loss"]) for x in lines)
    before = openglip.load("nano", device="cpu").model.state_dict()
    after = run.load(device="cpu").model.state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert {"mobilenet", "keys", "text_projection", "query_projection"} <= changed
    assert not changed & {"bert", "yolox", "second_stage"}
