"""Generated pictures of coloured shapes."""

from __future__ import annotations

import numpy as np
import pytest

from openglip.training.shapes import COLOURS, SEEN, SHAPES, UNSEEN, Shapes


def test_a_picture_is_the_same_each_time_and_no_unseen_pair_is_drawn() -> None:
    shapes = Shapes(60, seed=3)
    for i in range(60):
        one, two = shapes[i], shapes[i]
        assert one.image == two.image
        assert one.categories == SEEN
        assert not {one.categories[label] for label in one.labels} & {*UNSEEN}  # type: ignore[union-attr, index]
    with pytest.raises(IndexError):
        shapes[60]


def test_some_pictures_are_named_by_one_half_of_their_pairs() -> None:
    by_pairs, by_halves = Shapes(300, seed=1), Shapes(300, seed=1, halves=0.4)
    halves = 0
    for i in range(300):
        whole, half = by_pairs[i], by_halves[i]
        assert whole.image == half.image
        np.testing.assert_array_equal(whole.boxes, half.boxes)
        names, halved = ([s.categories[label] for label in s.labels] for s in (whole, half))  # type: ignore[index]
        if half.categories != SEEN:
            halves += 1
            place = [tuple(COLOURS), SHAPES].index(half.categories)  # type: ignore[arg-type]
            assert halved == [name.split()[place] for name in names]
        else:
            assert halved == names
    assert 0.3 < halves / 300 < 0.5
