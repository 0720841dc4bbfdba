"""Named lists of category names, as data."""

from __future__ import annotations

from importlib.resources import files


def read_table(name: str) -> tuple[str, ...]:
    """Names of the table `name`.txt in this folder, one a line, in the order of their label ids."""
    return tuple((files(__name__) / f"{name}.txt").read_text("utf-8").splitlines())
