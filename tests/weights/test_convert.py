"""official -> safetensors -> official, bit by bit; the names are those of the official code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from openglip import ConfigError, WeightsError
from openglip.weights.convert import convert
from openglip.weights.files import read_checkpoint, write_official, write_safetensors
from openglip.weights.keys import from_official, to_official
from openglip.weights.load import build_model, model_builder
from openglip.weights.metadata import read_info

VARIANTS = ("glip-t-a", "glip-t-b", "glip-t", "glip-l", "dyhead-t", "dyhead-l")


def entries(goldens: Path, variant: str) -> list[tuple[str, tuple[int, ...], str]]:
    listed = json.loads((goldens / variant / "state_dict.json").read_text())["entries"]
    return [(key, tuple(shape), dtype) for key, shape, dtype, *_ in listed]


@pytest.mark.parametrize("variant", VARIANTS)
def test_keys_shapes_and_types_are_the_official_ones(goldens: Path, variant: str) -> None:
    with torch.device("meta"):
        own = model_builder(variant)().state_dict()
    official = to_official(own)
    listed = entries(goldens, variant)
    got = {key: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in official.items()}
    assert got == {f"module.{key}": (shape, dtype) for key, shape, dtype in listed}
    back, dropped = from_official(official)
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in own.items()}
    assert len(dropped) == len(official) - len(own)


def test_rebuilt_tables_have_the_official_values(goldens: Path) -> None:
    official = to_official(build_model("debug").state_dict())
    arrays = np.load(goldens / "glip-t" / "forward.npz")
    for level in range(5):
        first = arrays[f"det/anchors/p{level + 3}"][0]
        assert np.array_equal(official[f"module.rpn.anchor_generator.cell_anchors.{level}"][0].numpy(), first)
    table = official["module.backbone.body.layers.0.blocks.0.attn.relative_position_index"]
    side = 4  # of the debug model's windows; the definition, written as a slow loop
    for a in range(side * side):
        for b in range(side * side):
            down, right = a // side - b // side, a % side - b % side
            assert table[a, b] == (down + side - 1) * (2 * side - 1) + right + side - 1
    ids = official["module.language_backbone.body.model.embeddings.position_ids"]
    assert torch.equal(ids, torch.arange(512)[None])


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Same keys, types and bits (so that -0.0, NaN and subnormal numbers count too)."""
    return one.keys() == two.keys() and all(
        one[key].dtype == two[key].dtype
        and one[key].shape == two[key].shape
        and one[key].numpy().tobytes() == two[key].numpy().tobytes()
        for key in one
    )


def round_trip(source: Path, folder: Path, model: str | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    convert(source, folder / "own.safetensors", model=model)
    convert(folder / "own.safetensors", folder / "back.pth")
    return read_checkpoint(source).state, read_checkpoint(folder / "back.pth").state


def test_there_and_back_is_bit_equal(tmp_path: Path) -> None:
    state = {key: torch.randn(value.shape) for key, value in build_model("debug").state_dict().items()}
    state["rpn.head.bbox_pred.bias"] = torch.tensor([-0.0, float("nan"), float("inf"), 1e-42])
    write_official(tmp_path / "official.pth", to_official(state))
    before, after = round_trip(tmp_path / "official.pth", tmp_path, "debug")
    assert equal(before, after)
    assert read_info(tmp_path / "own.safetensors")["model"] == "debug"


@pytest.mark.slow
def test_glip_t_there_and_back_from_its_released_name(goldens: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("fill", goldens / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    state = {key: fill.tensor(key, shape) for key, shape, _ in entries(goldens, "glip-t")}
    own = {key: torch.from_numpy(value) for key, value in state.items() if value is not None}
    source = tmp_path / "glip_tiny_model_o365_goldg_cc_sbu.pth"
    write_official(source, to_official(own))
    before, after = round_trip(source, tmp_path, None)
    assert equal(before, after)
    info = read_info(tmp_path / "own.safetensors")
    assert info["model"] == "glip-t"
    assert "MIT" in info["licence"]
    assert {"coco AP", "odinw-13 AP"} <= {figure["name"] for figure in info["figures"]}


def test_what_can_not_be_converted_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    state = build_model("debug").state_dict()
    official, own = tmp_path / "official.pth", tmp_path / "own.safetensors"
    write_official(official, to_official(state))
    write_safetensors(own, state, {"model": "debug"})
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        convert(official, tmp_path / "out.bin")
    with pytest.raises(ConfigError, match="does not say which model it is"):
        convert(official, tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="does not fit the model dyhead-t"):
        convert(official, tmp_path / "out.safetensors", model="dyhead-t")
    with pytest.raises(ConfigError, match="is the file to convert"):
        convert(own, own)
    with pytest.raises(ConfigError, match="does not exist: make it first"):
        convert(official, tmp_path / "absent" / "out.safetensors", model="debug")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        convert(tmp_path / "absent.pth", tmp_path / "out.safetensors")
    write_safetensors(tmp_path / "nano.safetensors", state, {"model": "nano"})
    with pytest.raises(WeightsError, match="can't build"):
        convert(tmp_path / "nano.safetensors", tmp_path / "out.pth")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nano.safetensors", "official.pth", "own.safetensors"]
