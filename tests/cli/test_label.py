from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from labelling.stub import fast
from PIL import Image
from typer.testing import CliRunner

from openglip.cli.main import app


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("openglip.labelling.run.build_detector", lambda *_: fast())
    return lambda *args: CliRunner().invoke(app, ["label", *map(str, args)])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, caption in enumerate(["a woman in a red coat", "two dogs", ""]):
        Image.new("RGB", (60, 40), (50 * i, 9, 9)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


def test_run_status_verify_audit(command: Any, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = ("run", source, "--output", out, "--workers", 0, "--chunker", "rules", "--shard-size", 2)
    result = command(*run, "--json")
    assert result.exit_code == 0
    state = json.loads(result.stdout)
    assert (state["planned"], state["done"], state["totals"]["pairs"], state["totals"]["lines"]) == (2, 2, 3, 2)
    assert "2 of 2 shards, 3 pairs" in result.stderr
    result = command(*run, "--quiet")
    assert result.stderr == ""
    assert "2 of 2 shards done, 3 pairs" in result.stdout
    assert "left out: empty caption 1" in command("status", out).stdout
    assert command("verify", out).exit_code == 0
    page = tmp_path / "audit.html"
    assert command("audit", out, "--images", source, "--page", page, "--threshold", 0.1).exit_code == 0
    labels = [{"word": "dogs", "answer": True}, {"word": "coat", "answer": False}]
    (tmp_path / "answers.json").write_text(json.dumps({"labels": labels}))
    rows = json.loads(command("audit", out, "--checked", tmp_path / "answers.json", "--json").stdout)
    assert [(r["word"], r["precision"]) for r in rows] == [("all words", 0.5), ("coat", 0.0), ("dogs", 1.0)]
    (out / "shards" / "000001.jsonl").write_text("x")
    result = command("verify", out, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"]


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (("run", "no/such/place", "--output", "OUT"), 1, "no/such/place: no such file or folder"),
        (("run", "IN", "--output", "OUT", "--engine", "spark"), 2, "no engine 'spark': use local or ray"),
        (("run", "IN", "--output", "OUT", "--chunker", "nltk"), 2, "no chunker 'nltk'"),
        (("run", "IN", "--output", "IN", "--workers", "0"), 2, "is not empty and holds no labelling run"),
        (("run", "IN", "--output", "OUT", "--address", "auto", "--workers", "0"), 2, "for the engine 'ray'"),
        (("run", "IN", "--output", "OUT", "--agreement", "twice", "--workers", "0"), 2, "agreement"),
        (("run", "IN"), 2, "--output"),
        (("verify", "IN"), 1, "manifest.json"),
        (("status", "IN"), 1, "manifest.json"),
        (("audit", "IN"), 2, "say where the images are: --images DIR"),
    ],
)
def test_wrong_use(
    command: Any, source: Path, tmp_path: Path, args: tuple[str, ...], status: int, message: str
) -> None:
    paths = {"IN": str(source), "OUT": str(tmp_path / "out")}
    result = command(*(paths.get(a, a) for a in args))
    assert result.exit_code == status
    assert message in result.output
    assert "Traceback" not in result.output


def test_conversion_and_review(command: Any, source: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    assert command("run", source, "--output", out, "--workers", 0, "--chunker", "rules", "--quiet").exit_code == 0
    counts = json.loads(command("publish", out, data, "--threshold", 0.3).stdout)
    assert counts["boxes"] > 0
    for form, name in (("coco", "o.json"), ("webdataset", "wds"), ("yolo", "yolo"), ("label-studio", "ls.json")):
        arguments = [str(data), str(tmp_path / name), "--format", form, "--images", str(source), "--json"]
        done = CliRunner().invoke(app, ["data", "convert", *arguments])
        assert done.exit_code == 0, (form, done.output)
        assert json.loads(done.stdout)["samples"] == counts["lines"]
    parquet = command("publish", out, tmp_path / "parquet", "--threshold", 0.3, "--format", "parquet")
    assert parquet.exit_code == 0 if find_spec("pyarrow") else "pip install" in parquet.output
    tasks = tmp_path / "tasks.json"
    assert "2 tasks" in command("review", out, tasks, "--threshold", 0.3).stdout
    corrected = json.loads(tasks.read_text())
    for task in corrected:
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    tasks.write_text(json.dumps(corrected))
    merged = json.loads(command("merge", tasks, tmp_path / "back.jsonl").stdout)
    assert (merged["lines"], merged["boxes"]) == (2, counts["boxes"])


def test_status_reports_times(command: Any, source: Path, tmp_path: Path) -> None:
    command("run", source, "--output", tmp_path / "out", "--workers", 0, "--chunker", "rules", "--quiet")
    spent = json.loads(command("status", tmp_path / "out", "--json").stdout)["cpu_milliseconds_per_picture"]
    assert set(spent) == {"model", "reading", "outside"}
    assert all(milliseconds >= 0 for milliseconds in spent.values())
    assert "milliseconds of a core per image: model " in command("status", tmp_path / "out").stdout
