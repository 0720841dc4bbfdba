"""Runs and their folders: recipe files, starting, resuming, locks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openglip.errors import ConfigError
from openglip.files import folder_lock
from openglip.training.run import find_recipe, resume, start


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
