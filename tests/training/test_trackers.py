"""Trackers get every number of a line; without their package the error names the pip line."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from openglip.errors import ConfigError, MissingExtraError
from openglip.training.trackers import trackers

LINE = {"step": 3, "loss": 0.5, "skipped": None, "sources": {"a": 1}}


def test_wandb_gets_the_numbers_of_a_line_in_a_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged, opened = [], []
    fake = ModuleType("wandb")
    run = SimpleNamespace(log=lambda values, step: logged.append((values, step)))
    monkeypatch.setattr(fake, "init", lambda **given: opened.append(given) or run, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (track,) = trackers(["wandb"], tmp_path, {"lr": 1})
    track("train", 3, LINE)
    assert logged == [({"train/loss": 0.5}, 3)]
    for folder in ("a/debug", "b/debug", "a/debug"):  # the last is a resume
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        trackers(["wandb"], tmp_path / folder, {})
    first, second, resumed = (given["id"] for given in opened[1:])
    assert first == resumed != second


def test_tensorboard_writes_its_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (track,) = trackers(["tensorboard"], tmp_path, {})
    track("evaluation", 3, {"step": 3, "AP50": 0.5})
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize(("name", "module"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_missing_package_is_named(name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=name):
        trackers([name], tmp_path, {})


def test_an_unknown_tracker_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no tracker 'abacus': tensorboard, wandb"):
        trackers(["abacus"], tmp_path, {})
