"""The second look: where it reads, what it leaves alone before training, and that phrases stay independent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import openglip
from openglip.nano.second_stage import CANDIDATES, SecondStage, sample_features, sample_points
from openglip.predict.detector import Detector

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"
STRIDES = (12, 24, 48)


@pytest.fixture(scope="module")
def nano() -> Detector:
    return openglip.load("nano", device="cpu")


def drawn(count: int = 2, boxes: int = 5, dim: int = 8) -> tuple[torch.Tensor, ...]:
    """Inputs of a second look: count phrases with so many boxes in a picture of 300 x 200."""
    torch.manual_seed(0)
    corner, side = torch.rand(count, boxes, 2) * 100, 20 + torch.rand(count, boxes, 2) * 80
    scores = torch.rand(count, boxes).sort(1, descending=True).values
    seen = torch.randn(count, boxes, 25, 2 * dim)
    size = torch.tensor([[300.0, 200.0]]).expand(count, 2)
    return seen, torch.cat([corner, corner + side], 2), scores, torch.randn(count, 2 * dim), size


def shaken(second: SecondStage) -> SecondStage:
    """As if it had learned something."""
    with torch.no_grad():
        for parameter in second.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return second.eval()


def test_points_are_read_where_they_lie():
    """Levels that hold their own coordinates give those of the points, whatever the level."""
    levels = []
    for stride in STRIDES:
        cells = (torch.arange(960 // stride) + 0.5) * stride - 0.5
        levels.append(torch.stack(torch.meshgrid(cells, cells, indexing="xy")))
    boxes = torch.tensor([[300.0, 320, 340, 360], [400, 300, 500, 430], [200, 250, 700, 600]])
    torch.testing.assert_close(sample_features(levels, STRIDES, boxes), sample_points(boxes), atol=1e-2, rtol=1e-4)
    centre, corner = sample_points(boxes)[:, 12], sample_points(boxes)[:, 0]
    torch.testing.assert_close(centre, (boxes[:, :2] + boxes[:, 2:]) / 2)
    assert (corner < boxes[:, :2]).all()


def test_points_outside_read_the_border():
    levels = [torch.full((1, 4, 4), 7.0) for _ in STRIDES]
    assert (sample_features(levels, STRIDES, torch.tensor([[-500.0, -500, 900, 900]])) == 7).all()


def test_half_precision_is_near():
    second = shaken(SecondStage(8))
    given = drawn()
    boxes, logits = second(*given)
    with torch.autocast("cpu", torch.bfloat16):
        near, logits_near = second(*given)
    torch.testing.assert_close(near, boxes, atol=1.0, rtol=0.02)
    torch.testing.assert_close(logits_near, logits, atol=0.1, rtol=0.05)


def test_untrained_it_changes_nothing():
    seen, boxes, scores, words, size = drawn()
    mended, logits = SecondStage(8).eval()(seen, boxes, scores, words, size)
    torch.testing.assert_close(mended, boxes)
    torch.testing.assert_close(logits.sigmoid(), scores)


def test_padding_has_no_say():
    second = shaken(SecondStage(8))
    seen, boxes, scores, words, size = drawn()
    whole = second(seen, boxes, scores, words, size)
    padded = second(
        torch.cat([seen, torch.randn_like(seen)], 1),
        torch.cat([boxes, torch.zeros_like(boxes)], 1),
        torch.cat([scores, torch.zeros_like(scores)], 1),
        words,
        size,
    )
    for one, other in zip(whole, padded, strict=True):
        torch.testing.assert_close(one, other[:, :5], atol=1e-4, rtol=1e-4)


def test_boxes_of_a_phrase_have_a_say_in_each_other():
    second = shaken(SecondStage(8))
    seen, boxes, scores, words, size = drawn()
    moved = boxes.clone()
    moved[:, 4] += 30
    before, after = (second(seen, b, scores, words, size)[1] for b in (boxes, moved))
    assert (before[:, 0] - after[:, 0]).abs().min() > 1e-4


def test_a_phrase_is_answered_the_same_whatever_stands_beside_it(nano: Detector):
    image = nano.encode(str(PHOTO))
    caption = "A woman in an orange suit before a flag"
    caption += ", " + ", ".join(f"a person with {i} stripes" for i in range(20))
    phrases = ["A woman", "an orange suit", "a flag", *(f"a person with {i} stripes" for i in range(20))]
    both = nano.ground(image, caption, phrases=phrases, threshold=0, top_k=None)
    for label, phrase in enumerate(phrases[1:4], 1):
        one = nano.ground(image, caption, phrases=[phrase], threshold=0, top_k=None)
        own = both.labels == label
        assert 1 < len(one) <= CANDIDATES
        np.testing.assert_allclose(both.scores[own], one.scores, atol=1e-4)
        np.testing.assert_allclose(both.boxes[own], one.boxes, atol=0.1)


def test_a_phrase_below_the_threshold_is_not_looked_at(nano: Detector, monkeypatch: pytest.MonkeyPatch):
    looked = []
    first = type(nano.model).refine_phrases

    def refine_phrases(self, found, *rest):
        looked.extend(found.labels.unique().tolist())
        return first(self, found, *rest)

    monkeypatch.setattr(type(nano.model), "refine_phrases", refine_phrases)
    found = nano.ground(str(PHOTO), "A woman beside a submarine", phrases=["A woman", "a submarine"])
    assert looked == [0]
    assert set(found.names) == {"A woman"}
    assert len(nano.ground(str(PHOTO), "a submarine", phrases=["a submarine"])) == 0


def test_a_threshold_only_cuts(nano: Detector):
    image = nano.encode(str(PHOTO))
    asked = ("A woman before a flag", ["A woman", "a flag"])
    every = nano.ground(image, asked[0], phrases=asked[1], threshold=0, top_k=None)
    some = nano.ground(image, asked[0], phrases=asked[1], threshold=0.3, top_k=None)
    assert 0 < len(some) < len(every)
    np.testing.assert_array_equal(every.boxes[every.scores > 0.3], some.boxes)
    height, width = every.image_size
    assert (every.boxes >= 0).all()
    assert (every.boxes <= [width, height, width, height]).all()


def test_the_best_score_of_a_phrase_stays(nano: Detector, monkeypatch: pytest.MonkeyPatch):
    image, asked = nano.encode(str(PHOTO)), {"phrases": ["A woman", "a flag", "a horse"], "threshold": 0}
    twice = nano.ground(image, "A woman, a flag and a horse", **asked)
    monkeypatch.setattr(type(nano.model), "refine_phrases", lambda self, found, *_: found)
    once = nano.ground(image, "A woman, a flag and a horse", **asked)
    for label in range(3):
        assert twice.scores[twice.labels == label].max() == pytest.approx(
            once.scores[once.labels == label].max(), abs=1e-4
        )


def test_names_are_not_looked_at_twice(nano: Detector, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(nano.model), "refine_phrases", lambda *_: pytest.fail("looked twice"))
    assert len(nano.detect(str(PHOTO), ["person"]))
