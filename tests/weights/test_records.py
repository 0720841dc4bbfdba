"""The table of weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from openglip import ConfigError
from openglip.weights.load import model_builder
from openglip.weights.records import BY_FILE, RECORDS, find_record


def test_every_record_names_a_function_that_builds_its_model() -> None:
    for name in RECORDS:
        assert callable(model_builder(name))


def test_released_files_stand_on_the_hub_with_figures_and_licence() -> None:
    assert len(BY_FILE) == 8
    for record in BY_FILE.values():
        assert record.hub == "GLIPModel/GLIP"
        assert record.licence
        assert record.training_data
        assert all(figure.protocol and figure.source and 0 < figure.value < 100 for figure in record.figures)
        assert record.figures


def test_the_embedded_model_has_as_many_parameters_as_its_record_says() -> None:
    with torch.device("meta"):
        model = model_builder("nano")()
    words = model.state_dict()["bert.embeddings.word_embeddings.values"]  # in 8 bits, so it is no torch parameter
    assert sum(p.numel() for p in model.parameters()) + words.numel() == RECORDS["nano"].parameters


def test_parameter_counts_are_those_of_the_official_code(goldens: Path) -> None:
    for name in ("glip-t-a", "glip-t-b", "glip-t", "glip-l", "dyhead-t", "dyhead-l"):
        counted = json.loads((goldens / name / "state_dict.json").read_text())["num_parameters"]
        assert RECORDS[name].parameters == counted


def test_a_file_name_finds_its_model_and_a_wrong_name_its_neighbour() -> None:
    assert find_record("glip_large_model_lvisbest.pth").model == "glip-l"
    with pytest.raises(ConfigError, match=r"'glip_t'.*glip-t"):
        find_record("glip_t")
