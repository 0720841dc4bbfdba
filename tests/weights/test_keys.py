"""Keys of the embedded model in files that openglip 0.1 wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import openglip
from openglip.nano.model import Nano
from openglip.weights import files
from openglip.weights.files import read_checkpoint, write_safetensors
from openglip.weights.keys import current_keys, nano_format_1


def format_1_key(key: str) -> str:
    """The key under which openglip 0.1 stored a tensor of `nano`."""
    names, later_names = nano_format_1()
    first, *rest = key.split(".")
    first = {new: old for old, new in names.items()}.get(first, first)
    inner = {new: old for old, new in later_names.get(first, {}).items()}
    return ".".join([first, *(inner.get(part, part) for part in rest)])


def test_the_old_names_are_unique() -> None:
    state = Nano().state_dict()
    old = {format_1_key(key) for key in state}
    assert len(old) == len(state)
    assert {"join.0.0.weight", "looks.1.feed.3.bias", "placed.depth.weight", "own", "asks.1.weight"} <= old
    assert {"second_look.compare.1.lie.weight", "second_look.out.3.bias", "second_look.trust"} <= old


def test_a_checkpoint_with_the_old_names_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = openglip.load("nano", device="cpu").model
    state = model.state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(files, "FORMAT_VERSION", 1)
        old = {format_1_key(key): value for key, value in state.items()}
        write_safetensors(tmp_path / "old.safetensors", old, {"model": "nano"})
    assert read_checkpoint(tmp_path / "old.safetensors").state.keys() == state.keys()
    loaded = openglip.load(str(tmp_path / "old.safetensors"), device="cpu").model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_other_models_and_later_files_keep_their_keys() -> None:
    state = {"words": torch.ones(1)}
    assert current_keys(state, "nano", 2).keys() == state.keys()
    assert current_keys(state, "debug", 1).keys() == state.keys()
    assert current_keys(state, "nano", 1).keys() == {"text_projection"}
