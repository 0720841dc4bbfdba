"""`openglip train`: listing, plan, a run, resuming it, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import openglip
from openglip.cli.main import app
from openglip.train.recipes import RECIPES

QUICK = ["--set", "steps=4", "--set", "batch_size=2", "--set", "checkpoint_every=2", "--set", "evaluate_every=0"]


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["train", *arguments])


def test_without_a_recipe_all_are_listed() -> None:
    listed = invoke().stdout
    assert all(name in listed for name in RECIPES)


@pytest.mark.parametrize("name", ["debug", pytest.param("glip-t-a", marks=pytest.mark.slow)])
def test_dry_run_plans(name: str, tmp_path: Path) -> None:
    result = invoke(name, "--dry-run", "--json", "--output", str(tmp_path))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["parameters"]["all"]["parameters"] > found["parameters"]["all"]["trained"] > 0
    assert found["memory_gb_estimate"] > 0
    assert found["hours_estimate"] > 0
    if name == "debug":
        assert all(Path(file).stat().st_size for file in found["first_batch"])
        assert found["share"] == {"shapes": 1.0}
    else:
        assert "objects365" in found["data_missing"]
    assert not (tmp_path / "recipe.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_dry_run(name: str) -> None:
    result = invoke(name, "--dry-run")
    assert result.exit_code == 0, result.output
    assert name in result.stdout


def test_run_then_the_model_loads_and_a_second_run_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = invoke("debug", *QUICK, "--output", str(folder), "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"output": str(folder), "steps": 4, "skipped": 0}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert "step 1/4" in result.stderr
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-2", "step-4"]
    assert openglip.load(folder).model.name == "debug"
    again = invoke("debug", *QUICK, "--output", str(folder))
    assert again.exit_code == 2
    assert "holds a run already" in str(again.stderr)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nosuch"], "there is no recipe 'nosuch'"),
        (["debug", "--set", "step=3", "--dry-run"], "did you mean 'steps'"),
        (["debug", "--set", "steps"], "write KEY=VALUE"),
        (["--resume", "nowhere"], "holds no run"),
        (["debug", "--resume", "nowhere"], "takes the run as it was started"),
        (["debug", "--set", "trackers=abacus", "--set", "steps=1"], "there is no tracker 'abacus'"),
    ],
)
def test_wrong_use_is_said_and_exits_with_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_verb_is_a_function_even_after_its_folder_was_imported(tmp_path: Path) -> None:
    import openglip.train.losses

    settings = {"steps": 1, "batch_size": 2, "evaluate_every": 0}
    assert openglip.train("debug", tmp_path / "run", settings=settings).step == 1
    assert openglip.train(resume=tmp_path / "run").step == 1
    assert openglip.train.losses.GroundingCriterion


@pytest.mark.slow
def test_sigkill_and_resume_from_the_command_line(tmp_path: Path) -> None:
    """Bit for bit the undisturbed run, with workers reading the data."""
    program = [sys.executable, "-m", "openglip.cli.main", "train"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    settings = [*QUICK, "--set", "steps=8", "--set", "workers=1", "--device", "cpu"]
    subprocess.run([*program, "debug", *settings, "--output", tmp_path / "whole"], env=environment, check=True)
    broken = tmp_path / "broken"
    process = subprocess.Popen([*program, "debug", *settings, "--output", broken], env=environment)
    while not (broken / "log.jsonl").exists() or len((broken / "log.jsonl").read_text().splitlines()) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*program, "--resume", broken, "--device", "cpu"], env=environment, check=True)
    logs = []
    for folder in (tmp_path / "whole", broken):
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows])
    assert logs[0] == logs[1]
    left, right = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", broken))
    assert all((left[key] == right[key]).all() for key in left)
