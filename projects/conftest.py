"""Fixtures of the projects' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the research data, which a user does not have."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the folder ../shared with research data does not exist")
    return SHARED
