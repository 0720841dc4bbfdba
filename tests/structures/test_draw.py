from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from openglip.structures.draw import _lines, colour_of, draw


def shows(picture: Image.Image, label: int) -> bool:
    return bool((np.asarray(picture) == colour_of(label)).all(-1).any())


def test_boxes_have_their_colours_and_the_input_stays() -> None:
    image = np.full((480, 640, 3), 200, np.uint8)
    picture = draw(image, np.array([[50, 60, 300, 400], [10, 10, 60, 60]]), [0, 1], ["cat", "dog"], [0.9, 0.8])
    assert picture.size == (640, 480)
    assert shows(picture, 0)
    assert shows(picture, 1)
    assert not shows(picture, 2)
    assert (image == 200).all()
    assert len({colour_of(i) for i in range(200)}) > 190


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (16, 16), (3000, 2000)])
def test_any_size_and_boxes_over_the_edge(size: tuple[int, int]) -> None:
    boxes = np.array([[-50, -50, 5000, 5000], [0, 0, 0, 0], [9, 9, 3, 3]], float)
    picture = draw(Image.new("RGB", size), boxes, [0, 1, 2], ["x" * 300, "寿司", ""], caption="x y\nz " * 20)
    assert picture.width >= size[0]


def test_names_without_a_place_stand_in_a_legend() -> None:
    crowded = draw(
        Image.new("RGB", (640, 480)), np.tile([[100, 100, 200, 200]], (60, 1)), [0] * 30 + [20] * 30, ["a"] * 21
    )
    assert crowded.height > 480
    assert shows(crowded.crop((0, 480, 640, crowded.height)), 20)


def test_caption_spans_wear_the_colours_of_their_boxes() -> None:
    caption = "a hot dog and a dog"
    picture = draw(
        Image.new("RGB", (640, 300)),
        np.array([[5, 5, 99, 99]]),
        [1],
        ["hot dog", "dog", "dog"],
        caption=caption,
        phrase_spans=[[(2, 9)], [(6, 9), (16, 19)], [(16, 19)]],
    )
    panel = picture.crop((0, 300, 640, picture.height))
    assert shows(panel, 1)
    assert not shows(panel, 0)  # nothing was found for it, so it is grey


def test_lines_hold_the_whole_text() -> None:
    class Fixed:
        def getlength(self, text: str) -> float:
            return len(text)

    text = "some words and averyveryverylongword here\nnew line"
    lines = _lines(text, Fixed(), 12)  # type: ignore[arg-type]
    assert all(e - b <= 12 for b, e in lines)
    assert "".join(text[b:e] for b, e in lines).replace(" ", "") == text.replace(" ", "").replace("\n", "")


def test_words_from_right_to_left_are_drawn():
    caption, words = "سيارة. cat, سيارة حمراء", ["سيارة", "cat", "سيارة حمراء"]
    spans = [((0, 5),), ((7, 10),), ((12, 23),)]
    boxes = np.array([[1, 2, 30, 40], [5, 5, 60, 60], [9, 9, 99, 79]], float)
    image = np.zeros((80, 100, 3), np.uint8)
    pixels = np.asarray(draw(image, boxes, [0, 1, 2], words, caption=caption, phrase_spans=spans))
    below = pixels[pixels.shape[1] * 80 // 100 :]
    assert all((below == colour_of(label)).all(-1).any() for label in range(3))
