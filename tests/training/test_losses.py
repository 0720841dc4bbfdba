"""Targets, losses and gradients against the official code, and what has to hold for any input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tiny import annotated
from torch import Tensor

from openglip.errors import DataError
from openglip.model.anchors import AnchorGrid, BoxCoder
from openglip.structures.boxes import pairwise_iou
from openglip.training.assign import Targets, assign, normalisers
from openglip.training.losses import ClosedSetCriterion, Criterion, GroundingCriterion, giou_loss

GROUNDING = ["basic", "repeated_category", "ties", "full_text", "odd_sizes", "larger", "image_without_boxes"]
CASES = [
    *(("glip-t", case) for case in GROUNDING),
    ("glip-t-a", "basic"),
    *(("dyhead-t", case) for case in ("basic", "ties", "image_without_boxes")),
]


class Outputs(NamedTuple):
    logits: Tensor
    box_regression: Tensor
    centerness: Tensor
    sizes: list[tuple[int, int]]


class Case:
    """One stored loss: inputs as leaves, boxes and maps by image."""

    def __init__(self, path: Path) -> None:
        self.golden = {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(path).items()}
        self.outputs = Outputs(
            *(self.golden[f"in_{key}"].requires_grad_() for key in ("logits", "box_regression", "centerness")),
            sizes=[(h, w) for h, w in self.golden["feature_sizes"].tolist()],
        )
        self.anchors = AnchorGrid()(self.outputs.sizes)
        self.boxes = self.by_image("gt_boxes")

    def by_image(self, key: str) -> list[Tensor]:
        offsets = self.golden["gt_offsets"].tolist()
        return [self.golden[key][begin:end] for begin, end in itertools.pairwise(offsets)]

    def losses(self, background_column: int | None = 255) -> dict[str, Tensor]:
        criterion: Criterion
        if "positive_map" in self.golden:
            maps = [rows.bool() for rows in self.by_image("positive_map")]
            batch = annotated(self.boxes, maps, self.golden["text_mask"].bool())
            criterion = GroundingCriterion(background_column=background_column)
        else:
            batch = annotated(self.boxes, labels=[labels.long() - 1 for labels in self.by_image("gt_labels")])
            criterion = ClosedSetCriterion()
        return criterion(self.outputs, batch, targets_of(self.anchors, self.outputs.sizes, self.boxes))


def targets_of(anchors: Tensor, sizes: list[tuple[int, int]], boxes: list[Tensor]) -> Targets:
    """Targets of a step with one batch."""
    targets = assign(anchors, sizes, boxes)
    return replace(targets, normalisers=normalisers([targets]))


@pytest.fixture(params=CASES, ids="/".join)
def case(request: pytest.FixtureRequest, golden_file: Callable[[str], Path]) -> Case:
    variant, name = request.param
    return Case(golden_file(f"train/{variant}/loss_{name}.npz"))


def test_targets_are_the_official_ones(case: Case) -> None:
    golden = case.golden
    torch.testing.assert_close(case.anchors, golden["anchors"], rtol=0, atol=0)
    torch.testing.assert_close(
        pairwise_iou(case.anchors, golden["gt_boxes"], plus_one=True), golden["iou"], rtol=1e-5, atol=1e-6
    )
    targets = assign(case.anchors, case.outputs.sizes, case.boxes)
    assert torch.equal(targets.matched.int(), golden["matched_gt"])
    image, anchor = (targets.matched >= 0).nonzero(as_tuple=True)
    encoded = BoxCoder().encode(targets.boxes, case.anchors[anchor])
    torch.testing.assert_close(encoded, golden["reg_target"][image, anchor], rtol=0, atol=1e-4)
    torch.testing.assert_close(targets.centerness, golden["centerness_target"][image, anchor], rtol=0, atol=1e-4)
    assert int(normalisers([targets]).positives) == int(golden["num_pos"])


def test_losses_and_gradients_are_the_official_ones(case: Case) -> None:
    golden, losses = case.golden, case.losses()
    official = {"token": "dot_product_token", "class": "cls", "box": "reg", "centerness": "centerness"}
    for term, value in losses.items():
        assert value.item() == pytest.approx(golden[f"loss_{official[term]}"].item(), rel=1e-5), term
    torch.stack(list(losses.values())).sum().backward()
    for key in ("logits", "box_regression", "centerness"):
        gradient = getattr(case.outputs, key).grad
        torch.testing.assert_close(
            gradient, golden[f"grad_{key}"], rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_padded_text_has_no_gradient(golden_file: Callable[[str], Path]) -> None:
    case = Case(golden_file("train/glip-t/loss_basic.npz"))
    case.losses()["token"].backward()
    padded = case.golden["text_mask"] == 0
    assert torch.count_nonzero(case.outputs.logits.grad.transpose(1, 2)[padded]) == 0


def test_background_asks_for_no_token_without_the_switch(golden_file: Callable[[str], Path]) -> None:
    losses = Case(golden_file("train/glip-t/loss_full_text.npz")).losses(background_column=None)
    assert losses["token"].item() == pytest.approx(192.92, abs=0.01)


SIZES = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]


def outputs(batch: int, tokens: int, seed: int = 0) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    locations = sum(h * w for h, w in SIZES)
    logits = torch.randn(batch, locations, tokens, generator=generator) - 3
    deltas = torch.randn(batch, locations, 4, generator=generator)
    centerness = torch.randn(batch, locations, generator=generator)
    return Outputs(*(x.requires_grad_() for x in (logits, deltas, centerness)), sizes=SIZES)


BOXES = [torch.tensor([[3.0, 5.0, 40.0, 44.0], [20.0, 22.0, 33.0, 60.0]]), torch.zeros(0, 4)]
MAPS = [torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0]]).bool(), torch.zeros(0, 4).bool()]
BATCH = annotated(BOXES, MAPS, torch.ones(2, 4).bool())


def test_batch_without_any_box_has_finite_loss_and_gradients() -> None:
    out = outputs(2, 4)
    batch = annotated([BOXES[1]] * 2, [MAPS[1]] * 2, BATCH.mask)
    losses = GroundingCriterion()(out, batch, targets_of(AnchorGrid()(SIZES), SIZES, [BOXES[1]] * 2))
    torch.stack(list(losses.values())).sum().backward()
    assert losses["box"] == losses["centerness"] == 0
    assert losses["token"] > 0
    for tensor in (out.logits, out.box_regression, out.centerness):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_shared_counts_make_small_batches_equal_one_large() -> None:
    grid, criterion = AnchorGrid()(SIZES), GroundingCriterion()
    out = outputs(2, 4)
    whole = criterion(out, BATCH, targets_of(grid, SIZES, BOXES))
    targets = [assign(grid, SIZES, [boxes]) for boxes in BOXES]
    counts = normalisers(targets)
    parts = []
    for i in range(2):
        one = Outputs(out.logits[i : i + 1], out.box_regression[i : i + 1], out.centerness[i : i + 1], SIZES)
        batch = annotated(BOXES[i : i + 1], MAPS[i : i + 1], BATCH.mask[:1])
        parts.append(criterion(one, batch, replace(targets[i], normalisers=counts)))
    for term in whole:
        torch.testing.assert_close(parts[0][term] + parts[1][term], whole[term])


def test_half_precision_outputs_are_scored_in_float32() -> None:
    out = outputs(2, 4)
    half = Outputs(out.logits.bfloat16(), out.box_regression.bfloat16(), out.centerness.bfloat16(), SIZES)
    losses = GroundingCriterion()(half, BATCH, targets_of(AnchorGrid()(SIZES), SIZES, BOXES))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_map_of_another_width_is_named() -> None:
    with pytest.raises(ValueError, match="image 0: the positive map has 4 columns, the logits have 5"):
        GroundingCriterion()(
            outputs(2, 5),
            annotated(BOXES, MAPS, torch.ones(2, 5).bool()),
            targets_of(AnchorGrid()(SIZES), SIZES, BOXES),
        )


def test_an_image_without_class_labels_is_named() -> None:
    batch = annotated(BOXES, labels=[torch.tensor([0, 1]), None])
    with pytest.raises(DataError, match="image 1 of tiny has no class labels"):
        ClosedSetCriterion()(outputs(2, 5), batch, targets_of(AnchorGrid()(SIZES), SIZES, BOXES))


def test_giou_loss_is_zero_for_equal_and_above_one_for_distant_boxes() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert giou_loss(box, box).item() == pytest.approx(0, abs=1e-6)
    assert giou_loss(box + 100, box).item() > 1.5
