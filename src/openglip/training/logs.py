"""The JSON lines of a run: one per step, one per evaluation, the same whether or not the run was interrupted."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from openglip.files import whole_file

logger = logging.getLogger(__name__)

STEPS = "log.jsonl"
EVALUATIONS = "evaluations.jsonl"


class Logs:
    """Appends to both files of a run. Opening it drops what lies behind `step`, where the run goes on."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (STEPS, EVALUATIONS):
            _cut(folder / name, step)
        self.files = {name: (folder / name).open("a", encoding="utf-8") for name in (STEPS, EVALUATIONS)}

    def step(self, line: Mapping[str, object]) -> None:
        self._append(STEPS, line)

    def evaluation(self, line: Mapping[str, object]) -> None:
        self._append(EVALUATIONS, line)

    def to_disk(self) -> None:
        """Before a checkpoint is written: it must not be ahead of the lines."""
        for file in self.files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _append(self, name: str, line: Mapping[str, object]) -> None:
        self.files[name].write(json.dumps(line) + "\n")
        self.files[name].flush()


def _cut(path: Path, step: int) -> None:
    """Keep the lines of steps up to `step`; a line that a kill left half goes too."""
    if not path.exists():
        return
    kept = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: line %d is damaged and left out", path, number)
    with whole_file(path) as file:
        file.write("".join(line + "\n" for line in kept))
