"""The built wheel carries the vocabulary and the weights, and works outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="building needs hatchling: pip install 'openglip[test]'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    (built,) = folder.glob("openglip-*.whl")
    return built


def test_the_wheel_holds_what_prediction_needs_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = ROOT / "src" / "openglip"
    files = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {f"openglip/{path.relative_to(package).as_posix()}" for path in files} <= names
    assert {"openglip/prompts/vocab.txt", "openglip/weights/embedded/nano-vision.safetensors"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not [
        name
        for name in names
        if name.startswith(("tests", "examples", "docs", "projects", "benchmarks")) or "__pycache__" in name
    ]
    assert wheel.stat().st_size < 48 << 20


def test_the_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", str(site), str(wheel)],
        check=True,
    )
    shutil.copy(ROOT / "examples" / "photos" / "coffee.jpg", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(site), "OPENGLIP_OFFLINE": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import openglip; print(openglip.__file__)"],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)
    done = subprocess.run(
        [sys.executable, "-m", "openglip.cli.main", "detect", "coffee.jpg", "--prompt", "cup. elephant", "--json"],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    names = {detection["name"] for detection in json.loads(done.stdout)["detections"]}
    assert "cup" in names
    assert "elephant" not in names
    assert (tmp_path / "openglip-output" / "coffee.boxes.jpg").is_file()
