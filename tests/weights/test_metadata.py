"""Paths and metadata of checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from openglip import WeightsError
from openglip.weights.files import write_safetensors
from openglip.weights.load import load_model
from openglip.weights.metadata import model_card, read_info
from openglip.weights.records import RECORDS

State = dict[str, Tensor]
ROOT = Path(__file__).resolve().parents[2]


def same(model: torch.nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_our_files_name_their_model(tmp_path: Path, state: State) -> None:
    write_safetensors(tmp_path / "mine.safetensors", state, {"model": "debug", "licence": "CC0"})
    assert same(load_model(tmp_path / "mine.safetensors"), state)
    assert read_info(tmp_path / "mine.safetensors") == {"model": "debug", "licence": "CC0", "format": 2}
    assert sorted(os.listdir(tmp_path)) == ["mine.safetensors"]
    (tmp_path / "usual").touch()
    assert (tmp_path / "mine.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_training_run_loads_when_it_is_finished(tmp_path: Path, state: State) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"not finished.*openglip train --resume"):
        load_model(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", state, {"model": "debug"})
    assert same(load_model(tmp_path), state)


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openglip.weights.files.FORMAT_VERSION", 3)
    write_safetensors(tmp_path / "new.safetensors", state, {"model": "debug"})
    monkeypatch.undo()
    with pytest.raises(WeightsError, match=r"has format 3.*--upgrade"):
        load_model(tmp_path / "new.safetensors")


def test_metadata_is_read_without_torch() -> None:
    code = (
        "import sys\n"
        "from openglip.weights.metadata import model_card\n"
        "from openglip.weights.records import RECORDS\n"
        "assert model_card(RECORDS['nano'])['figures']\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_card_of_the_embedded_model_has_licence_data_and_figures_of_its_file() -> None:
    card = model_card(RECORDS["nano"])
    assert card["state"] == "embedded"
    assert "research" in card["licence"]
    assert any("Flickr30k" in name for name in card["training_data"])
    for figure in card["figures"]:
        assert {"name", "value", "protocol", "source"} == set(figure)
        assert (ROOT / figure["source"]).is_file()


def test_the_documents_have_the_figures_of_the_embedded_model() -> None:
    figures = {figure["name"]: figure["value"] for figure in model_card(RECORDS["nano"])["figures"]}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"R@1 {figures['flickr30k Recall@1']}, R@5 {figures['flickr30k Recall@5']}" in readme
    assert f"AP50 {figures['coco AP50']}" in readme
    page = (ROOT / "docs" / "nano.md").read_text(encoding="utf-8")
    (recall,) = (line for line in page.splitlines() if line.startswith("| Recall@1 / 5 / 10, 247 Flickr30k"))
    (precision,) = (line for line in page.splitlines() if line.startswith("| AP50 / AP, coco_mini val"))
    assert f"{figures['flickr30k Recall@1'] / 100:.3f} / {figures['flickr30k Recall@5'] / 100:.3f} / " in recall
    assert f"{figures['coco AP50'] / 100:.3f} / " in precision
