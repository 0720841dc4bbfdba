"""Anchors and box coding against the official values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from openglip.model.anchors import AnchorGrid, BoxCoder


def test_first_anchor_of_each_level() -> None:
    anchors = AnchorGrid()([(1, 1)] * 5)
    assert anchors.tolist() == [
        [-28, -28, 35, 35],
        [-56, -56, 71, 71],
        [-112, -112, 143, 143],
        [-224, -224, 287, 287],
        [-448, -448, 575, 575],
    ]


def test_rows_come_before_columns() -> None:
    anchors = AnchorGrid(strides=(8,))([(2, 3)])
    assert anchors[:, 0].tolist() == [-28, -20, -12, -28, -20, -12]
    assert anchors[:, 1].tolist() == [-28, -28, -28, -20, -20, -20]


def test_grids_are_the_official_ones(golden_file: Callable[[str], Path]) -> None:
    golden = np.load(golden_file("ops/anchors.npz"))
    sizes = [(5, 7), (3, 4), (2, 2), (1, 1), (1, 1)]
    expected = np.concatenate([golden[f"grid/p{level}"] for level in range(3, 8)])
    np.testing.assert_array_equal(AnchorGrid()(sizes).numpy(), expected)


def test_wrong_number_of_levels_is_named() -> None:
    with pytest.raises(ValueError, match=r"2 feature levels.*5 strides"):
        AnchorGrid()([(1, 1), (1, 1)])


def test_coder_gives_the_official_values(golden_file: Callable[[str], Path]) -> None:
    golden = {key: torch.from_numpy(value) for key, value in np.load(golden_file("ops/box_coder.npz")).items()}
    coder = BoxCoder()
    torch.testing.assert_close(
        coder.encode(golden["boxes"], golden["anchors"]), golden["encoded"], rtol=1e-5, atol=1e-5
    )
    decoded = coder.decode(golden["deltas"], golden["delta_anchors"])
    torch.testing.assert_close(decoded, golden["decoded"], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("plus_one", [True, False])
def test_decode_inverts_encode(plus_one: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes, anchors = (torch.rand(2, 50, 4, generator=generator) * 100 for _ in range(2))
    boxes[..., 2:] += boxes[..., :2] + 1
    anchors[..., 2:] += anchors[..., :2] + 20
    coder = BoxCoder(plus_one=plus_one)
    torch.testing.assert_close(coder.decode(coder.encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-3)


def test_growth_is_limited_but_not_shrinkage() -> None:
    anchor = torch.tensor([[0.0, 0.0, 15.0, 15.0]])
    huge = BoxCoder().decode(torch.tensor([[0.0, 0.0, 500.0, -500.0]]), anchor)[0]
    assert huge[2] - huge[0] + 1 == pytest.approx(1000, rel=1e-5)
    assert huge[3] - huge[1] + 1 == pytest.approx(0, abs=1e-5)
