"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

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
