"""Whole models with the stored synthetic weights: losses, every gradient, and three optimiser steps."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import annotated
from torch import Tensor, nn

from openglip.images.prepare import normalise, pad_batch
from openglip.model.mode import plain_formulas
from openglip.training.assign import Targets, assign, normalisers
from openglip.training.losses import ClosedSetCriterion, GroundingCriterion
from openglip.training.optim import Steps, parameter_groups, set_rates
from openglip.weights.load import build_model

OFFICIAL_TERMS = {
    "token": "loss_dot_product_token",
    "class": "loss_cls",
    "box": "loss_reg",
    "centerness": "loss_centerness",
}
ROUNDING_ONLY = "attention.self.key.bias"  # its gradient is zero in exact arithmetic
DECAY_ONLY = "word_embeddings.weight"  # most rows only decay, by a factor that float32 (the stored run) rounds to 1


class Run:
    """A model with the golden weights and the loss of the golden batch."""

    def __init__(self, goldens: Path, variant: str) -> None:
        self.folder = goldens / "train" / variant
        self.about = json.loads((self.folder / "e2e.json").read_text())
        self.golden = {
            key: torch.from_numpy(np.asarray(value)) for key, value in np.load(self.folder / "e2e.npz").items()
        }
        self.model = build_model(variant).eval()  # without dropout, as the stored run
        fill(self.model, goldens / "fill.py")
        images = [normalise(self.golden[f"image{i}_rgb"].numpy(), self.model.preparation) for i in range(2)]
        self.images = torch.from_numpy(pad_batch(images))
        self.dtype = torch.float32
        self.loss = self.closed_set if variant.startswith("dyhead") else self.grounding

    def by_image(self, key: str) -> list[Tensor]:
        a, b, c = self.golden["gt_offsets"].tolist()
        return [self.golden[key][a:b], self.golden[key][b:c]]

    def grounding(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        mask = self.golden["text_mask"].bool()
        longest = int(mask.sum(1).max())
        mask, ids = mask[:, :longest], self.golden["input_ids"][:, :longest].long()
        outputs = self.model(self.images, ids, mask)
        maps = [rows[:, :longest].bool() for rows in self.by_image("positive_map")]
        batch = annotated(self.by_image("gt_boxes"), maps, mask)
        losses = GroundingCriterion()(outputs, batch, self.targets(outputs))
        return losses, {"logits_first_tokens": outputs.logits, **self.boxes(outputs)}

    def closed_set(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        outputs = self.model(self.images)
        labels = [of_image.long() - 1 for of_image in self.by_image("gt_labels")]
        losses = ClosedSetCriterion()(
            outputs, annotated(self.by_image("gt_boxes"), labels=labels), self.targets(outputs)
        )
        return losses, {"logits": outputs.logits, **self.boxes(outputs)}

    def targets(self, outputs) -> Targets:
        anchors = self.model.anchors(outputs.sizes, dtype=self.dtype)
        targets = assign(anchors, outputs.sizes, self.by_image("gt_boxes"))
        return replace(targets, normalisers=normalisers([targets]))

    def to_float64(self) -> None:
        self.model.double()
        self.images = self.images.double()
        self.golden = {key: t.double() if t.is_floating_point() else t for key, t in self.golden.items()}
        self.dtype = torch.float64

    def boxes(self, outputs) -> dict[str, Tensor]:
        return {"box_regression": outputs.box_regression, "centerness": outputs.centerness}


def fill(model: nn.Module, path: Path) -> None:
    spec = importlib.util.spec_from_file_location("golden_fill", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            value.copy_(torch.from_numpy(module.tensor(key, value.shape)))


VARIANTS = ["dyhead-t", "glip-t-a", "glip-t"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_then_three_steps(goldens: Path, variant: str) -> None:
    """First float32 as training runs, then float64 with the plain formulas, which has no rounding to speak of."""
    it = Run(goldens, variant)
    losses, outputs = it.loss()
    for tensor in outputs.values():
        tensor.retain_grad()
    check_losses(losses, it.about["losses"], rel=1e-4)
    torch.stack(list(losses.values())).sum().backward()
    for key, tensor in outputs.items():
        torch.testing.assert_close(tensor, it.golden[key], rtol=0, atol=1e-3)
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, it.golden[f"grad_{key}"], rtol=1e-3, atol=1e-4)
    # a ReLU within rounding of its kink moves the gradients of a layer or two by more than the tolerance
    off = gradients_off(it, 1e-3)
    assert len(off) <= 0.02 * len(it.about["grad"]), off
    it.to_float64()
    with plain_formulas():
        it.model.zero_grad()
        torch.stack(list(it.loss()[0].values())).sum().backward()
        assert gradients_off(it, 1e-5) == {}
        check_stored_gradients(it)
        it.model.zero_grad()
        three_steps(it, variant)


def check_losses(losses: dict[str, Tensor], official: dict[str, float], rel: float) -> None:
    for term, value in losses.items():
        assert value.item() == pytest.approx(official[OFFICIAL_TERMS[term]], rel=rel), term


def gradients_off(it: Run, tolerance: float) -> dict[str, float]:
    """Relative deviation of gradient norms from the official float64 run, where above the tolerance."""
    off = {}
    for name, parameter in it.model.named_parameters():
        if it.about["grad"][name] is None:
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        wanted = it.about["float64"]["grad_norms"][name]
        if wanted and not name.endswith(ROUNDING_ONLY):
            ratio = parameter.grad.double().norm().item() / wanted
            if abs(ratio - 1) > tolerance:
                off[name] = ratio - 1
    return off


def check_stored_gradients(it: Run) -> None:
    for name, parameter in it.model.named_parameters():
        if parameter.grad is None or name.endswith(ROUNDING_ONLY):
            continue
        total, abs_sum, _ = it.about["grad"][name]
        assert parameter.grad.sum().item() == pytest.approx(total, abs=2e-3 * abs_sum), name
        if f"grad/{name}" in it.golden:
            wanted = it.golden[f"grad/{name}"]
            limit = 3e-3 * wanted.abs().max().item()
            torch.testing.assert_close(parameter.grad, wanted, rtol=0, atol=limit, msg=lambda m, n=name: f"{n}: {m}")


def three_steps(it: Run, variant: str) -> None:
    """In float64 with the plain formulas: where a ReLU of the tower is within rounding of its kink, float32 may fall on
    the other side than the stored run, and Adam turns that into steps of full size.

    glip-t with synthetic weights is chaotic: its loss jumps from 5 to 218 in one step, where the gradient's norm is
    167,000, so that float32 and float64 part ways in the second step. There the first step is compared, and the
    changes of most parameters.
    """
    official = json.loads((it.folder / "three_steps.json").read_text())
    chaotic = variant == "glip-t"
    before = {name: p.detach().clone() for name, p in it.model.named_parameters()}
    lr_of = {} if variant.startswith("dyhead") else {"language_backbone.": 1e-5}
    optimizer = torch.optim.AdamW(parameter_groups(it.model.named_parameters(), 1e-4, 1e-4, lr_of), fused=True)
    plan = official["schedule"]
    schedule = Steps(plan["max_iter"], warmup=plan["warmup_iters"], warmup_factor=plan["warmup_factor"])
    for step, entry in enumerate(official["iterations"]):
        rate = set_rates(optimizer, schedule, step)
        assert rate == pytest.approx(entry["lr_of_first_group"], rel=1e-9)
        losses, _ = it.loss()
        if not chaotic or step < 2:
            check_losses(losses, entry["losses"], rel=1e-2 if chaotic and step else 1e-3)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(it.model.parameters(), 1.0)
        assert norm.item() == pytest.approx(entry["grad_norm_before_clip"], rel=1e-2)
        optimizer.step()
    changes = {
        name: (parameter.detach() - before[name]).abs().sum().item() / official["delta"][name][0]
        for name, parameter in it.model.named_parameters()
        if (official["delta"].get(name) or [0])[0] and not name.endswith((ROUNDING_ONLY, DECAY_ONLY))
    }
    tolerance = 1e-3 if variant.startswith("dyhead") else 0.02
    far = {name: ratio for name, ratio in changes.items() if abs(ratio - 1) > tolerance}
    assert len(far) <= (0.05 * len(changes) if chaotic else 0), far
    if not chaotic:
        with torch.no_grad():
            check_losses(it.loss()[0], official["losses_after"], rel=1e-3)
