"""What the documents say runs: `console` blocks (and `python` on the first pages) with a tiny model; links lead on.

Blocks marked `sh` are not run: they install, download, train, or need data that is not here.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
FIRST_PAGES = [ROOT / "README.md", ROOT / "docs" / "start.md"]
PAGES = sorted({*FIRST_PAGES, *(ROOT / "docs").glob("*.md")})
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the examples, where every model is the debug one and there is no network."""
    import openglip
    from openglip.weights.load import load_model

    def tiny(name: str = "nano", weights: object = None, **settings: Any) -> openglip.Detector:
        return openglip.Detector(load_model("debug"), device="cpu")

    monkeypatch.setattr("openglip.predict.detector.load", tiny)
    monkeypatch.setenv("OPENGLIP_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run(page: Path, folder: Path) -> None:
    from openglip.cli.main import app

    for kind, text in blocks(page):
        lines = text.splitlines() if kind == "console" else []
        for line in (line.removeprefix("$ ") for line in lines if line.startswith("$ ")):
            verb, *words = shlex.split(line, comments=True)
            assert verb == "openglip", f"{page.name}: mark this block `sh`, it can't be run here: {line}"
            spread = [match for word in words for match in sorted(map(str, Path().glob(word))) or [word]]
            result = CliRunner().invoke(app, spread if "*" in line else words)
            assert result.exit_code == 0, f"{page.name}: {line}\n{result.output}"


@pytest.mark.parametrize("page", FIRST_PAGES, ids=lambda page: page.name)
def test_python_runs(page: Path, folder: Path) -> None:
    names: dict[str, object] = {}
    for kind, text in blocks(page):
        if kind == "python":
            exec(compile(text, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links {target}, which is not there"


def test_the_readme_has_its_two_commands_each_on_one_line() -> None:
    commands = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("python3 -m venv ")]
    assert len(commands) == 2
    assert "openglip detect examples/photos/" in commands[0]
    assert commands[1].endswith("-m pytest")


def test_the_readme_fits_a_screen_or_two() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 70
