from __future__ import annotations

import numpy as np

from openglip.labelling.filters import (
    NO_BOXES,
    PhraseBoxes,
    at_least_side,
    at_least_words,
    at_most_share,
    best_per_phrase,
    confirmed,
    one_phrase_per_box,
)

SIZE = (100, 100)


def regions(*rows: tuple[tuple[int, ...], int]) -> PhraseBoxes:
    """Boxes with their phrases, best first."""
    return PhraseBoxes(
        np.array([b for b, _ in rows], float), -np.arange(len(rows)) / 10, np.array([p for _, p in rows])
    )


def test_pair_filters() -> None:
    assert at_least_words(2)("a cat", SIZE)
    assert not at_least_words(3)("a cat", SIZE)
    assert at_least_side(100)("", SIZE)
    assert not at_least_side(101)("", (200, 100))


def test_box_filters() -> None:
    whole, left, near, other = ((0, 0, 100, 100), 0), ((0, 0, 40, 90), 0), ((1, 0, 40, 90), 1), ((60, 60, 90, 90), 0)
    everything = regions(whole, left, near, other)
    assert at_most_share(0.9)(everything, SIZE).tolist() == [False, True, True, True]
    assert best_per_phrase(2)(everything, SIZE).tolist() == [True, True, True, False]
    assert one_phrase_per_box(0.8)(everything, SIZE).tolist() == [True, True, False, True]
    assert one_phrase_per_box(0.8)(NO_BOXES, SIZE).tolist() == []
    second_view = regions(((2, 0, 42, 88), 0), ((60, 60, 90, 90), 1))
    assert confirmed(everything, second_view).tolist() == [False, True, False, False]
    assert confirmed(everything, NO_BOXES).tolist() == [False] * 4
