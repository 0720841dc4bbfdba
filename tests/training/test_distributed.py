"""Two processes train as one with the same batch; what differs between them never makes them wait for each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

SCRIPT = Path(__file__).with_name("distributed_run.py")


def without_key_bias(key: str, value: Tensor) -> Tensor:
    """Biases of attention keys have no gradient in exact arithmetic; Adam turns its rounding into steps."""
    if key.endswith("attention.self.key.bias"):
        return value[:0]
    return torch.cat([value.chunk(3)[0], value.chunk(3)[2]]) if key.endswith("attn.qkv.bias") else value


def launch(folder: Path, what: str, processes: int) -> list[dict]:
    """Lines of the log of a run with this many processes."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    paths = [str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [*start, str(SCRIPT), str(folder), what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Also in the first step, in which one process has no boxes."""
    one = launch(tmp_path / "one", "equal", 1)
    two = launch(tmp_path / "two", "equal", 2)
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert b["images"] == a["images"] == 4
        for key in ("loss", "token", "box", "centerness"):
            assert b[key] == pytest.approx(a[key], rel=1e-5), (a["step"], key)
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for key, value in left.items():
        a, b = without_key_bias(key, value), without_key_bias(key, right[key])
        torch.testing.assert_close(b, a, rtol=0, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.slow
def test_unequal_processes_finish(tmp_path: Path) -> None:
    assert [line["step"] for line in launch(tmp_path, "unequal", 2)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_bad_loss_on_one_process_skips_the_step_on_both(tmp_path: Path) -> None:
    lines = launch(tmp_path, "nan", 2)
    assert [line["skipped"] for line in lines] == [None, "token", None, None]


@pytest.mark.slow
def test_words_of_all_processes_are_compared(tmp_path: Path) -> None:
    """Texts of other lengths and, in the first step, a process without regions: the sum is that of one process."""
    one, two = launch(tmp_path / "one", "contrast", 1)[0], launch(tmp_path / "two", "contrast", 2)[0]
    assert two["contrast"] == pytest.approx(one["contrast"], rel=1e-4)
