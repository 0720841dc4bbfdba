"""From pictures with captions to a training step of the example's recipe, with the stub as teacher."""

from __future__ import annotations

import json
import math
from pathlib import Path

from labelling.stub import fast

from openglip.labelling.export import publish
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings
from openglip.training.run import start, train

EXAMPLE = Path(__file__).parents[2] / "examples" / "student.py"


def test_the_examples_recipe_trains_on_published_labels(pictures: Path, tmp_path: Path) -> None:
    label(pictures, tmp_path / "run", model=fast, workers=0, labels=LabelSettings(chunker="rules"))
    data = tmp_path / "data"
    publish(tmp_path / "run", data / "labels")
    (data / "images").symlink_to(pictures)
    settings = {"data": str(data), "model": "debug", "steps": 2, "batch_size": 2, "workers": 0, "checkpoint_every": 2}
    recipe = start(str(EXAMPLE), tmp_path / "student", settings)
    train(recipe, tmp_path / "student", device="cpu")
    lines = [json.loads(x) for x in (tmp_path / "student" / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [1, 2]
    assert all(math.isfinite(x["loss"]) for x in lines)
