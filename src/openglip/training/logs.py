"""The JSON lines of a run: one per step, one per evaluation, the same whether or not the run was interrupted."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openglip.files import whole_file
from openglip.runtime import world_size
from openglip.training.batches import Batch

logger = logging.getLogger(__name__)

STEPS = "log.jsonl"
EVALUATIONS = "evaluations.jsonl"


class Logs:
    """Appends to both files of a run.

    Args:
        folder: Of the run.
        step: Where the run goes on; lines of later steps are removed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (STEPS, EVALUATIONS):
            _cut(folder / name, step)
        self.files = {name: (folder / name).open("a", encoding="utf-8") for name in (STEPS, EVALUATIONS)}

    def step(self, line: Mapping[str, object]) -> None:
        """Append the line of a step."""
        self._append(STEPS, line)

    def evaluation(self, line: Mapping[str, object]) -> None:
        """Append the line of an evaluation."""
        self._append(EVALUATIONS, line)

    def to_disk(self) -> None:
        """Flush both files to the disk: a checkpoint that is written afterwards must not be ahead of them."""
        for file in self.files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close both files."""
        for file in self.files.values():
            file.close()

    def _append(self, name: str, line: Mapping[str, object]) -> None:
        self.files[name].write(json.dumps(line) + "\n")
        self.files[name].flush()


def _cut(path: Path, step: int) -> None:
    """Remove the lines of steps after `step`, and a line that a kill left incomplete."""
    if not path.exists():
        return
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1):
        try:
            if json.loads(line)["step"] <= step:
                lines.append(line)
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: line %d is damaged and left out", path, number)
    with whole_file(path) as file:
        file.write("".join(line + "\n" for line in lines))


def step_line(
    step: int,
    terms: Mapping[str, float],
    bad: str | None,
    lr: float,
    norm: float,
    small: Sequence[Batch],
    seconds: float,
    waited: float,
) -> dict[str, Any]:
    """The line of a step.

    Args:
        step: Its number, from 1.
        terms: Of the loss.
        bad: What is not finite; None: nothing.
        lr: Learning rate of the first group of parameters.
        norm: Of the gradients.
        small: The step's batches on this process.
        seconds: Taken by the whole step.
        waited: Of these, spent waiting for data.
    """
    return {
        "step": step,
        "loss": finite(sum(terms.values())),
        **{term: finite(value) for term, value in terms.items()},
        "lr": lr,
        "images": sum(len(batch.images) for batch in small) * world_size(),
        "grad_norm": finite(norm),
        "skipped": bad,
        "dropped_boxes": sum(batch.dropped for batch in small),
        "unreadable": sum(len(batch.failures) for batch in small),
        "sources": dict(Counter(source for batch in small for source in batch.sources)),
        "seconds": seconds,
        "seconds_waiting": waited,
    }


def finite(value: float) -> float | None:
    """The value, or None where it is not finite: JSON has no NaN."""
    return value if math.isfinite(value) else None
