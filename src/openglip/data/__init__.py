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

_NAMES = {
    "openglip.data.reading": ("read",),
    "openglip.data.checking": ("check", "CheckReport"),
    "openglip.data.conversion": ("convert", "Conversion"),
    "openglip.data.rendering": ("render", "RenderedSample"),
    "openglip.data.findings": ("Finding", "Findings"),
    "openglip.structures.sample": ("Sample",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> object:
    """Resolve public names on first use, so that importing a module of this package brings no other."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'openglip.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
