"""`openglip doctor`."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from openglip.cli import doctor

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Installed packages, of which a test may remove some; the requirements are those of pyproject.toml."""
    lines = [*PROJECT["dependencies"]]
    for extra, packages in PROJECT["optional-dependencies"].items():
        lines += [f"{package}; extra == '{extra}'" for package in packages]
    names = {re.split(r"[^\w-]", line)[0] for line in lines}

    def version(name: str) -> str:
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    monkeypatch.setattr(metadata, "version", version)
    return names


def test_every_extra_of_a_user_is_checked(installed: set[str]) -> None:
    assert doctor._missing() == {}
    for extra, packages in PROJECT["optional-dependencies"].items():
        if extra not in doctor.CONTRIBUTORS_EXTRAS:
            (first, *_) = (re.split(r"[^\w-]", package)[0] for package in packages)
            installed.discard(first)
            assert doctor._missing()[extra] == f"lacks {first} (pip install 'openglip[{extra}]')"
            installed.add(first)
    assert set(doctor._versions()) == {"openglip", *(re.split(r"[^\w]", d)[0] for d in PROJECT["dependencies"])}


def test_extras_of_contributors_exist() -> None:
    assert set(doctor.CONTRIBUTORS_EXTRAS) - {"docs"} <= set(PROJECT["optional-dependencies"])


def test_the_report(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("openglip.cli.doctor.TIMED", (("debug", None, 1),))
    result = run("doctor")
    assert result.exit_code == 0, result.output
    for part in ("device", "precision", "threads", "torch", str(tmp_path / "cache"), "OPENGLIP_OFFLINE", "640 x 480"):
        assert part in result.stdout
    report = json.loads(run("doctor", "--json").stdout)
    assert report["seconds_per_photo"]["debug"] > 0
    assert report["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert json.loads(run("doctor", "--json", "--no-timing").stdout)["seconds_per_photo"] == {}
