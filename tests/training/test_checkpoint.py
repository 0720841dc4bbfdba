"""Checkpoint folders: whole or not there, the newest whole one counts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from openglip.errors import DataError
from openglip.training.checkpoint import newest, save


def test_newest_state_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save(tmp_path, step, {"x": torch.tensor(float(step)), "n": {"lr": 0.5}}, keep=2)
    step, state = newest(tmp_path) or (0, {})
    assert (step, state["x"].item(), state["n"]["lr"]) == (10, 10.0, 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-2"]


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "absent") is None
    (tmp_path / ".step-3").mkdir()  # what a kill in the middle of writing leaves
    assert newest(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "no manifest", "no state", "foreign manifest"])
def test_damaged_ones_are_passed_over_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    for step in (1, 2):
        save(tmp_path, step, {"x": torch.arange(100) + step}, keep=3)
    state, manifest = tmp_path / "step-2" / "state.pt", tmp_path / "step-2" / "manifest.json"
    content = bytearray(state.read_bytes())
    if damage == "cut":
        state.write_bytes(content[:-1])
    elif damage == "empty":
        state.write_bytes(b"")
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "no state":
        state.unlink()
    else:
        manifest.write_text("[]")
    with caplog.at_level(logging.WARNING):
        step, found = newest(tmp_path) or (0, {})
    assert step == 1
    assert found["x"][0] == 1
    assert "step-2 is damaged" in caplog.text
    save(tmp_path, 2, {"x": torch.zeros(1)}, keep=3)  # the run reaches the same step again
    assert (newest(tmp_path) or (0, {}))[0] == 2


def test_only_damaged_ones_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, 1, {"x": torch.zeros(1)}, keep=1)
    (tmp_path / "step-1" / "state.pt").write_bytes(b"x")
    with pytest.raises(DataError, match="are damaged"):
        newest(tmp_path)


def test_later_ones_that_were_passed_over_make_room_for_what_is_written(tmp_path: Path) -> None:
    for step in (200, 300):
        save(tmp_path, step, {"step": step}, keep=2)
    (tmp_path / "step-300" / "state.pt").write_bytes(b"cut")
    save(tmp_path, 250, {"step": 250}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-200", "step-250"]
    save(tmp_path, 275, {"step": 275}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-275"]
