"""Which sample comes when: sources with copies, one order per epoch, batches of like pictures for each process.

Everything is a function of (seed, epoch, number of processes, process), so a run continues from a count of batches
alone, and a sample looks the same whatever the number of workers. Source: GLIP_SPEC 8.4.12, 8.4.13.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openglip.data.views import PromptFunction
from openglip.errors import ConfigError, DataError
from openglip.structures.sample import Sample


@dataclass(frozen=True)
class Source:
    """A named set of samples and how often it is seen.

    copies: passes in one epoch; of a fraction, each epoch draws other samples. inclusive: see `training_boxes`; true
    for the official TSV files.
    """

    name: str
    samples: Sequence[Sample]
    prompt: PromptFunction
    copies: float = 1.0
    inclusive: bool = False

    def __post_init__(self) -> None:
        if not len(self.samples):
            raise ConfigError(f"source {self.name!r} has no samples")
        if self.copies <= 0:
            raise ConfigError(f"source {self.name!r} has {self.copies} copies: leave it out, or give a positive number")

    @cached_property
    def is_tall(self) -> np.ndarray:
        """Per sample: at least as high as wide."""
        sizes = getattr(self.samples, "sizes", None)  # lazy sets know their sizes without making samples
        if sizes is None:
            sizes = np.array([(1, 1) if sample is None else sample.size for sample in _rows(self.samples)])
        return sizes[:, 0] >= sizes[:, 1]


@dataclass(frozen=True)
class Row:
    """One visit of a sample: which source, which sample, and the number that seeds its draws."""

    source: int
    sample: int
    seed: tuple[int, int, int]


class Mixture:
    """Sources seen together. Batches cross sources; `share` says how much of an epoch each takes.

    by_aspect: batches hold only tall or only wide pictures (less padding), unless there are too few of one kind to fill
    a batch: incomplete batches are left out, and these would never be seen.
    """

    def __init__(self, sources: Sequence[Source], seed: int = 0, *, by_aspect: bool = True) -> None:
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"a mixture needs sources with different names, not {names}")
        self.sources, self.seed, self.by_aspect = tuple(sources), seed, by_aspect

    def rows(self, epoch: int) -> np.ndarray:
        """R x 2 int64: source and sample of each visit of an epoch, source by source, before they are shuffled."""
        parts = []
        for number, source in enumerate(self.sources):
            rng = np.random.RandomState(_mixed(self.seed, epoch, number))
            times = np.full(len(source.samples), source.copies)
            # the fraction is a draw per sample, so that the expected number is exact
            counts = np.floor(times).astype(np.int64) + (rng.random_sample(len(times)) < times % 1)
            samples = np.repeat(np.arange(len(times)), counts)
            parts.append(np.stack([np.full(len(samples), number), samples], axis=1))
        return np.concatenate(parts)

    def share(self) -> dict[str, float]:
        """Share of the visits of each source, as the first epoch has it."""
        counts = np.bincount(self.rows(0)[:, 0], minlength=len(self.sources))
        return {source.name: float(n / counts.sum()) for source, n in zip(self.sources, counts, strict=True)}

    def epoch_batches(self, epoch: int, batch_size: int, rank: int = 0, ranks: int = 1) -> list[list[Row]]:
        """The batches of one process in one epoch; incomplete ones are left out."""
        rows = self.rows(epoch)
        order = shuffled_chunk(len(rows), _mixed(self.seed, epoch), rank, ranks)
        groups = np.zeros(len(rows), np.int64)
        if self.by_aspect:
            for number, source in enumerate(self.sources):
                own = rows[:, 0] == number
                groups[own] = source.is_tall[rows[own, 1]]
            if np.bincount(groups, minlength=2).min() < 2 * batch_size * ranks:
                groups[:] = 0
        batches = grouped_batches(order, groups.tolist(), batch_size)
        return [[Row(*rows[i].tolist(), seed=(self.seed, epoch, i)) for i in batch] for batch in batches]

    def batches(self, batch_size: int, rank: int = 0, ranks: int = 1, *, start: int = 0) -> Iterator[list[Row]]:
        """Batches of one process without end, from batch number `start` on (as many as it has trained on before).

        Processes may have different numbers of batches in an epoch; each goes on to its next one by itself.
        Raises ConfigError when an epoch has no batch.
        """
        epoch = 0
        while True:
            batches = self.epoch_batches(epoch, batch_size, rank, ranks)
            if not batches:
                raise ConfigError(
                    f"an epoch of {len(self.rows(epoch))} samples fills no batch of {batch_size} x {ranks}"
                )
            yield from batches[start:]
            start = max(0, start - len(batches))
            epoch += 1


def shuffled_chunk(length: int, seed: int, rank: int, ranks: int) -> list[int]:
    """One process's run of a seeded permutation; the head is repeated so that all get the same number."""
    order = permutation(length, seed)
    per_rank = -(-length // ranks)
    order += order[: per_rank * ranks - length]
    return order[rank * per_rank : (rank + 1) * per_rank]


def permutation(length: int, seed: int) -> list[int]:
    """The seeded permutation of 0..length - 1 that `torch.randperm` draws on a CPU, without torch.

    Both walk the list once and exchange each item with a later one, or itself, chosen by a 32-bit draw of a Mersenne
    twister modulo the number of items left.
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, max(length - 1, 0), np.uint32)
    order = list(range(length))
    for i, step in enumerate((draws % np.arange(length, 1, -1)).tolist()):
        order[i], order[i + step] = order[i + step], order[i]
    return order


def grouped_batches(order: Sequence[int], groups: Sequence[int], batch_size: int) -> list[list[int]]:
    """Full batches within groups (groups[i]: that of index i), in the order of each batch's first index."""
    position = {index: n for n, index in enumerate(order)}
    of_group: dict[int, list[int]] = defaultdict(list)
    for index in order:
        of_group[groups[index]].append(index)
    batches = [
        members[i : i + batch_size]
        for members in of_group.values()
        for i in range(0, len(members) - batch_size + 1, batch_size)
    ]
    return sorted(batches, key=lambda batch: position[batch[0]])


def _rows(samples: Sequence[Sample]) -> Iterator[Sample | None]:
    """Samples in their order; None for a row that can't be read: when it is its turn, that is said and counted."""
    for i in range(len(samples)):
        try:
            yield samples[i]
        except DataError:
            yield None


def _mixed(seed: int, *parts: int) -> int:
    """One seed from several numbers; with seed 0 and one part the part itself, as the official sampler has it."""
    if seed == 0 and len(parts) == 1:
        return parts[0]
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1)[0])
