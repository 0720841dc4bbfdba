"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# A shared machine may stop any example for a moment, which says nothing about the code.
settings.register_profile("openglip", deadline=None)
settings.load_profile("openglip")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with all goldens and the research data, which a user does not have."""
    if not (SHARED / "goldens").is_dir():
        pytest.skip("the folder ../shared with goldens and research data is not there")
    return SHARED


@pytest.fixture(scope="session")
def goldens(shared: Path) -> Path:
    return shared / "goldens"


@pytest.fixture(scope="session")
def golden_file() -> Callable[[str], Path]:
    """Path of a golden file by its name: of the full set, or of the committed subset; skips when it is in neither."""

    from model.golden import golden_path  # late: brings torch

    return golden_path
