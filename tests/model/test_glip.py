"""Whole models with synthetic weights against the official code: every stage, heads, scores, detections.

Tolerances are those of the goldens' README: 1e-4 for image and text encoders, 5e-4 for tower blocks, 1e-3 for heads,
1e-4 for class probabilities; a tenth for models without fusion. Reached: heads within 2.5e-4 (glip-t), 4.3e-4
(glip-l), 2e-5 (glip-t-a), 1.5e-5 (dyhead-t, dyhead-l).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from model.golden import fill_model, golden_arrays, golden_json, network_input
from torch import Tensor

from openglip.model.dyhead import to_maps
from openglip.model.glip import GLIP
from openglip.model.head import HeadOutputs
from openglip.model.mode import plain_formulas
from openglip.model.postprocess import best_candidates, class_scores, suppress
from openglip.predict.backends.base import BoxArrays
from openglip.predict.backends.torch import to_arrays
from openglip.weights.load import build_model

LEVELS = ("p3", "p4", "p5", "p6", "p7")
VARIANTS = [
    "glip-t-a",
    "dyhead-t",
    "glip-t",
    pytest.param("glip-l", marks=pytest.mark.slow),
    pytest.param("dyhead-l", marks=pytest.mark.slow),
]
FUSED = ("glip-t", "glip-l")


class Run:
    """One variant, its goldens, and what our model gives for them."""

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.arrays = golden_arrays(f"{variant}/forward.npz")
        self.cases = golden_json(f"{variant}/forward.json")["cases"]
        self.model: GLIP = fill_model(build_model(variant))  # type: ignore[assignment]
        self.factor = 1.0 if variant in FUSED else 0.1

    def inputs(self, case: str) -> tuple[Tensor, Tensor | None]:
        images = {"det": [0, 1], "det_single1": [1], "caption": [0]}[case]
        batch = network_input([self.arrays[f"image/{i}"] for i in images], *self.cases[case]["padded_hw"])
        ids = None
        if self.model.categories is None:
            ids = torch.from_numpy(self.arrays[f"{case}/text/input_ids"]).long()
            ids = ids[:, : self.cases[case]["num_tokens"]].repeat(len(images), 1)
        return batch, ids

    def forward(self, case: str) -> HeadOutputs:
        batch, ids = self.inputs(case)
        with torch.no_grad():
            return self.model(batch, ids, None if ids is None else torch.ones_like(ids, dtype=torch.bool))

    def compare(self, name: str, value: Tensor, tolerance: float) -> None:
        expected = self.arrays[name]
        if value.shape != expected.shape:  # fine maps keep every k-th channel
            axis = next(i for i, (a, b) in enumerate(zip(value.shape, expected.shape, strict=True)) if a != b)
            step = -(-value.shape[axis] // expected.shape[axis])
            value = value[(slice(None),) * axis + (slice(None, None, step),)]
        assert value.shape == expected.shape
        assert np.abs(value.numpy() - expected).max() < tolerance, name


def formulas(plain: bool) -> AbstractContextManager[None]:
    return plain_formulas() if plain else nullcontext()


@pytest.fixture(scope="module", params=VARIANTS)
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param)


@pytest.mark.parametrize("plain", [False, True])
def test_every_stage(run: Run, plain: bool):
    batch, ids = run.inputs("det")
    model, limit = run.model, run.factor
    text = None
    with torch.no_grad(), formulas(plain):
        if ids is not None:
            text = model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))
            run.compare("det/text/hidden", text.hidden[:1], 1e-4)
        for i, stage in enumerate(model.backbone["body"](batch)):
            run.compare(f"det/swin/stage{i + 2}", stage, 1e-4)
        pyramid = model.backbone["fpn"](model.backbone["body"](batch)[-3:])
        for name, level in zip(LEVELS, pyramid, strict=True):
            run.compare(f"det/fpn/{name}", level, 1e-4)
        sizes = [tuple(level.shape[2:]) for level in pyramid]
        tower = model.head.dyhead_tower
        step = 3 if model.head.early_fusion else 1
        hooks = [m.register_forward_hook(lambda _, __, out, k=k: seen.update({k: out})) for k, m in enumerate(tower)]
        seen: dict[int, object] = {}
        model.align(model.encode_image(batch), text)
        for hook in hooks:
            hook.remove()
    compared = 0
    for b in range(len(tower) // step):
        parts = {"dyconv": seen[step * b + step - 1]}
        if step == 3:
            parts["fusion"], hidden = seen[3 * b]  # type: ignore[misc]
            for name, value in (
                (f"det/tower/{b}/fusion/hidden", hidden),
                (f"det/tower/{b}/text/hidden", seen[3 * b + 1]),
            ):
                if name in run.arrays:
                    run.compare(name, value, 5e-4)
        for part, sequence in parts.items():
            for name, level in zip(LEVELS, to_maps(sequence, sizes), strict=True):  # type: ignore[arg-type]
                if f"det/tower/{b}/{part}/{name}" in run.arrays:
                    run.compare(f"det/tower/{b}/{part}/{name}", level, 5e-4 * limit)
                    compared += 1
    assert compared >= 2 * len(LEVELS)


@pytest.mark.parametrize("case", ["det", "det_single1", "caption"])
@pytest.mark.parametrize("plain", [False, True])
def test_heads(run: Run, case: str, plain: bool):
    if case not in run.cases:
        pytest.skip("the closed set has no caption")
    with formulas(plain):
        out = run.forward(case)
    closed = run.model.categories is not None
    start = 0
    for name, (h, w) in zip(LEVELS, out.sizes, strict=True):
        level = slice(start, start + h * w)
        start += h * w
        boxes = out.box_regression[:, level].transpose(1, 2).unflatten(2, (h, w))
        run.compare(f"{case}/head/bbox_reg/{name}", boxes, 1e-3 * run.factor)
        centerness = out.centerness[:, level].unflatten(1, (h, w))[:, None]
        run.compare(f"{case}/head/centerness/{name}", centerness, 1e-3 * run.factor)
        logits = out.logits[:, level]
        if closed:
            run.compare(f"{case}/head/cls_logits/{name}", logits.transpose(1, 2).unflatten(2, (h, w)), 1e-4)
        else:
            run.compare(f"{case}/head/token_logits/{name}", logits, 1e-3 * run.factor)


@pytest.mark.parametrize("case", ["det", "det_single1", "caption"])
def test_scores_and_detections(run: Run, case: str):
    if case not in run.cases:
        pytest.skip("the closed set has no caption")
    out, info = run.forward(case), run.cases[case]
    token_map = list(info["label_to_tokens"].values()) if run.model.categories is None else [[k] for k in range(80)]
    tags = {"default": "mean", "MAX": "max", "MEAN_classnum100": "mean", "POWER_classnum100": "power"}
    for tag, aggregation in tags.items():
        if f"{case}/det/{tag}/0/boxes" not in run.arrays:
            continue
        for i, image_size in enumerate(info["image_sizes_hw"]):
            scores = class_scores(out.logits[i], token_map, aggregation)  # type: ignore[arg-type]
            start = sum(h * w for h, w in out.sizes[:1])
            for name, (h, w) in zip(LEVELS[1:], out.sizes[1:], strict=True):
                key = f"{case}/class_scores/{aggregation.upper()}/{name}"
                if key in run.arrays:
                    difference = np.abs(scores[start : start + h * w].numpy() - run.arrays[key][i]).max()
                    assert difference < 1e-4 * run.factor
                start += h * w
            anchors = run.model.anchors(out.sizes)
            found = best_candidates(
                scores, out.box_regression[i], out.centerness[i], anchors, out.sizes, tuple(image_size)
            )
            found = to_arrays(suppress(found)).best(100)
            expected = [run.arrays[f"{case}/det/{tag}/{i}/{part}"] for part in ("boxes", "scores", "labels")]
            details = info["detections"][tag]
            must = details["matched_after_noise_2e-5"][i]
            assert abs(len(found.scores) - details["count"][i]) <= details["count"][i] - must
            assert matched(found, *expected) >= must


def matched(found: BoxArrays, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> int:
    """How many expected detections are there: same label, box within 0.05 px, score within 1e-3, each used once."""
    used = np.zeros(len(found.scores), bool)
    for box, score, label in zip(boxes, scores, labels, strict=True):
        close = np.abs(found.boxes - box).max(1) < 0.05
        close &= np.abs(found.scores - score) < 1e-3
        close &= (found.labels + 1 == label) & ~used
        if close.any():
            used[close.argmax()] = True
    return int(used.sum())


@pytest.mark.parametrize("length", [256, 21])
def test_batch_of_two_captions_padded_and_trimmed(length: int):
    arrays, info = golden_arrays("glip-t/two_captions.npz"), golden_json("glip-t/two_captions.json")
    run = Run("glip-t")
    ids = torch.from_numpy(arrays["text/input_ids"]).long()[:, :length]
    mask = torch.from_numpy(arrays["text/masks"]).bool()[:, :length]
    batch, _ = run.inputs("det")
    with torch.no_grad():
        out = run.model(batch, ids, mask)
    start = 0
    for name, (h, w) in zip(LEVELS, out.sizes, strict=True):
        level = slice(start, start + h * w)
        start += h * w
        boxes = out.box_regression[:, level].transpose(1, 2).unflatten(2, (h, w)).numpy()
        assert np.abs(boxes - arrays[f"head/bbox_reg/{name}"]).max() < 1e-3
        for i, tokens in enumerate(info["num_tokens"]):
            difference = out.logits[i, level, :tokens].numpy() - arrays[f"head/token_logits/{i}/{name}"]
            assert np.abs(difference).max() < 1e-3


def test_bf16_autocast_runs_and_stays_near():
    torch.manual_seed(0)
    model = build_model("debug").eval()
    images, ids = torch.randn(1, 3, 96, 128), torch.tensor([[101, 4937, 1012, 3899, 102]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        exact = model(images, ids, mask)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images, ids, mask)
    for a, b in zip(exact[:3], rough[:3], strict=True):
        assert torch.isfinite(b).all()
        assert (a - b.float()).abs().max() < 0.05 * (1 + a.abs().max())


@pytest.mark.parametrize(("height", "width"), [(33, 47), (97, 161), (130, 257)])
def test_fast_path_equals_the_plain_one_at_odd_sizes(height: int, width: int):
    torch.manual_seed(0)
    model: GLIP = build_model("debug").eval()  # type: ignore[assignment]
    images, ids = torch.randn(2, 3, height, width), torch.tensor([[101, 4937, 1012, 102], [101, 3899, 102, 0]])
    with torch.no_grad():
        fast = model(images, ids, ids > 0)
        with plain_formulas():
            plain = model(images, ids, ids > 0)
    real = (ids > 0)[:, None].expand_as(fast.logits)
    assert (fast.logits - plain.logits)[real].abs().max() < 1e-4
    assert (fast.box_regression - plain.box_regression).abs().max() < 1e-4
    assert (fast.centerness - plain.centerness).abs().max() < 1e-4


def test_plain_and_fast_gradients_agree():
    torch.manual_seed(0)
    model: GLIP = build_model("debug").eval()  # type: ignore[assignment]
    images, ids = torch.randn(1, 3, 65, 97), torch.tensor([[101, 4937, 1012, 3899, 102]])
    gradients = []
    for plain in (True, False):
        model.zero_grad()
        with formulas(plain):
            out = model(images, ids, ids > 0)
        (out.logits.square().mean() + out.box_regression.square().mean() + out.centerness.square().mean()).backward()
        gradients.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        assert (gradients[1][name] - expected).norm() < 1e-3 * expected.norm() + 1e-7, name
