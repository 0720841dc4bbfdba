"""Packed pictures: what goes in comes out, boxes follow every change, and a damaged folder is said."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from packing import HEIGHT, WIDTH, Pack, Picture, crop, fit, pack
from PIL import Image

from openglip.errors import DataError


def encoded(height: int, width: int) -> bytes:
    """A grey picture whose middle is red: columns and rows from 1/4 to 3/4."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = (250, 20, 20)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


MIDDLE = [[0.25, 0.25, 0.75, 0.75]]


@pytest.mark.parametrize(("height", "width"), [(200, 300), (300, 200), (500, 100), (40, 900)])
def test_a_picture_keeps_its_aspect_and_place(tmp_path: Path, height: int, width: int):
    opened = pack([(Picture("coco", "7", MIDDLE, labels=("box",)), encoded(height, width))], tmp_path)
    image, picture = opened.image(0), opened.pictures[0]
    assert picture.size == image.shape[:2]
    assert picture.upright == (height > width)
    assert image.shape[0] / image.shape[1] == pytest.approx(height / width, rel=0.03)
    assert image[image.shape[0] // 2, image.shape[1] // 2, 0] > 200
    assert image[0, 0, 0] < 80
    assert opened.pixels.shape == (1, HEIGHT, WIDTH, 3)


def test_a_second_call_reads_what_the_first_wrote(tmp_path: Path):
    first = pack([(Picture("coco", "7", MIDDLE, labels=("box",), absent=("cup",)), encoded(30, 40))], tmp_path)
    second = pack(iter(()), tmp_path)
    assert second.pictures == first.pictures


def test_a_cut_file_is_an_error(tmp_path: Path):
    pack([(Picture("coco", "7", MIDDLE, labels=("box",)), encoded(30, 40))], tmp_path)
    (tmp_path / "pictures.u8").write_bytes(b"123")
    with pytest.raises(DataError, match=r"pictures\.u8.*pack again"):
        Pack(tmp_path)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_stay_on_what_they_name(flip: bool):
    image = np.array(Image.open(io.BytesIO(encoded(200, 320))))
    rng, kept = random.Random(0), 0
    for _ in range(60):
        seen = crop(image, np.array(MIDDLE, np.float32), (128, 192), rng, flip)
        if not seen.whole[0]:
            continue
        kept += 1
        x1, y1, x2, y2 = seen.boxes[0].round().astype(int)
        red = (seen.pixels[0] - seen.pixels[1]).numpy()
        inside = red[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
        assert inside.min() > 0.5 * red.max()
        outside = red.copy()
        outside[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = 0
        assert outside.max() < 0.3 * red.max()
    assert kept > 40


def test_a_box_that_a_crop_cuts_off_is_neither_there_nor_absent():
    image = np.zeros((200, 200, 3), np.uint8)
    corner = np.array([[0.0, 0.0, 0.2, 0.2]], np.float32)
    rng = random.Random(1)
    drawn = [crop(image, corner, (128, 128), rng, False) for _ in range(200)]
    assert any(seen.cut[0] for seen in drawn)
    assert not any(seen.cut[0] and seen.whole[0] for seen in drawn)


def test_the_canvas_of_an_upright_picture_lies_on_its_side():
    canvas, size = fit(np.zeros((400, 100, 3), np.uint8))
    assert canvas.shape == (HEIGHT, WIDTH, 3)
    assert size == (WIDTH, 88)
