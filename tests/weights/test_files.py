"""Reading checkpoints: official containers, our files, and files that are neither."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from openglip import WeightsError
from openglip.weights.files import read_checkpoint, write_official, write_safetensors
from openglip.weights.keys import to_official
from openglip.weights.load import load_model

State = dict[str, Tensor]


def same(model: torch.nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def bare(official: State, state: State) -> object:
    return official


def container(official: State, state: State) -> object:
    return {"model": official}


def training(official: State, state: State) -> object:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    ema = {key: value + 1 for key, value in official.items()}
    return {"model": official, "optimizer": optimizer.state_dict(), "scheduler": {"last_epoch": 3}, "iteration": 7,
            "model_ema": ema}  # fmt: skip


def unprefixed(official: State, state: State) -> object:
    return {"model": {key.removeprefix("module."): value for key, value in official.items()}}


def older_library(official: State, state: State) -> object:
    return {"model": {key: value for key, value in official.items() if "position_ids" not in key}}


def with_heads(official: State, state: State) -> object:
    extra = ("language_backbone.body.model.pooler.dense.weight", "rpn.head.mlm_head.bias", "rpn.resizer.fc.weight")
    return {"model": {**official, **{f"module.{key}": torch.zeros(3) for key in extra}}}


@pytest.mark.parametrize("layout", [bare, container, training, unprefixed, older_library, with_heads])
def test_official_layouts_load(tmp_path: Path, state: State, layout: Any) -> None:
    torch.save(layout(to_official(state), state), tmp_path / "official.pth")
    assert same(load_model("debug", tmp_path / "official.pth"), state)


def test_the_format_before_torch_1_6_loads(tmp_path: Path, state: State) -> None:
    torch.save({"model": to_official(state)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same(load_model("debug", tmp_path / "old.pth"), state)


def test_an_averaged_copy_is_taken_on_request_or_if_it_is_alone(tmp_path: Path, state: State) -> None:
    torch.save(training(to_official(state), state), tmp_path / "both.pth")
    averaged = read_checkpoint(tmp_path / "both.pth", averaged=True).state
    key = "module.rpn.head.bbox_pred.bias"
    assert torch.equal(averaged[key], state["rpn.head.bbox_pred.bias"] + 1)
    torch.save({"model_ema": to_official(state)}, tmp_path / "alone.pth")
    assert same(load_model("debug", tmp_path / "alone.pth"), state)
    write_official(tmp_path / "none.pth", to_official(state))
    with pytest.raises(WeightsError, match=r"none\.pth holds no averaged copy"):
        read_checkpoint(tmp_path / "none.pth", averaged=True)


@pytest.mark.parametrize("first", [0x80, 0x50])
def test_our_files_are_recognised_whatever_the_length_of_their_header(tmp_path: Path, first: int) -> None:
    state = {"a": torch.zeros(2)}
    for padding in range(300):
        write_safetensors(tmp_path / "x.safetensors", state, {"model": "debug", "note": "x" * padding})
        if (tmp_path / "x.safetensors").read_bytes()[0] == first:
            break
    assert read_checkpoint(tmp_path / "x.safetensors").info["model"] == "debug"


def test_half_precision_files_load_as_float32(tmp_path: Path, state: State) -> None:
    halves = {key: value.half() for key, value in state.items()}
    write_safetensors(tmp_path / "half.safetensors", halves, {"model": "debug"})
    model = load_model(tmp_path / "half.safetensors")
    assert same(model, {key: value.float() for key, value in halves.items()})


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_file_is_never_run(tmp_path: Path, plain: bool) -> None:
    victim, path = tmp_path / "was-run", tmp_path / "evil.pth"
    if plain:
        path.write_bytes(pickle.dumps({"model": Malicious(victim)}))
    else:
        torch.save({"model": Malicious(victim)}, path)
    with pytest.raises(WeightsError, match=r"evil\.pth.*(refused|can't be read)"):
        load_model("debug", path)
    assert not victim.exists()


def foreign_files() -> dict[str, tuple[bytes, str]]:
    return {
        "empty.pth": (b"", "empty"),
        "page.pth": (b"<!DOCTYPE html><html>404</html>", "web page"),
        "pointer.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        "photo.pth": (b"\xff\xd8\xff\xe0" + b"0" * 100, "is not a checkpoint"),
        "archive.pth": (b"PK\x03\x04" + b"0" * 100, "can't be read"),
        "noise.pth": (b"\x80\x02" + bytes(range(256)), "can't be read|refused"),
        "header.safetensors": (b"\xff\xff\xff\x7f\x00\x00\x00\x00{", "can't be read"),
        "list.pth": (pickle.dumps([1, 2]), "can't be read|refused|holds a list"),
    }


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", sorted(foreign_files()))
def test_foreign_files_are_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    content, words = foreign_files()[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        load_model("debug", tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("kept", [9, 100, 4096, 100_000, -1000, -1])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_cut_short_is_refused(tmp_path: Path, state: State, suffix: str, kept: int) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        write_official(whole, to_official(state))
    else:
        write_safetensors(whole, state, {"model": "debug"})
    cut.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=f"cut{suffix}"):
        load_model("debug", cut)


def test_things_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1), "epoch": 3}}, tmp_path / "mixed.pth")
    with pytest.raises(WeightsError, match=r"no tensors: epoch"):
        load_model("debug", tmp_path / "mixed.pth")
    torch.save({"model": {}}, tmp_path / "nothing.pth")
    with pytest.raises(WeightsError, match="holds no tensors"):
        load_model("debug", tmp_path / "nothing.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(WeightsError, match="holds a Tensor, not a state dict"):
        load_model("debug", tmp_path / "tensor.pth")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*absent\.pth"):
        load_model("debug", tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        load_model("debug", tmp_path)
