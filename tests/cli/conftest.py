"""A tiny model that finds something, photos, and the command in this process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "examples" / "photos"

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The debug model with a prior at which it finds boxes; they mean nothing."""
    from openglip.weights.files import write_safetensors
    from openglip.weights.load import build_model

    state = build_model("debug").state_dict()
    state["rpn.head.bias0"] = state["rpn.head.bias0"] * 0
    path = tmp_path_factory.mktemp("weights") / "debug.safetensors"
    write_safetensors(path, state, {"model": "debug", "licence": "CC0"})
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command, run in a folder of its own without network; gives exit_code, stdout and stderr."""
    from openglip.cli.main import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENGLIP_OFFLINE", "1")
    monkeypatch.setenv("OPENGLIP_CACHE", str(tmp_path / "cache"))
    shown = warnings.showwarning

    def call(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert "Traceback" not in result.output
        return result

    yield call
    warnings.showwarning = shown
