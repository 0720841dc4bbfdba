"""Build steps of the documentation site that mkdocs does not have: pages and files from outside `docs/`.

README.md becomes the home page, and a few other files of the repository's root become pages. Where a page links a file
outside of `docs/`, such as a result in `benchmarks/results/`, the file is copied to the site and the link follows it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
}
COPIES = "repository"  # folder of the site for copied files
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def in_repository(page: str, target: str) -> str | None:
    """The path of a linked file from the repository's root; None for links to other sites."""
    if "://" in target or target.startswith(("mailto:", "/")):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def site_path(path: str) -> str:
    """The path in the site of a file of the repository."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{COPIES}/{path}"


def source_of(page: str) -> str:
    """The path in the repository of a page of the site."""
    return next((source for source, name in PAGES.items() if name == page), f"docs/{page}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    copied: set[str] = set()
    for page in list(files.documentation_pages()):
        for match in LINK.finditer(page.content_string):
            path = in_repository(source_of(page.src_uri), match[2])
            if path and site_path(path).startswith(f"{COPIES}/") and (ROOT / path).is_file() and path not in copied:
                copied.add(path)
                # A name like NOTICE has no suffix; browsers show it as text only with one.
                name = site_path(path) if Path(path).suffix else f"{site_path(path)}.txt"
                files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = source_of(page.file.src_uri)

    def rewritten(match: re.Match[str]) -> str:
        path = in_repository(source, match[2])
        if path is None:
            return match[0]
        target = site_path(path)
        if target.startswith(f"{COPIES}/") and not Path(path).suffix:
            target += ".txt"
        relative = posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{relative}{match[3] or ''}{match[4]}"

    return LINK.sub(rewritten, markdown)
