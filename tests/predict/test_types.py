"""The type checker sees through the public calls."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed (extra dev)")
def test_one_image_gives_one_result_and_several_give_a_list() -> None:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(HERE / "typed_calls.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout
