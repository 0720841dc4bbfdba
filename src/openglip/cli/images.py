"""The images that a command line names: files, folders, globs, lists of paths, pipes."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from openglip.errors import ConfigError
from openglip.images.read import image_suffixes

STDIN = "-"


def find_images(items: Sequence[str], output: Path) -> tuple[list[str], Counter[str]]:
    """The paths of all images: files as they are, the images of folders and the matches of globs by name.

    A path that does not exist is among them, so that it is reported in order. Quoted globs and those that the shell
    expands are the same.

    Args:
        items: Files, folders and globs.
        output: The folder of the results. Its annotated pictures, of an earlier run, are taken only if all images are
            such pictures.

    Returns:
        The paths, and how many files of each kind were left out.

    Raises:
        ConfigError: The folders have no image.
    """
    paths: list[str] = []
    left_out: Counter[str] = Counter()
    for item in items:
        is_pattern = glob.has_magic(item) and "://" not in item and not os.path.lexists(item)
        for path in (is_pattern and sorted(glob.glob(item, recursive=True))) or [item]:
            paths += _images_in(path, left_out) if os.path.isdir(path) else [path]
    if not paths:
        raise ConfigError(f"no image in {', '.join(items)}{describe_left_out(left_out)}")
    results = [path for path in paths if _is_result(Path(path), output)]
    if 0 < len(results) < len(paths):
        left_out["pictures of an earlier run"] = len(results)
        paths = [path for path in paths if path not in set(results)]
    return paths, left_out


def describe_left_out(left_out: Counter[str]) -> str:
    """The end of a message."""
    listed = ", ".join(f"{n} {kind}" for kind, n in left_out.items())
    return f"; left out: {listed}" if listed else ""


def _is_result(path: Path, output: Path) -> bool:
    return path.name.endswith(".boxes.jpg") and path.parent.resolve() == output.resolve()


def _images_in(folder: str, left_out: Counter[str]) -> list[str]:
    """The images in a folder and its sub-folders, linked ones too, sorted by path."""
    paths: list[str] = []
    visited: set[str] = set()

    def failed(error: OSError) -> None:
        left_out["folders that can't be read"] += 1

    for root, folders, files in os.walk(folder, followlinks=True, onerror=failed):
        if os.path.realpath(root) in visited:  # a link into its own parents, or a second one to the same folder
            left_out["links to folders that are read already"] += 1
            folders.clear()
            continue
        visited.add(os.path.realpath(root))
        left_out["hidden folders"] += sum(name.startswith(".") for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = str(Path(root, name))  # without "."
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                left_out["hidden files"] += 1
            elif suffix not in image_suffixes():
                left_out[f"{suffix} files" if suffix else "files without a suffix"] += 1
            elif os.path.isfile(path):
                paths.append(path)
            else:
                left_out["dead links" if os.path.islink(path) else "pipes and devices"] += 1
    left_out += Counter()  # drops zeros
    return sorted(paths)


def read_list(file: str) -> list[str]:
    """The paths in a file, or in standard input ("-"): one per line, or separated by zero bytes (find -print0).

    Raises:
        ConfigError: The file can't be read, or is empty.
    """
    try:
        content = _standard_input() if file == STDIN else Path(file).read_bytes()
        # PowerShell writes UTF-16
        text = content.decode("utf-16") if content[:2] in (b"\xff\xfe", b"\xfe\xff") else os.fsdecode(content)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--images-from {file} can't be read: {error}") from error
    lines = text.removeprefix("\ufeff").split("\0") if "\0" in text else text.removeprefix("\ufeff").split("\n")
    paths = [line.removesuffix("\r") for line in lines if line.strip()]
    if not paths:
        raise ConfigError(f"--images-from {file} holds no path: write one per line")
    return paths


def read_pipe(path: str) -> io.BytesIO | None:
    """The content of standard input ("-") or of a pipe, which can be read only once; None for another path."""
    if path != STDIN and not _is_pipe(path):
        return None
    pipe = io.BytesIO(_standard_input() if path == STDIN else Path(path).read_bytes())
    pipe.name = path  # type: ignore[attr-defined]  for messages
    return pipe


def _is_pipe(path: str) -> bool:
    try:
        return Path(path).is_fifo()
    except (OSError, ValueError):  # no path at all; reading it says why
        return False


def _standard_input() -> bytes:
    return sys.stdin.buffer.read() if sys.stdin is not None else b""
