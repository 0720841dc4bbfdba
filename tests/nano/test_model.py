"""The embedded model: its seam, its detector inside, independence of names, and what a user sees of its weights."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import openglip
from openglip.images.read import read_image
from openglip.model.anchors import AnchorGrid
from openglip.nano.model import CLASSES, Nano
from openglip.nano.text import WordTable
from openglip.predict.detector import Detector
from openglip.prompts.tables import read_table
from openglip.prompts.tokens import tokenize
from openglip.weights.load import model_builder

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@pytest.fixture(scope="module")
def nano() -> Detector:
    return openglip.load("nano", device="cpu")


def ids_of(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([tokenize(text).ids])
    return ids, torch.ones_like(ids, dtype=torch.bool)


def test_outputs_have_the_shapes_every_detector_has():
    torch.manual_seed(0)
    model = model_builder("nano")().eval()
    ids, mask = ids_of("cat. traffic light")
    with torch.inference_mode():
        outputs = model(torch.zeros(2, 3, 80, 200), ids.repeat(2, 1), mask.repeat(2, 1))
    anchors = model.anchors(outputs.sizes)
    assert outputs.sizes == ((8, 20), (4, 10), (2, 5), (12, 28), (6, 14), (3, 7))
    assert outputs.logits.shape == (2, len(anchors), ids.shape[1])
    assert outputs.box_regression.shape == (2, len(anchors), 4)
    assert outputs.centerness.shape == (2, len(anchors))
    assert all(torch.isfinite(x).all() for x in outputs[:3])


def test_a_name_scores_the_same_whatever_stands_beside_it(nano: Detector):
    image = nano.encode(str(PHOTOS / "astronaut.jpg"))
    alone = nano.detect(image, ["person"], threshold=0.1)
    among = nano.detect(image, list(read_table("coco")), threshold=0.1, top_k=None)
    person = among.labels == among.vocabulary.index("person")
    assert len(alone) > 1
    np.testing.assert_allclose(among.scores[person], alone.scores, atol=1e-4)
    np.testing.assert_allclose(among.boxes[person], alone.boxes, atol=0.1)


def test_full_stops_and_ends_carry_no_features(nano: Detector):
    ids, mask = ids_of("a dog. a cat")
    with torch.inference_mode():
        both = nano.model.encode_text(ids, mask).hidden[0]
        one = nano.model.encode_text(*ids_of("a cat")).hidden[0]
        empty = nano.model.project_text(torch.zeros(1, 1, 768))[0, 0]
    torch.testing.assert_close(both[4:6], one[1:3], atol=1e-5, rtol=1e-5)
    for place in (0, 3, 6):
        torch.testing.assert_close(both[place], empty)


def test_a_text_of_stops_only_is_encoded():
    with torch.inference_mode():
        hidden = model_builder("nano")().eval().encode_text(*ids_of(". .")).hidden
    assert torch.isfinite(hidden).all()


def test_words_in_eight_bits_come_back_within_half_a_step():
    words = torch.randn(50, 384)
    table = WordTable(50, 384)
    table.scale.copy_(words.abs().amax(1, keepdim=True) / 127)
    table.values.copy_((words / table.scale).round())
    ids = torch.randint(0, 50, (3, 7))
    assert ((table(ids) - words[ids]).abs() <= table.scale[ids] / 2 + 1e-6).all()


def test_the_detectors_own_places_give_its_boxes():
    torch.manual_seed(0)
    model = Nano().eval()
    images = torch.randn(1, 3, 80, 80) * 40
    with torch.inference_mode():
        raw = [boxes for _, _, boxes in model.yolox(F.pad(images, (0, 16, 0, 16)) + 114)]
        outputs = model.align(model.encode_image(images), model.encode_text(*ids_of("cat")))
    anchors = model.anchors(outputs.sizes)
    own = sum(h * w for h, w in outputs.sizes[3:])
    found = model.coder.decode(outputs.box_regression[0], anchors)[-own:]
    expected = []
    for level, stride in zip(raw, (8, 16, 32), strict=True):
        _, _, h, w = level.shape
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        centre = torch.stack([(level[0, 0] + x) * stride, (level[0, 1] + y) * stride], -1)
        half = torch.stack([level[0, 2], level[0, 3]], -1).exp() * stride / 2
        expected.append(torch.cat([centre - half, centre + half], -1).reshape(-1, 4))
    torch.testing.assert_close(found, torch.cat(expected), atol=0.01, rtol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_tower_reads_both_encoders_where_it_stands(threads: int, monkeypatch: pytest.MonkeyPatch):
    """Maps that hold their own places, in pixels of the image, still do so on the tower's grid."""
    model = Nano().eval()
    given: list = []

    def places(height: int, width: int, stride: float, channels: int) -> torch.Tensor:
        x, y = (torch.arange(n) * stride + stride / 2 for n in (width, height))
        return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].repeat(1, channels // 2, 1, 1)

    def known(photo: torch.Tensor) -> list:
        assert photo.shape[2:] == (128, 224)
        levels = [(places(128 // s, 224 // s, s, 64), s) for s in (8, 16, 32)]
        return [([x], x[:, :2], torch.zeros(1, 4, *x.shape[2:])) for x, s in levels]

    def seen(photo: torch.Tensor) -> list:
        assert photo.shape[2:] == (96, 128)
        return [places(96 // s, 128 // s, s / 0.6, 64) for s in (8, 16, 32)]

    monkeypatch.setattr(model, "run_detector", known)
    monkeypatch.setattr(model.mobilenet, "forward", seen)
    monkeypatch.setattr(model, "tower", lambda *args: given.extend(args) or [])
    own = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            model.encode_image(torch.zeros(1, 3, 120, 200))
    finally:
        torch.set_num_threads(own)
    for stride, ([features], scores), guesses, level in zip((10, 20, 40), given[0], given[1], given[2], strict=True):
        grid = places(120 // stride, 200 // stride, stride, 2)
        inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # the outermost cells read no further out
        for mine in (features[:, :2], scores, level[:, :2]):
            torch.testing.assert_close(mine[inside], grid[inside])
        boxes = model.coder.decode(guesses[0].flatten(1).T, AnchorGrid((stride,), 8)([tuple(guesses.shape[2:])]))
        centre = (boxes[:, :2] + boxes[:, 2:] + 1).T.reshape(grid.shape) / 2
        # raw zeros: a box at the upper left corner of its cell, which is less than one of the tower's away
        assert ((grid - centre) >= -0.5).all()
        assert ((grid - centre) <= stride).all()


def test_the_tower_computes_the_same_with_gradients():
    torch.manual_seed(0)
    model = Nano().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    images = torch.randn(1, 3, 80, 120) * 40
    with torch.no_grad():
        quick = model.encode_image(images)
    for level, plain in zip(quick, model.encode_image(images), strict=True):
        torch.testing.assert_close(level, plain.detach(), atol=1e-3, rtol=1e-3)


def test_an_image_of_another_multiple_is_refused():
    with pytest.raises(ValueError, match="multiples of 40 here, not 96 x 80"):
        Nano().encode_image(torch.zeros(1, 3, 96, 80))


def test_every_name_of_the_detector_is_itself_and_no_other(nano: Detector):
    names = read_table("coco")
    ids, mask = ids_of(". ".join(names))
    with torch.inference_mode():
        same = nano.model.encode_text(ids, mask).hidden[0, :, -CLASSES:]
    best = [row.argmax().item() for row, sure in zip(same, same.amax(1) > 0.5, strict=True) if sure]
    assert list(dict.fromkeys(best)) == list(range(CLASSES))


@pytest.mark.parametrize(("asked", "meant"), [("lorry", "truck"), ("a rucksack", "backpack"), ("settees", "couch")])
def test_another_word_means_the_detectors_name(nano: Detector, asked: str, meant: str):
    same = nano.encode_text([asked]).prompts[0].tokens.hidden[1, -CLASSES:]  # type: ignore[union-attr]
    assert read_table("coco")[int(same.argmax())] == meant
    assert same.max() > 0.7


@pytest.mark.parametrize("asked", ["lion", "castle", "shirt", "a red hat", "cupboard", "busy street", "carpet"])
def test_a_word_that_is_no_name_of_the_detector_stays_the_towers(nano: Detector, asked: str):
    assert nano.encode_text([asked]).prompts[0].tokens.hidden[:, -CLASSES:].max() < 0.2  # type: ignore[union-attr]


def test_finds_the_cat_and_no_elephant(nano: Detector):
    found = nano.detect(str(PHOTOS / "chelsea.jpg"), ["elephant", "cat", "bus", "airplane"])
    assert [found.vocabulary[i] for i in found.labels] == ["cat"]
    x1, y1, x2, y2 = found.boxes[0]
    assert x2 - x1 > 0.6 * found.image_size[1]
    assert y2 - y1 > 0.7 * found.image_size[0]


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.55])
def test_what_is_left_out_below_the_threshold_changes_nothing_above_it(nano: Detector, threshold: float):
    photos = [str(PHOTOS / f"{name}.jpg") for name in ("astronaut", "coffee", "chelsea")]
    for all_found, found in zip(
        nano.detect(photos, list(read_table("coco")), threshold=0.0, top_k=None),
        nano.detect(photos, list(read_table("coco")), threshold=threshold, top_k=None),
        strict=True,
    ):
        above = all_found.scores > threshold
        assert len(found) == above.sum() > 0
        np.testing.assert_allclose(found.scores, all_found.scores[above], atol=1e-6)
        np.testing.assert_allclose(found.boxes, all_found.boxes[above], atol=1e-2)
        assert (found.labels == all_found.labels[above]).all()


@pytest.mark.parametrize("kind", ["dark", "wide", "large", "tiny", "black"])
def test_unusual_photos_give_sane_results(nano: Detector, kind: str):
    photo = read_image(str(PHOTOS / "chelsea.jpg"))
    picture = {
        "dark": (photo * 0.25).astype(np.uint8),
        "wide": np.concatenate([np.full((300, 525, 3), 128, np.uint8), photo, np.full((300, 525, 3), 90, np.uint8)], 1),
        "large": photo.repeat(9, 0).repeat(9, 1),
        "tiny": photo[:2, :3],
        "black": np.zeros((300, 400, 3), np.uint8),
    }[kind]
    found = nano.detect(picture, ["cat", "elephant"])
    names = [found.vocabulary[i] for i in found.labels]
    assert "elephant" not in names
    assert names.count("cat") == (1 if kind in ("dark", "wide", "large") else 0)
    height, width = picture.shape[:2]
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [width, height, width, height]).all()


def test_the_two_files_stay_small():
    folder = resources.files("openglip.weights") / "embedded"
    sizes = [Path(str(f)).stat().st_size for f in folder.iterdir() if f.name.startswith("nano-")]
    assert len(sizes) == 2
    assert sum(sizes) <= 40 * 2**20


def test_in_training_the_tower_alone_answers_on_its_own_anchors():
    model = Nano().train()
    ids, mask = ids_of("a dog. a cat")
    outputs = model(torch.randn(1, 3, 80, 120) * 40, ids, mask)
    assert outputs.sizes == ((8, 12), (4, 6), (2, 3))
    assert len(model.anchors(outputs.sizes)) == outputs.logits.shape[1]
    is_word = torch.tensor([False, True, True, False, True, True, False])
    assert (outputs.logits[..., ~is_word] == -1e4).all()
    assert (outputs.logits[..., is_word] > -100).all()
    (outputs.logits[..., is_word].sum() + outputs.box_regression.sum() + outputs.centerness.sum()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"bert", "yolox", "second_stage"}
    model.eval()
    assert len(model.anchors.strides) == 6


def test_in_evaluation_gradients_change_nothing_and_flow():
    torch.manual_seed(0)
    model = Nano().eval()
    images, (ids, mask) = torch.randn(1, 3, 80, 80) * 40, ids_of("a cat")
    with torch.no_grad():
        fast = model(images, ids, mask)
    outputs = model(images, ids, mask)
    torch.testing.assert_close(outputs.logits.detach(), fast.logits, atol=1e-3, rtol=1e-3)
    outputs.logits.sum().backward()
    assert model.keys.weight.grad is not None
