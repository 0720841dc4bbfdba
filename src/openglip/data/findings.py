"""What is wrong with annotations: collected by the readers while they leave it out, and by `data check`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from openglip.errors import DataError
from openglip.structures.sample import Sample

logger = logging.getLogger(__name__)

NOTES = (
    "crowd",
    "phrase_without_box",
    "box_without_phrase",
    "unrelated_caption",
    "caption_without_box",
)
"""Kinds that are no fault: things a format holds on purpose and the training does not use."""


@dataclass(frozen=True)
class Finding:
    """kind: one word, see docs/formats.md; file, id: where; message: what and which."""

    kind: str
    file: str
    id: str | int | None
    message: str


@dataclass
class Findings:
    """Exact counts per kind, and the findings themselves when `keep` is set."""

    keep: bool = True
    items: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, file: object, id: str | int | None, message: str, times: int = 1) -> None:
        """Record one fault or note. times: how many boxes or lines it stands for."""
        self.counts[kind] += times
        if self.keep and kind not in NOTES:
            self.items.append(Finding(kind, str(file), id, message))

    def log(self, file: object) -> None:
        """One warning with the counts, when there are any; notes are logged as information."""
        faults = {kind: n for kind, n in self.counts.items() if kind not in NOTES}
        if faults:
            logger.warning("%s: left out or changed: %s", file, _listed(faults))
        elif self.counts:
            logger.info("%s: left out: %s", file, _listed(self.counts))


def readable(samples: Iterable[Sample], path: object, findings: Findings) -> Iterator[Sample]:
    """Samples in their order. A sequence makes them one by one (TSV): rows that can't be read are recorded as malformed
    and left out.
    """
    if not isinstance(samples, Sequence):
        yield from samples
        return
    for row in range(len(samples)):
        try:
            yield samples[row]
        except DataError as error:
            findings.add("malformed", path, row, str(error))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
