"""From a name or a path to a model with its weights."""

from __future__ import annotations

import gc
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from openglip import ConfigError, WeightsError
from openglip.weights import load
from openglip.weights.files import write_official, write_safetensors
from openglip.weights.keys import to_official
from openglip.weights.load import build_model, check_finite, load_model, load_state

State = dict[str, Tensor]


def same(model: torch.nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_regenerated_tables_are_rebuilt_and_never_loaded(tmp_path: Path, state: State) -> None:
    official = to_official(state)
    tables = [key for key in official if "relative_position_index" in key]
    write_official(tmp_path / "wrong.pth", {k: torch.zeros_like(v) if k in tables else v for k, v in official.items()})
    model = load_model("debug", tmp_path / "wrong.pth")
    right = dict(build_model("debug").named_buffers())
    assert any("relative_position_index" in name for name in right)
    assert all(torch.equal(buffer, right[name]) for name, buffer in model.named_buffers())


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one, two = load_model("debug", "random"), load_model("debug")
    assert torch.equal(torch.rand(3), expected)
    assert same(one, dict(two.state_dict()))
    assert not one.training
    assert not any(parameter.requires_grad for parameter in one.parameters())


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_collected_after_loading_as_before_it(collects: bool, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "other.safetensors", {"no": torch.zeros(1)}, {"model": "debug"})
    try:
        gc.enable() if collects else gc.disable()
        load_model("debug")
        assert gc.isenabled() == collects
        with pytest.raises(WeightsError):
            load_model(tmp_path / "other.safetensors")
        assert gc.isenabled() == collects
    finally:
        gc.enable()


def test_every_key_that_does_not_fit_is_listed_with_its_neighbour(state: State) -> None:
    wrong = dict(state)
    wrong["rpn.head.bbox_pred.wieght"] = wrong.pop("rpn.head.bbox_pred.weight")
    wrong["rpn.head.centerness.bias"] = torch.zeros(2)
    with pytest.raises(WeightsError) as caught:
        load_state(build_model("debug"), wrong, "mine.pth")
    text = str(caught.value)
    assert "mine.pth does not fit the model debug" in text
    assert "1 missing:\n    rpn.head.bbox_pred.weight (near: rpn.head.bbox_pred.wieght)" in text
    assert "1 unexpected:\n    rpn.head.bbox_pred.wieght (near: rpn.head.bbox_pred.weight)" in text
    assert "rpn.head.centerness.bias: 2 in the file, 1 in the model" in text


def test_the_prefix_is_cut_only_when_all_keys_have_it(tmp_path: Path, state: State) -> None:
    mixed = to_official(state)
    mixed["rpn.head.bbox_pred.bias"] = mixed.pop("module.rpn.head.bbox_pred.bias")
    write_official(tmp_path / "mixed.pth", mixed)
    with pytest.raises(WeightsError, match=r"unexpected:\n    module\.backbone"):
        load_model("debug", tmp_path / "mixed.pth")


def test_an_official_file_tuned_on_other_classes_loads_with_a_warning(
    tmp_path: Path, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    tuned = to_official(state)
    for key in ("module.rpn.head.cls_logits.weight", "module.rpn.head.cls_logits.bias"):
        tuned[key] = tuned[key][:7]
    write_official(tmp_path / "tuned.pth", tuned)
    model = load_model("debug", tmp_path / "tuned.pth")
    assert torch.equal(model.state_dict()["rpn.head.bbox_pred.bias"], state["rpn.head.bbox_pred.bias"])
    assert "another number of classes" in caplog.text


def test_an_unknown_name_names_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r"no model named 'glip-x'.*glip-"):
        load_model("glip-x")


def test_an_official_file_needs_a_name(tmp_path: Path, state: State) -> None:
    write_official(tmp_path / "some.pth", to_official(state))
    with pytest.raises(ConfigError, match=r"some\.pth does not say which model it is"):
        load_model(tmp_path / "some.pth")


def test_a_file_of_another_model_is_refused(tmp_path: Path, state: State) -> None:
    write_safetensors(tmp_path / "small.safetensors", state, {"model": "debug"})
    with pytest.raises(WeightsError, match="holds a debug, not a glip-t"):
        load_model("glip-t", tmp_path / "small.safetensors")


def test_numbers_that_are_not_finite_are_refused() -> None:
    model = build_model("debug")
    check_finite(model, "debug")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(WeightsError, match="the weights of debug contain NaN or infinity in backbone"):
        check_finite(model, "debug")


@pytest.mark.parametrize("name", [None, 5, b"nano", ""])
def test_names_of_other_types_are_refused(name: object) -> None:
    for arguments in ((name,), ("debug", name))[: 1 if name is None else 2]:
        with pytest.raises(ConfigError, match=r"(name|weights) is .*give a model's name"):
            load_model(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_quantised_weights_are_refused(tmp_path: Path, state: State, dtype: torch.dtype) -> None:
    write_safetensors(tmp_path / "w.safetensors", {k: v.to(dtype) for k, v in state.items()}, {"model": "debug"})
    with pytest.raises(WeightsError, match="of another type"):
        load_model(tmp_path / "w.safetensors")


def test_a_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, build_model("debug").state_dict(), {"model": "debug"})
    read = Mock(wraps=load.read_checkpoint)
    monkeypatch.setattr(load, "read_checkpoint", read)
    load_model(path)
    assert read.call_count == 1
