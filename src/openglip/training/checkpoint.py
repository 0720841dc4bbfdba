"""Checkpoints of a run: folders `step-N`, each written completely or not at all."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from openglip.errors import DataError
from openglip.files import file_sha256

logger = logging.getLogger(__name__)

STATE = "state.pt"
MANIFEST = "manifest.json"


def save(folder: Path, step: int, state: Mapping[str, object], keep: int) -> Path:
    """Write the checkpoint of a step and remove old ones, and those of later steps.

    Later ones are damaged, because the run continued from an earlier one. The folder is written under another name and
    renamed, so that a kill leaves no incomplete one.

    Args:
        folder: Holds the checkpoints.
        step: The step.
        state: Tensors, numbers, strings, and lists and dicts of them.
        keep: How many checkpoints remain.

    Returns:
        The new folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for incomplete in folder.glob(".step-*"):
        shutil.rmtree(incomplete)
    part, whole = folder / f".step-{step}", folder / f"step-{step}"
    part.mkdir()
    torch.save(dict(state), part / STATE)
    manifest = {"step": step, "sha256": file_sha256(part / STATE)}
    (part / MANIFEST).write_text(json.dumps(manifest) + "\n")
    for path in (part / STATE, part / MANIFEST, part):
        _to_disk(path)
    if whole.exists():  # a damaged one that was skipped
        shutil.rmtree(whole)
    os.replace(part, whole)
    _to_disk(folder)
    steps = _steps(folder)
    later = [old for old in steps if old > step]
    for old in later + steps[len(later) + keep :]:
        shutil.rmtree(folder / f"step-{old}")
    return whole


def newest(folder: Path) -> tuple[int, dict] | None:
    """Step and state of the newest undamaged checkpoint; damaged ones are logged. None when there is none at all.

    Raises:
        DataError: All checkpoints are damaged.
    """
    steps = _steps(folder)
    for step in steps:
        path = folder / f"step-{step}"
        problem = _damage(path, step)
        if problem is None:
            return step, torch.load(path / STATE, map_location="cpu", weights_only=True)
        logger.warning("checkpoint %s is damaged (%s): the one before it is used", path, problem)
    if steps:
        raise DataError(f"all checkpoints in {folder} are damaged: remove that folder to start from step 0")
    return None


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, newest first."""
    names = [re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*")]
    return sorted((int(name[1]) for name in names if name), reverse=True)


def _damage(path: Path, step: int) -> str | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        digest = file_sha256(path / STATE)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(manifest, dict) or manifest.get("step") != step or manifest.get("sha256") != digest:
        return f"{STATE} does not match {MANIFEST}"
    return None


def _to_disk(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
