"""Which sample comes when: sources with copies, one order per epoch, batches of alike images for each process.

Everything is a function of (seed, epoch, number of processes, process), so a run continues from a count of batches
alone, and a sample looks the same whatever the number of workers. Source: docs/spec.md 8.4.12, 8.4.13.
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
    """A named set of samples and how often it is used.

    Attributes:
        name: Names it in logs.
        samples: Its samples; they may be made when they are read.
        prompt: Makes the prompt of a sample.
        copies: Passes in one epoch; of a fraction, each epoch draws other samples.
        inclusive: See `training_boxes`; True for the official TSV files.
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
            sizes = np.array([_size(self.samples, i) for i in range(len(self.samples))])
        return sizes[:, 0] >= sizes[:, 1]


@dataclass(frozen=True)
class Row:
    """One visit of a sample: which source, which sample, and the numbers that seed its draws."""

    source: int
    sample: int
    seed: tuple[int, int, int]


class Mixture:
    """Sources that are trained on together.

    Batches cross sources. They hold only tall or only wide images (less padding), unless there are too few of one kind
    to fill a batch: incomplete batches are left out, and these images would never be used.

    Args:
        sources: The sources; their names differ.
        seed: Seed of the order and of every draw.
    """

    def __init__(self, sources: Sequence[Source], seed: int = 0) -> None:
        names = [source.name for source in sources]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"a mixture needs sources with different names, not {names}")
        self.sources, self.seed = tuple(sources), seed

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
        """Fraction of the visits that each source has in the first epoch."""
        counts = np.bincount(self.rows(0)[:, 0], minlength=len(self.sources))
        return {source.name: float(n / counts.sum()) for source, n in zip(self.sources, counts, strict=True)}

    def epoch_batches(self, epoch: int, batch_size: int, rank: int = 0, ranks: int = 1) -> list[list[Row]]:
        """The batches of one process in one epoch; incomplete ones are left out."""
        rows = self.rows(epoch)
        order = shuffled_chunk(len(rows), _mixed(self.seed, epoch), rank, ranks)
        groups = np.zeros(len(rows), np.int64)
        for number, source in enumerate(self.sources):
            of_source = rows[:, 0] == number
            groups[of_source] = source.is_tall[rows[of_source, 1]]
        if np.bincount(groups, minlength=2).min() < 2 * batch_size * ranks:
            groups[:] = 0
        batches = grouped_batches(order, groups.tolist(), batch_size)
        return [[Row(*rows[i].tolist(), seed=(self.seed, epoch, i)) for i in batch] for batch in batches]

    def batches(self, batch_size: int, rank: int = 0, ranks: int = 1, *, start: int = 0) -> Iterator[list[Row]]:
        """Batches of one process without end.

        Processes may have different numbers of batches in an epoch; each goes on to its next one by itself.

        Args:
            batch_size: Samples per batch.
            rank: Number of the process.
            ranks: How many processes there are.
            start: Number of the first batch: how many this process has trained on before.

        Raises:
            ConfigError: An epoch has no batch.
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
    members_of: dict[int, list[int]] = defaultdict(list)
    for index in order:
        members_of[groups[index]].append(index)
    batches = [
        members[i : i + batch_size]
        for members in members_of.values()
        for i in range(0, len(members) - batch_size + 1, batch_size)
    ]
    return sorted(batches, key=lambda batch: position[batch[0]])


def _size(samples: Sequence[Sample], row: int) -> tuple[int, int]:
    """(height, width) of a sample; a row that can't be read is reported and counted when it is its turn."""
    try:
        return samples[row].size
    except DataError:
        return 1, 1


def _mixed(seed: int, *parts: int) -> int:
    """One seed from several numbers; with seed 0 and one part the part itself, as the official sampler has it."""
    if seed == 0 and len(parts) == 1:
        return parts[0]
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1)[0])
