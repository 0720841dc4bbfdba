"""A uniform sample of a stream in one pass."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def uniform_sample(items: Iterable[T], count: int, seed: int) -> list[T]:
    """Draw `count` items of a stream of unknown length, all with the same chance, in the order of the stream.

    Source: Vitter 1985, "Random sampling with a reservoir", algorithm R.
    """
    rng = random.Random(seed)
    reservoir: list[tuple[int, T]] = []
    for number, item in enumerate(items):
        if len(reservoir) < count:
            reservoir.append((number, item))
        elif (index := rng.randrange(number + 1)) < count:
            reservoir[index] = (number, item)
    return [item for _, item in sorted(reservoir, key=lambda entry: entry[0])]
