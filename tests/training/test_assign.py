"""Which anchors are responsible for which boxes; the official targets are in test_losses.py."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_batch

from openglip.model.anchors import AnchorGrid
from openglip.training.assign import assign_batches, atss

SIZES = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
BOXES = torch.tensor([[3.0, 5.0, 40.0, 44.0], [20.0, 22.0, 33.0, 60.0]])


def test_every_matched_anchor_has_its_centre_in_the_box() -> None:
    grid = AnchorGrid()(SIZES)
    matched = atss(grid, SIZES, BOXES)
    assert set(matched.unique().tolist()) <= {-1, 0, 1}
    centres = (grid[:, :2] + grid[:, 2:]) / 2
    for box, centre in zip(BOXES[matched[matched >= 0]], centres[matched >= 0], strict=True):
        assert (centre > box[:2]).all()
        assert (centre < box[2:]).all()


def test_of_two_equal_boxes_the_first_has_all_anchors() -> None:
    twice = BOXES[:1].repeat(2, 1)
    assert set(atss(AnchorGrid()(SIZES), SIZES, twice).unique().tolist()) == {-1, 0}


def test_batches_of_a_step_share_their_normalisers() -> None:
    batches = [tiny_batch(0), tiny_batch(1, empty=(0, 1))]
    one, two = assign_batches(AnchorGrid(), batches)
    assert one.normalisers is two.normalisers
    assert one.normalisers is not None
    assert one.normalisers.positives == len(one.boxes) > 0 == len(two.boxes)
    assert one.normalisers.centerness == pytest.approx(float(one.centerness.sum()))
    assert len(one.anchors) == one.matched.shape[1]
