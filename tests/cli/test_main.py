"""The root command: help, statuses, and errors as one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import openglip

PHOTOS = Path(__file__).resolve().parents[2] / "examples" / "photos"
CAT = str(PHOTOS / "chelsea.jpg")
VERBS = ("detect", "ground", "models", "doctor", "convert")


def test_version_and_help(run: Any) -> None:
    assert run("--version").stdout == f"openglip {openglip.__version__}\n"
    for arguments in (["--help"], ["-h"]):
        result = run(*arguments)
        assert result.exit_code == 0
        assert all(verb in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(run: Any, verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert len(result.stdout) > 200


WRONG_USE = {
    "no verb": ([], "Usage"),
    "unknown verb": (["detct"], "detct"),
    "unknown option": (["detect", CAT, "--promt", "cat"], "--promt"),
    "no images": (["detect", "--prompt", "cat"], "IMAGES"),
    "no names": (["detect", CAT], "--prompt"),
    "two ways to name": (["detect", CAT, "--prompt", "cat", "--category", "cat"], "one of --prompt"),
    "a prompt without a name": (["detect", CAT, "--prompt", " . , "], "holds no name"),
    "names twice": (["detect", CAT, "--prompt", "cat. cat", "--model", "debug"], "leave one out"),
    "no file of names": (["detect", CAT, "--categories", "absent.txt"], "absent.txt"),
    "an empty folder of results": (["detect", CAT, "--prompt", "cat", "--output", ""], "variable"),
    "unknown format": (["detect", CAT, "--prompt", "cat", "--format", "xml"], "xml"),
    "unknown model": (["detect", CAT, "--prompt", "cat", "--model", "glip-tt"], "glip-t"),
    "unknown device": (["detect", CAT, "--prompt", "cat", "--model", "debug", "--device", "gpu"], "gpu"),
    "threshold in percent": (["detect", CAT, "--prompt", "cat", "--model", "debug", "--threshold", "50"], "50"),
    "threshold file": (["detect", CAT, "--prompt", "cat", "--threshold", "absent.json"], "absent.json"),
    "empty folder": (["detect", ".", "--prompt", "cat"], "no image in ."),
    "no caption": (["ground", CAT], "--caption"),
    "phrase of another caption": (["ground", CAT, "--caption", "a cat", "--phrase", "dog", "--model", "debug"], "dog"),
    "unknown card": (["models", "info", "glip-tt"], "glip-t"),
    "unknown end": (["convert", CAT, "out.bin"], ".safetensors"),
}


@pytest.mark.parametrize("case", sorted(WRONG_USE))
def test_wrong_use_ends_with_2_and_names_the_offender(run: Any, case: str, tmp_path: Path) -> None:
    arguments, words = WRONG_USE[case]
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


FAILURES = {
    "absent image": (["detect", "absent.jpg", "--prompt", "cat", "--model", "debug"], "absent.jpg"),
    "url": (
        ["detect", "https://example.org/a.jpg", "--prompt", "cat", "--model", "debug"],
        "https://example.org/a.jpg",
    ),
    "glob without a match": (["detect", "*.jpg", "--prompt", "cat", "--model", "debug"], "*.jpg"),
    "weights to download": (["detect", CAT, "--prompt", "cat", "--model", "glip-t"], "put the file"),
    "damaged weights": (
        ["detect", CAT, "--prompt", "cat", "--model", "debug", "--weights", CAT],
        "is not a checkpoint",
    ),
    "absent weights": (["convert", "absent.pth", "out.safetensors"], "absent.pth"),
    "not downloaded": (["models", "verify", "glip-t"], "openglip models pull glip-t"),
    "offline": (["models", "pull", "glip-t"], "OPENGLIP_OFFLINE"),
}


@pytest.mark.parametrize("case", sorted(FAILURES))
def test_failures_end_with_1_and_one_sentence(run: Any, case: str) -> None:
    arguments, words = FAILURES[case]
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert words in result.stderr


def test_a_full_disk_or_a_bug_is_one_line_too(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openglip.files.os.replace", broken)
    result = run("detect", CAT, "--prompt", "cat", "--model", "debug", "--no-pictures")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert "--debug" in result.stderr
    assert list(Path("openglip-output").iterdir()) == []


def test_debug_keeps_the_status_of_wrong_use() -> None:
    from typer.testing import CliRunner

    from openglip.cli.main import app

    result = CliRunner().invoke(app, ["models", "info", "glip-u", "--debug"])
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "did you mean glip-t" in result.stderr


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "openglip", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("openglip ")


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for arguments in (["--debug", "convert", "absent.pth", "x.pth"], ["convert", "absent.pth", "x.pth", "--debug"]):
        done = subprocess.run([sys.executable, "-m", "openglip.cli.main", *arguments], capture_output=True, text=True)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
