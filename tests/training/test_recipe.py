"""Recipes as records: settings by name, errors that help, and the way through recipe.json."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from openglip.data.mixtures import Mixture, Source
from openglip.data.training_prompts import detection_prompt_of_all
from openglip.errors import ConfigError
from openglip.files import folder_lock
from openglip.structures.sample import Sample
from openglip.training.components import check_categories, first_batch
from openglip.training.recipes import RECIPES
from openglip.training.run import find_recipe, resume, start
from openglip.training.settings import to_json, with_settings

INTERFACE_FIELDS = {"steps", "batch_size", "lr", "seed", "checkpoint_every", "evaluate_every", "workers", "data"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_the_promised_fields_and_a_lab_note(name: str) -> None:
    assert to_json(RECIPES[name]()).keys() >= INTERFACE_FIELDS
    note = RECIPES[name].__doc__ or ""
    for word in ("Data:", "Score:", "Hardware", f"`openglip train {name}"):
        assert word in note, word


def test_settings_are_read_from_strings() -> None:
    changed = find_recipe(
        "debug",
        {
            "steps": "7",
            "lr": "1e-4",
            "text_lr": "none",
            "milestones": "0.5,0.8",
            "lr_of": '{"rpn.": 1}',
            "precision": "bf16",
            "use_average": "false",
            "data": "5",
        },
    )
    assert (changed.steps, changed.lr, changed.text_lr, changed.precision) == (7, 1e-4, None, "bf16")
    assert (changed.milestones, changed.lr_of, changed.use_average) == ((0.5, 0.8), {"rpn.": 1.0}, False)
    assert changed.data == "5"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"step": 3}, "no field 'step': did you mean 'steps'"),
        ({"xyzzy": 3}, "no field 'xyzzy': there are name, model"),
        ({"steps": "many"}, "steps is 'many', it must be of type int"),
        ({"steps": "1.5"}, "steps is 1.5, it must be of type int"),
        ({"steps": "0"}, "steps is 0, it must be at least 1"),
        ({"workers": "-1"}, "workers is -1, it must not be negative"),
        ({"clip": -1.0}, "clip is -1.0, it must not be negative"),
        ({"text_lr": -1e-3}, "text_lr is -0.001, it must not be negative"),
        ({"lr": "NaN"}, "lr is nan, it must be a finite number"),
        ({"milestones": "-5"}, "milestones is"),
        ({"seed": "-1"}, "seed is -1, it must be from 0"),
        ({"seed": str(10**20)}, "it must be from 0"),
        ({"batch_size": 16, "accumulate": 3}, "16 can't be split into 3 small batches"),
        ({"schedule": "plateau", "evaluate_every": 0}, "follows evaluations: set evaluate_every"),
        ({"precision": "fp8"}, "precision is 'fp8', it must be one of fp32, bf16, fp16, auto"),
        ({"lr_of": "3"}, "lr_of is 3, it must be a JSON object"),
        ({"average": 1.0}, "average is 1.0, it must be below 1"),
        ({"decay_schedule": True}, "decay_schedule follows milestones"),
        ({"sources": "x"}, "no field 'sources'"),
    ],
)
def test_wrong_settings_are_named(settings: dict, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_recipe("debug", settings)
    assert says in str(caught.value)


def test_run_folder_remembers_its_recipe(tmp_path: Path) -> None:
    begun = start("debug", tmp_path / "run", {"steps": 9, "milestones": (0.3,)})
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["steps"] == 9
    assert resume(tmp_path / "run") == begun
    assert start("debug", tmp_path / "run", {"steps": 8}).steps == 8  # no step was made: a wrong path may be corrected
    (tmp_path / "run" / "log.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="holds a run already: continue it with --resume"):
        start("debug", tmp_path / "run")


def test_of_several_processes_the_first_opens_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert start("debug", tmp_path / "run").name == "debug"
    assert not (tmp_path / "run").exists()


def test_a_model_with_fixed_classes_takes_no_source_with_others() -> None:
    samples = [Sample(b"", (8, 8), [], categories=names, labels=[], exhaustive=True) for names in (("cat",), ("dog",))]
    sources = [Source(name, [sample], detection_prompt_of_all) for name, sample in zip("ab", samples, strict=True)]
    model = SimpleNamespace(categories=("cat",), name="dyhead-t")
    with pytest.raises(ConfigError, match=r"source 'b' has 1 categories \(dog .* has 1 \(cat .* as its classes"):
        check_categories(Mixture(sources), model)  # type: ignore[arg-type]


def test_recipe_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from openglip.training.recipes import debug\nimport dataclasses\n"
        "def recipe():\n    return dataclasses.replace(debug(), name='mine', steps=3)\n"
    )
    assert start(str(file), tmp_path / "run", {"seed": 5}).steps == 3
    again = resume(tmp_path / "run")
    assert (again.name, again.seed) == ("mine", 5)


def test_unknown_recipes_and_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no recipe 'glip-x'"):
        find_recipe("glip-x")
    with pytest.raises(ConfigError, match="there is no recipe file"):
        find_recipe("nowhere.py")
    with pytest.raises(ConfigError, match="holds no run"):
        resume(tmp_path)
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match=r"has no function recipe\(\)"):
        find_recipe(str(tmp_path / "empty.py"))
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a recipe that this program wrote"):
        resume(tmp_path)


def test_settings_do_not_touch_the_original() -> None:
    recipe = RECIPES["debug"]()
    assert with_settings(recipe, {"steps": 1}).steps == 1
    assert recipe.steps != 1


def test_a_folder_with_a_run_is_not_started_anew(tmp_path: Path) -> None:
    start("debug", tmp_path / "no step yet")
    (tmp_path / "no step yet" / "log.jsonl").touch()
    start("debug", tmp_path / "no step yet")  # its data were wrong, say: the corrected command works
    for name, file in (("log", "log.jsonl"), ("checkpoint", "checkpoints/step-2/state.pt")):
        (place := tmp_path / name / file).parent.mkdir(parents=True)
        place.write_text("x")
        with pytest.raises(ConfigError, match="holds a run already"):
            start("debug", tmp_path / name)


def test_places_that_can_hold_no_run_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="can't be made"):
            start("debug", place)
    (tmp_path / "recipe.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a recipe that this program wrote"):
        resume(tmp_path)


def test_a_plan_fails_where_the_run_would(tmp_path: Path) -> None:
    samples = [Sample(f"{i}.jpg", (80, 100), [[0, 0, 9, 9]], categories=("a",), labels=[0]) for i in range(15)]
    mixture = Mixture([Source("mine", samples, detection_prompt_of_all)])
    with pytest.raises(ConfigError, match="15 samples fills no batch of 16"):
        first_batch(find_recipe("debug", {"batch_size": 16}), mixture, tmp_path)


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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def recipe():\n    return nothing", r"mine\.py, line 2: NameError"),
        ("from openglip.training.recipes import debug\nrecipe = debug()", r"has no function recipe\(\)"),
        (
            "from dataclasses import replace\nfrom openglip.training.recipes import debug\n"
            "def recipe():\n    return replace(debug(), schedule='cosin')",
            "schedule is 'cosin', it must be one of steps, cosine",
        ),
        (
            "from dataclasses import replace\nfrom openglip.training.recipes import debug\n"
            "def recipe():\n    return replace(debug(), lr='1e-3')",
            "mine.py, line 4: TypeError",
        ),
    ],
)
def test_a_mistake_in_a_recipe_file_is_named_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=says):
        find_recipe(str(tmp_path / "mine.py"))


def test_a_recipe_file_may_define_a_record_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from openglip.training.recipe import Recipe\nfrom openglip.training.settings import settings_of\n"
        "from openglip.training.recipes import debug\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Recipe):\n    margin: float = 0.5\n"
        "def recipe():\n    return Mine(**settings_of(debug()), sources=debug().sources)\n"
    )
    assert find_recipe(str(tmp_path / "mine.py"), {"margin": ".25"}).margin == 0.25  # type: ignore[attr-defined]


def test_usual_spellings_of_settings() -> None:
    found = find_recipe("debug", {"lr": ".001", "use_average": "True", "frozen": "", "warmup_factor": "+1e-3"})
    assert (found.lr, found.use_average, found.frozen, found.warmup_factor) == (0.001, True, (), 0.001)


def test_a_second_process_is_kept_out_of_a_run(tmp_path: Path) -> None:
    hold = "from openglip.files import folder_lock\nfrom pathlib import Path\n"
    hold += f"with folder_lock(Path({str(tmp_path)!r})):\n"
    hold += "    print('in', flush=True); input()"
    source = Path(__file__).parents[2] / "src"
    environment = os.environ | {"PYTHONPATH": str(source)}
    other = subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    with pytest.raises(ConfigError, match=f"is in use by process {other.pid} on "), folder_lock(tmp_path):
        pass
    with pytest.raises(ConfigError, match="is in use"):
        start("debug", tmp_path)
    assert not (tmp_path / "recipe.json").exists()
    other.kill()
    other.wait()
    with folder_lock(tmp_path):
        pass
