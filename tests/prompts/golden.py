"""Tables of the official code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

COMMITTED = Path(__file__).parents[1] / "goldens" / "prompt"


def table(name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """A table of the committed subset, else of the full set."""
    path = COMMITTED / name
    if not path.exists():
        path = request.getfixturevalue("goldens") / "prompt" / name
    return json.loads(path.read_text(encoding="utf-8"))
