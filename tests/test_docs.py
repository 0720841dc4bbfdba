"""What the documents say runs: `console` blocks (and `python` on the first pages) with a tiny model; links lead on.

Blocks marked `sh` are not run: they install, download, train, or need data that is not here.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
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


EXTERNAL = {"var_mean", "vector_norm"}  # of torch
DATA_SUFFIXES = ("cff", "csv", "html", "json", "jsonl", "npz", "pth", "safetensors", "tar", "txt", "yaml")
PROPOSED = {"cli/serve.py", "cli/export.py"}  # of features that do not exist yet
NAMED_PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")})


def backticked(page: Path) -> set[str]:
    """The texts in single backticks; code blocks do not count."""
    return set(re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text(encoding="utf-8"))))


@pytest.fixture(scope="session")
def files() -> list[str]:
    """Paths of all Python files, each after a slash."""
    folders = ("src", "tests", "benchmarks", "examples", "projects")
    return [f"/{path.relative_to(ROOT).as_posix()}" for name in folders for path in (ROOT / name).rglob("*.py")]


@pytest.fixture(scope="session")
def words(files: list[str]) -> set[str]:
    """All words of the code."""
    texts = [(ROOT / name[1:]).read_text(encoding="utf-8") for name in files]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.json")]
    return {word for text in (*texts, (ROOT / "pyproject.toml").read_text()) for word in re.findall(r"\w+", text)}


@pytest.fixture(scope="session")
def options() -> set[str]:
    """The options of all commands."""
    from openglip.cli.main import app

    commands: list[Any] = [typer.main.get_command(app)]
    found: set[str] = set()
    while commands:
        command = commands.pop()
        found.update(option for parameter in command.params for option in parameter.opts)
        commands += getattr(command, "commands", {}).values()
    return found


@pytest.mark.parametrize("page", NAMED_PAGES, ids=lambda page: page.name)
def test_names_in_backticks_exist(page: Path, files: list[str], words: set[str], options: set[str]) -> None:
    unknown = []
    for text in backticked(page):
        if re.fullmatch(r"[a-z_][a-z_0-9/]*\.py", text):
            known = text in PROPOSED or any(name.endswith(f"/{text}") for name in files)
        elif re.fullmatch(r"--[a-z][a-z-]*", text):
            known = text in options or text.strip("-").replace("-", "_") in words  # of a script
        elif text.rpartition(".")[2] in DATA_SUFFIXES:
            continue
        elif re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\(\))?", text) and page.name != "spec.md":
            known = text in EXTERNAL or all(word in words for word in re.findall(r"\w+", text))
        else:
            continue
        if not known:
            unknown.append(text)
    assert unknown == [], f"{page.name} names what does not exist; spec.md may name parts of the official code"


def test_extras_that_are_named_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [*NAMED_PAGES, ROOT / "CHANGELOG.md", *(ROOT / "src").rglob("*.py")]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for names in re.findall(r"openglip\[([\w,]+)\]", text):
            assert set(names.split(",")) <= set(extras), f"{path.name}: openglip[{names}]"
        for package, extra in re.findall(r'MissingExtraError\("(\w+)[^"]*", "(\w+)"', text):
            required = {re.split(r"[^\w-]", line)[0] for line in extras[extra]}
            assert package.lower() in required, f"{path.name}: the extra {extra} does not require {package}"
