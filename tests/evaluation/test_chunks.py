"""Check 4 of the eight: names in several prompts. Nothing changes only where nothing couples the names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import openglip
from openglip.evaluation import predict as predict_module
from openglip.evaluation.predict import Picture, ask_chunks
from openglip.model.glip import GLIP
from openglip.model.head import Head
from openglip.predict.detector import Detector

NAMES = [f"{colour} {thing}" for colour in ("red", "blue", "green", "old") for thing in ("car", "cup", "dog")]
PICTURE = np.random.default_rng(3).integers(0, 255, (64, 96, 3), np.uint8)


def with_raised_scores(model: nn.Module) -> Detector:
    with torch.no_grad():
        model.get_parameter("rpn.head.bias0").add_(4.6)
    return Detector(model, device="cpu")


@pytest.fixture(scope="module")
def fused() -> Detector:
    return with_raised_scores(openglip.load("debug", device="cpu").model)


@pytest.fixture(scope="module")
def apart() -> Detector:
    """GLIP without fusion, as GLIP-T (A), in miniature."""
    model = openglip.load("debug", device="cpu").model
    assert isinstance(model, GLIP)
    torch.manual_seed(0)
    model.rpn.head = Head(64, blocks=2, levels=5, classes=80, text_dim=64, early_fusion=False)
    return with_raised_scores(model)


def scores_by_name(detector: Detector, names, chunk_size: int) -> dict[str, list[float]]:
    found = detector.detect(PICTURE, names, threshold=0, top_k=None, chunk_size=chunk_size)
    return {name: found.scores[found.labels == k].tolist() for k, name in enumerate(names)}


def largest_difference(a: dict[str, list[float]], b: dict[str, list[float]]) -> float:
    """Between the best scores of the same names."""
    return max(abs(max(a[name]) - max(b[name])) for name in a)


@pytest.mark.parametrize("kind", ["fused", "apart"])
def test_a_names_encoded_one_by_one_do_not_see_each_other(kind: str, request: pytest.FixtureRequest) -> None:
    detector = request.getfixturevalue(kind)
    whole = scores_by_name(detector, NAMES, 1)
    for names in (NAMES[:5], NAMES[5:8], NAMES[::-1]):
        some = scores_by_name(detector, names, 1)
        for name in names:
            assert some[name] == pytest.approx(whole[name], abs=1e-5)


def test_b_names_of_one_caption_see_each_other_through_the_text_encoder(apart: Detector) -> None:
    difference = largest_difference(scores_by_name(apart, NAMES, 4), scores_by_name(apart, NAMES, 12))
    assert 1e-6 < difference < 0.2


def test_c_with_fusion_through_the_picture_too(fused: Detector) -> None:
    difference = largest_difference(scores_by_name(fused, NAMES, 4), scores_by_name(fused, NAMES, 12))
    assert 1e-6 < difference < 0.2


def test_caps_of_a_prompt_and_of_a_picture(fused: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    joint = fused.detect(PICTURE, NAMES, threshold=0, top_k=5, chunk_size=4)
    assert len(joint) == 5
    monkeypatch.setattr(predict_module, "PER_PROMPT", 5)
    ask = ask_chunks(NAMES, list(range(12)), chunk_size=4)
    (rows,) = ask(fused, [Picture(1, encoded(PICTURE))])
    per_prompt = np.bincount([row["category_id"] // 4 for row in rows], minlength=3)
    assert per_prompt.tolist() == [5, 5, 5]


def encoded(pixels: np.ndarray) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
