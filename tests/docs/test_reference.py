"""The API reference documents every public name, and the site's navigation lists every page."""

from __future__ import annotations

import re
from pathlib import Path

import openglip

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def documented() -> list[str]:
    """The identifiers of all `:::` lines of the reference."""
    pages = sorted((DOCS / "reference").glob("*.md"))
    return [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)]


def test_every_public_name_is_documented_once() -> None:
    names = documented()
    assert len(names) == len(set(names))
    public = {f"openglip.{name}" for name in openglip.__all__ if not name.startswith("__")}
    missing = {name for name in public - set(names) if not any(other.startswith(f"{name}.") for other in names)}
    assert not missing, f"add to docs/reference: {', '.join(sorted(missing))}"


def test_the_navigation_lists_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    missing = {page for page in pages if page not in navigation}
    assert not missing, f"add to the nav of mkdocs.yml: {', '.join(sorted(missing))}"
