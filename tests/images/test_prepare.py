from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglip.errors import ConfigError
from openglip.images.prepare import Preparation, normalise, pad_batch, prepare, resize, resized_size

OPS = Path(__file__).parents[1] / "goldens" / "ops"


def test_resized_sizes_are_the_official_ones() -> None:
    table = json.loads((OPS / "resize.json").read_text())
    assert table["columns"] == ["min_size", "max_size", "in_h", "in_w", "out_h", "out_w"]
    for short, longest, h, w, out_h, out_w in table["rows"]:
        assert resized_size(h, w, short, longest) == (out_h, out_w)


def test_pixels_and_network_input_are_the_official_ones() -> None:
    with np.load(OPS / "image.npz", allow_pickle=False) as stored:
        image = stored["input_rgb"]
        for key in ("resized_64_1333", "resized_30_40", "resized_90_100"):
            short, longest = map(int, key.split("_")[1:])
            resized = resize(image, resized_size(*image.shape[:2], short, longest))
            np.testing.assert_array_equal(resized, stored[key])
        found = prepare(image, Preparation(64, 1333))
        np.testing.assert_allclose(found, stored["network_input_64_1333"], atol=1e-6)
        np.testing.assert_allclose(normalise(image, Preparation()), stored["network_input_no_resize"], atol=1e-6)


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 1000), st.none() | st.integers(1, 2000))
def test_no_side_becomes_zero(height: int, width: int, short: int, longest: int | None) -> None:
    assert min(resized_size(height, width, short, longest)) >= 1


def test_thin_pictures() -> None:
    assert resized_size(1, 100_000, 800, 1333) == (1, 1333)
    assert resized_size(100_000, 1, 800, 1333) == (1333, 1)
    thin = np.full((1, 3000, 3), 7, np.uint8)
    assert prepare(thin, Preparation()).shape == (3, 1, 1333)


def test_padding_is_the_mean_colour_on_the_right_and_below() -> None:
    images = [np.ones((3, 33, 20), np.float32), np.ones((3, 10, 64), np.float32)]
    batch = pad_batch(images, 32)
    assert batch.shape == (2, 3, 64, 64)
    assert (batch[0, :, :33, :20] == 1).all()
    assert batch.sum() == sum(i.size for i in images)


def test_rgb_order() -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 0] = 255
    assert normalise(red, Preparation(mean=(0, 0, 0), std=(1, 1, 1), bgr=False))[:, 0, 0].tolist() == [255, 0, 0]
    assert normalise(red, Preparation(mean=(0, 0, 0), std=(1, 1, 1)))[:, 0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("change", [{"short_side": 0}, {"max_side": 0}, {"multiple": 0}, {"std": (1, 0, 1)}])
def test_impossible_settings(change: dict) -> None:
    with pytest.raises(ConfigError):
        Preparation(**change)
