"""`openglip train`: listing, plan, a run, resuming it, and what is refused."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.interrupts import hear_interrupts
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import openglip
from openglip.cli.main import app
from openglip.structures.boxes import xyxy_to_xywh
from openglip.training.recipes import RECIPES
from openglip.training.shapes import PAIRS, Shapes

QUICK = ["--set", "steps=4", "--set", "batch_size=2", "--set", "checkpoint_every=2", "--set", "evaluate_every=0"]


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["train", *arguments])


def test_without_a_recipe_all_are_listed() -> None:
    listed = invoke().stdout
    assert all(name in listed for name in RECIPES)


@pytest.mark.parametrize("name", ["debug", "nano", pytest.param("glip-t-a", marks=pytest.mark.slow)])
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
        assert ("objects365" if name == "glip-t-a" else "data: no such file") in found["data_missing"]
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
        (["debug", "--set", "val=none.json", "--set", "evaluate_every=0"], "set evaluate_every"),
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
    import openglip.training.losses

    settings = {"steps": 1, "batch_size": 2, "evaluate_every": 0}
    assert openglip.train("debug", tmp_path / "run", settings=settings).steps == 1
    assert openglip.train(resume=tmp_path / "run").steps == 1
    assert openglip.training.losses.GroundingCriterion


def test_missing_data_leave_no_run_behind(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = [*QUICK, "--set", "start={}", "--set", "model=debug", "--output", str(folder)]
    for _ in range(2):  # the second call isn't refused
        result = invoke("glip-t-a", *settings, "--set", f"data={tmp_path / 'nowhere'}")
        assert result.exit_code == 1, result.output
        assert f"{tmp_path / 'nowhere' / 'objects365' / 'zhiyuan_objv2_train.json'} does not exist" in result.stderr


def test_damaged_checkpoint_is_said_and_the_run_goes_on_from_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert invoke("debug", *QUICK, "--output", str(folder), "--quiet").exit_code == 0
    before = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "checkpoints" / "step-4" / "state.pt").write_bytes(b"cut")
    with pytest.MonkeyPatch.context() as patch:
        warnings: list[str] = []
        patch.setattr("openglip.training.checkpoint.logger.warning", lambda text, *given: warnings.append(text % given))
        result = invoke("--resume", str(folder), "--json", "--quiet")
    assert json.loads(result.stdout)["steps"] == 4
    assert "step-4 is damaged" in warnings[0]
    after = load_file(folder / "model.safetensors")
    assert all((before[key] == after[key]).all() for key in before)


def test_a_loss_that_stays_not_finite_stops_the_run_and_names_its_term(tmp_path: Path) -> None:
    result = invoke("debug", *QUICK, "--set", "steps=20", "--set", "lr=1e38", "--output", str(tmp_path), "--quiet")
    assert result.exit_code == 1, result.output
    assert "is not finite for 10 steps in a row" in result.stderr
    assert "shapes:" in result.stderr
    assert "Traceback" not in result.stderr


def write_val(folder: Path) -> Path:
    """A COCO file of two generated pictures, beside them."""
    images, annotations = [], []
    for i, sample in enumerate(Shapes(2, PAIRS, 5)[k] for k in range(2)):
        Image.open(io.BytesIO(sample.image)).save(folder / f"{i}.png")  # type: ignore[arg-type]
        images.append({"id": i, "file_name": f"{i}.png", "height": 96, "width": 96})
        for box, label in zip(xyxy_to_xywh(sample.boxes).tolist(), sample.labels, strict=True):  # type: ignore[arg-type]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": int(label), "bbox": box})
    categories = [{"id": i, "name": name} for i, name in enumerate(PAIRS)]
    path = folder / "val.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_an_own_val_file_judges_the_run_and_the_best_is_kept(tmp_path: Path) -> None:
    folder, val = tmp_path / "run", write_val(tmp_path)
    settings = [*QUICK, "--set", f"val={val}", "--set", "evaluate_every=2", "--output", str(folder)]
    result = invoke("debug", *settings, "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert lines[0].keys() >= {"AP", "AP50", "AR100"}
    assert json.loads(result.stdout)["best_step"] in (2, 4)
    assert openglip.load(folder / "best.safetensors").model.name == "debug"


def test_a_val_file_without_its_pictures_is_said_before_training(tmp_path: Path) -> None:
    val = write_val(tmp_path)
    (tmp_path / "1.png").unlink()
    settings = [*QUICK, "--set", f"val={val}", "--set", "evaluate_every=2", "--output", str(tmp_path / "run")]
    result = invoke("debug", *settings)
    assert result.exit_code == 1
    assert "1 images are not in" in result.stderr
    assert "1.png" in result.stderr
    assert not (tmp_path / "run" / "log.jsonl").exists()


PROGRAM = [sys.executable, "-m", "openglip.cli.main", "train"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}


def stopped(folder: Path, settings: list[str], lines: int, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """A run that gets a signal once its log has so many lines."""
    command = [*PROGRAM, "debug", *settings, "--output", str(folder)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts)
    while not (folder / "log.jsonl").exists() or len((folder / "log.jsonl").read_text().splitlines()) < lines:
        time.sleep(0.02)
    process.send_signal(how)
    _, said = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, stderr=said)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    done = stopped(tmp_path / "run", [*QUICK, "--set", "steps=1000"], 3, signal.SIGINT)
    assert done.returncode == 130
    assert f"go on with: openglip train --resume {tmp_path / 'run'}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("damage", [False, True])
def test_sigkill_at_a_random_step_and_resume_from_the_command_line(tmp_path: Path, damage: bool) -> None:
    """Bit for bit the undisturbed run, with workers reading the data."""
    settings = [*QUICK, "--set", "steps=10", "--set", "workers=1", "--device", "cpu"]
    subprocess.run([*PROGRAM, "debug", *settings, "--output", tmp_path / "whole"], env=ENVIRONMENT, check=True)
    broken = tmp_path / "broken"
    stopped(broken, settings, random.randint(5 if damage else 1, 9), signal.SIGKILL)
    if damage:
        newest = max((broken / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
        (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-1000])
    command = [*PROGRAM, "--resume", broken, "--device", "cpu"]
    resumed = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True)
    assert ("is damaged" in resumed.stderr) == damage
    logs = []
    for folder in (tmp_path / "whole", broken):
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        logs.append([{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows])
    assert logs[0] == logs[1]
    left, right = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", broken))
    assert all((left[key] == right[key]).all() for key in left)


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_misspelt_best_is_said_before_training(tmp_path: Path, more: list[str]) -> None:
    settings = [*QUICK, "--set", "evaluate_every=2", "--set", "best=AP5O", "--output", str(tmp_path / "run"), *more]
    result = invoke("debug", *settings)
    assert result.exit_code == 2
    assert "has no figure 'AP5O' (best): did you mean 'AP50'?" in result.stderr
    assert not (tmp_path / "run" / "log.jsonl").exists()
