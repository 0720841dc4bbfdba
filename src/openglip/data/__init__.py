"""Data sets: `openglip.data.read`, `check`, `convert` and `render` work on every format of docs/formats.md."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openglip.data.checking import CheckReport as CheckReport
    from openglip.data.checking import check as check
    from openglip.data.conversion import Conversion as Conversion
    from openglip.data.conversion import convert as convert
    from openglip.data.findings import Finding as Finding
    from openglip.data.findings import Findings as Findings
    from openglip.data.reading import read as read
    from openglip.data.rendering import RenderedSample as RenderedSample
    from openglip.data.rendering import render as render
    from openglip.structures.sample import Sample as Sample

_HOMES = {
    "read": "openglip.data.reading",
    "check": "openglip.data.checking",
    "convert": "openglip.data.conversion",
    "render": "openglip.data.rendering",
    "CheckReport": "openglip.data.checking",
    "Conversion": "openglip.data.conversion",
    "RenderedSample": "openglip.data.rendering",
    "Finding": "openglip.data.findings",
    "Findings": "openglip.data.findings",
    "Sample": "openglip.structures.sample",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    """Resolve public names on first use, so that importing a module of this package brings no other."""
    if name not in _HOMES:
        raise AttributeError(f"module 'openglip.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
