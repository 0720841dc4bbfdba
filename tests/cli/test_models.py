"""`openglip models`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from weights.hub_server import NAME, serve

from openglip.weights.files import write_official
from openglip.weights.keys import to_official
from openglip.weights.load import build_model
from openglip.weights.records import RECORDS


def test_list_names_every_model(run: Any) -> None:
    for arguments in (["models"], ["models", "list"]):
        result = run(*arguments)
        assert result.exit_code == 0
        assert all(name in result.stdout for name in RECORDS)
    listed = json.loads(run("models", "list", "--json").stdout)
    assert set(RECORDS) == {card["model"] for card in listed}


def test_info_shows_licence_data_and_figures(run: Any) -> None:
    text = run("models", "info", "glip-t").stdout
    for part in ("glip_tiny_model_o365_goldg_cc_sbu.pth", "MIT", "SBU", "46.6", "microsoft/GLIP", "to download"):
        assert part in text
    card = json.loads(run("models", "info", "glip_large_model_lvisbest.pth", "--json").stdout)
    assert card["model"] == "glip-l"
    assert card["figures"][0]["value"] == 30.1
    assert card["state"] == "to download"


def test_pull_verify_and_use(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(RECORDS, "glip-t", replace(RECORDS["glip-t"], builder=RECORDS["debug"].builder))
    write_official(tmp_path / NAME, to_official(build_model("debug").state_dict()))
    with serve((tmp_path / NAME).read_bytes(), monkeypatch):
        result = run("models", "pull", "glip-t")
    assert result.exit_code == 0, result.output
    path = tmp_path / "cache" / NAME
    assert result.stdout.strip() == str(path)
    assert "downloading" in result.stderr
    assert run("models", "pull", "glip-t").stderr == ""
    assert "on this machine" in run("models", "info", "glip-t").stdout
    report = json.loads(run("models", "verify", "glip-t", "--json").stdout)
    assert report["parameters"] == sum(p.numel() for p in build_model("debug").parameters())
    assert report["files"][0]["known"]
    path.write_bytes(path.read_bytes()[:-1])
    result = run("models", "verify", "glip-t")
    assert result.exit_code == 1
    assert "delete it and pull again" in result.stderr


def test_verify_finds_numbers_that_are_none(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(RECORDS, "glip-t", replace(RECORDS["glip-t"], builder=RECORDS["debug"].builder))
    state = to_official(build_model("debug").state_dict())
    state["module.rpn.head.bbox_pred.bias"] = torch.full((4,), float("nan"))
    (tmp_path / "cache").mkdir()
    write_official(tmp_path / "cache" / NAME, state)
    result = run("models", "verify", "glip-t")
    assert result.exit_code == 1
    assert "NaN or infinity in rpn.head.bbox_pred.bias" in result.stderr


def test_models_without_a_download(run: Any) -> None:
    result = run("models", "pull", "debug")
    assert result.exit_code == 0
    assert "needs no download" in result.stderr
    assert run("models", "verify", "debug").exit_code == 0
