"""`openglip convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from openglip.weights.files import read_checkpoint, write_official
from openglip.weights.keys import to_official
from openglip.weights.load import build_model
from openglip.weights.metadata import read_info


def test_convert_both_ways(run: Any, tmp_path: Path) -> None:
    write_official(tmp_path / "a.pth", to_official(build_model("debug").state_dict()))
    result = run("convert", "a.pth", "b.safetensors", "--model", "debug")
    assert result.exit_code == 0, result.output
    assert read_info("b.safetensors")["model"] == "debug"
    assert run("convert", "b.safetensors", "c.pth").exit_code == 0
    before, after = read_checkpoint("a.pth").state, read_checkpoint("c.pth").state
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
