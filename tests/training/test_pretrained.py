"""Encoders start from released weights, matched by the end of their names and by shape."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_model

from openglip.errors import WeightsError
from openglip.training.pretrained import load_parts

PART = "language_backbone.body.model."


def test_a_part_is_filled_by_the_ends_of_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, model = tiny_model(), tiny_model()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter += 1
    state = {key.removeprefix(PART): value for key, value in source.state_dict().items() if key.startswith(PART)}
    absent = state.pop("embeddings.token_type_embeddings.weight")
    old_names = {f"bert.{key}".replace("LayerNorm.weight", "LayerNorm.gamma"): value for key, value in state.items()}
    save_file({key: value.clone() for key, value in old_names.items()}, tmp_path / "bert.safetensors")
    with caplog.at_level(logging.INFO):
        load_parts(model, {PART: "bert.safetensors"}, tmp_path)
    assert "initial values stay for embeddings.token_type_embeddings.weight" in caplog.text
    loaded = model.state_dict()
    assert all(torch.equal(loaded[PART + key], value) for key, value in state.items())
    assert not torch.equal(loaded[PART + "embeddings.token_type_embeddings.weight"], absent)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="it is of another model"):
        load_parts(tiny_model(), {PART: "other.safetensors"}, tmp_path)
