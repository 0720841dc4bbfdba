"""What is wrong with annotations: collected by readers, which leave it out, and by `data check`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from openglip.errors import DataError
from openglip.structures.sample import Sample

logger = logging.getLogger(__name__)

NOTES = ("crowd", "phrase_without_box", "box_without_phrase", "unrelated_caption", "caption_without_box")
"""Kinds that are no faults: what a format holds on purpose and training does not use."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        kind: One word; docs/formats.md lists them.
        file: Where it is.
        id: The id of the image, annotation or row in that file, if it has one.
        message: What is wrong.
    """

    kind: str
    file: str
    id: str | int | None
    message: str


@dataclass
class Findings:
    """Collects faults and notes.

    Attributes:
        keep: Keep the findings themselves, and not only their counts.
        fatal: Kinds that raise a DataError instead of being collected.
        logs: Log the counts when the reader is done: nobody else looks at them.
        items: The faults so far.
        counts: Faults and notes so far, by kind.
    """

    keep: bool = True
    fatal: Collection[str] = ()
    logs: bool = False
    items: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, file: object, id: str | int | None, message: str, times: int = 1) -> None:
        """Record one fault or note, which stands for `times` boxes or lines."""
        if kind in self.fatal:
            raise DataError(f"{file}{'' if id is None else f', id {id!r}'}: {message}")
        self.counts[kind] += times
        if self.keep and kind not in NOTES:
            self.items.append(Finding(kind, str(file), id, message))

    def done(self, file: object) -> None:
        """Called by a reader after the last sample: logs the counts, if this collector does.

        Faults are one warning; notes alone are information.
        """
        if not self.logs:
            return
        faults = {kind: n for kind, n in self.counts.items() if kind not in NOTES}
        if faults:
            logger.warning("%s: left out or changed: %s", file, _listed(faults))
        elif self.counts:
            logger.info("%s: left out: %s", file, _listed(self.counts))
        self.counts.clear()  # logged once, also where a reader and its caller both call this


def collector(findings: Findings | None) -> Findings:
    """The caller's collector, or one that logs its counts."""
    return findings if findings is not None else Findings(keep=False, logs=True)


def readable(samples: Iterable[Sample], path: object, findings: Findings) -> Iterator[Sample]:
    """Samples in their order, without those that can't be read.

    A sequence makes its samples one by one (a TSV set): rows that can't be read are recorded as malformed.
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
