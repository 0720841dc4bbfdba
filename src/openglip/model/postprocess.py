"""From raw outputs to boxes: class scores, the best candidates, suppression. Source: docs/spec.md 6.3."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from openglip.model.anchors import BoxCoder
from openglip.runtime import torchvision_nms

if TYPE_CHECKING:
    from openglip.model.contract import Model
    from openglip.model.head import HeadOutputs, TextFeatures

Aggregation = Literal["mean", "max", "power"]
TokenMap = Sequence[Sequence[int]]
"""For each name or phrase of a prompt the positions of its tokens."""
_nms = cache(torchvision_nms)


class ScoredBoxes(NamedTuple):
    """Boxes N x 4 (xyxy, pixels of the network's input), scores N, labels N (row of the token map)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def class_scores(logits: Tensor, token_map: Sequence[Sequence[int]], aggregation: Aggregation = "mean") -> Tensor:
    """Probability of every class at every anchor.

    Args:
        logits: A x L, for every token.
        token_map: The token positions of each of K classes; a class without tokens scores 0.
        aggregation: What a class takes of its tokens' probabilities: their "mean", their "max", or "power", their
            geometric mean.

    Returns:
        A x K.
    """
    probabilities = logits.float().sigmoid()
    if aggregation == "max":
        columns = [probabilities[:, list(t)].amax(1) if t else probabilities.new_zeros(len(logits)) for t in token_map]
        return torch.stack(columns, 1)
    if aggregation == "power":
        powers = probabilities.log() @ token_weights(token_map, logits)
        return powers.exp_() * torch.tensor([bool(t) for t in token_map], device=logits.device)
    return probabilities @ token_weights(token_map, logits)


def token_weights(token_map: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    """L x K matrix that averages the columns of each class's tokens."""
    weights = torch.zeros(logits.shape[1], len(token_map))
    entries = [(t, k, 1 / len(tokens)) for k, tokens in enumerate(token_map) for t in tokens]
    if entries:
        rows, columns, values = zip(*entries, strict=True)
        weights[rows, columns] = torch.tensor(values)
    return weights.to(logits.device)


def within_reach(
    logits: Tensor, centerness: Tensor, sizes: Sequence[tuple[int, int]], score_cut: float, least: float
) -> tuple[Tensor, list[int]]:
    """The anchors at which some class may have a probability above `score_cut` and a final score of at least `least`.

    No aggregation gives a class a higher probability than that of its best token.

    Args:
        logits: A x L, for every token.
        centerness: A logits.
        sizes: (h, w) of each level.
        score_cut: See `best_candidates`.
        least: See `best_candidates`.

    Returns:
        The rows of these anchors, and how many of them lie on each level.
    """
    best = logits.amax(1).float().sigmoid() * (1 + 1e-4)  # room for rounding
    able = (best > score_cut) & (best * centerness.float().sigmoid() > least**2)
    counts = [int(level.sum()) for level in able.split([h * w for h, w in sizes])]
    return able.nonzero()[:, 0], counts


def best_candidates(
    scores: Tensor,
    box_regression: Tensor,
    centerness: Tensor,
    anchors: Tensor,
    sizes: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    *,
    score_cut: float = 0.05,
    per_level: int = 1000,
    coder: BoxCoder | None = None,
    least: float = 0.0,
) -> ScoredBoxes:
    """The best (anchor, class) pairs of one image, decoded and clipped to the image.

    Args:
        scores: A x K class probabilities.
        box_regression: A x 4, in the code of `coder`.
        centerness: A logits.
        anchors: A x 4, xyxy in pixels of the network's input.
        sizes: (h, w) of each level.
        image_size: (height, width) of the image without padding, in pixels of the network's input.
        score_cut: Pairs whose probability is at or below it are no candidates.
        per_level: Candidates of each level, the best by probability times centerness. The final score is the square
            root of that product.
        coder: The box code; None: GLIP's.
        least: Pairs below this final score may be left out: a lower score never suppresses a higher one.
    """
    coder = coder or BoxCoder()
    pairs_of_levels, start = [], 0
    weighted = scores * centerness.float().sigmoid()[:, None]
    for h, w in sizes:
        level = slice(start, start + h * w)
        is_candidate = scores[level] > score_cut
        if least > 0:
            is_candidate &= weighted[level] > least**2 * (1 - 1e-5)  # with room for the rounding of the root
        flat = is_candidate.flatten().nonzero()[:, 0]
        if len(flat) > per_level:
            flat = flat[weighted[level].flatten()[flat].topk(per_level, sorted=False).indices]
        pairs_of_levels.append(flat + start * scores.shape[1])
        start += h * w
    pairs = torch.cat(pairs_of_levels)
    rows = pairs // scores.shape[1]
    boxes = coder.decode(box_regression[rows].float(), anchors[rows])
    height, width = image_size
    boxes = torch.stack([boxes[:, i].clamp(0, limit - 1) for i, limit in enumerate((width, height, width, height))], 1)
    return ScoredBoxes(boxes, weighted.flatten()[pairs].sqrt(), pairs % scores.shape[1])


def suppress(
    candidates: ScoredBoxes, iou: float = 0.6, *, class_agnostic: bool = False, plus_one: bool = True
) -> ScoredBoxes:
    """Non-maximum suppression.

    Runs on the CPU in float64, where an overlap of exactly `iou` survives as it does in the official kernel.

    Args:
        candidates: Boxes with scores and labels.
        iou: Overlap strictly above which the box with the lower score is dropped.
        class_agnostic: Whether boxes of different labels suppress each other too.
        plus_one: Whether widths are x2 - x1 + 1, as the released models were tuned with.

    Returns:
        The boxes that remain, on the CPU, with falling scores.
    """
    boxes = candidates.boxes.cpu().double()
    boxes[:, 2:] += float(plus_one)
    if not class_agnostic and len(boxes):
        # Boxes of different labels are moved apart, so that one call serves all labels.
        boxes += (candidates.labels.cpu() * (boxes.max() + 2))[:, None]
    remaining = _nms()(boxes, candidates.scores.cpu().double(), iou)
    return ScoredBoxes(*(column.cpu()[remaining] for column in candidates))


def join_boxes(parts: Sequence[ScoredBoxes]) -> ScoredBoxes:
    """Several sets of boxes as one, in their order."""
    return ScoredBoxes(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def one_stage_boxes(
    model: Model,
    pyramid: Sequence[Tensor],
    text: TextFeatures | None,
    token_maps: Sequence[TokenMap],
    image_sizes: Sequence[tuple[int, int]],
    *,
    least: float,
    nms_iou: float,
) -> list[ScoredBoxes]:
    """The boxes of a batch by one pass of the head; see `Model.detect`."""
    outputs = model.align(pyramid, text, least)
    anchors = model.anchors(outputs.sizes, device=outputs.logits.device)
    return [
        suppress(candidates_of_image(model, outputs, i, token_map, anchors, image_size, least), nms_iou)
        for i, (token_map, image_size) in enumerate(zip(token_maps, image_sizes, strict=True))
    ]


def candidates_of_image(
    model: Model,
    outputs: HeadOutputs,
    image: int,
    token_map: TokenMap,
    anchors: Tensor,
    image_size: tuple[int, int],
    least: float,
) -> ScoredBoxes:
    """The best pairs of anchor and class of one image of a batch.

    Args:
        model: Its cuts, aggregation and box code are used.
        outputs: Of the batch.
        image: Number of the image in the batch.
        token_map: The tokens of each class.
        anchors: A x 4, of the levels of the outputs.
        image_size: (height, width) without padding, in pixels of the network's input.
        least: Pairs whose final score is below it may be missing.
    """
    logits, boxes, centerness = outputs.logits[image], outputs.box_regression[image], outputs.centerness[image]
    sizes = outputs.sizes
    if least > 0 or model.score_cut > 0:
        rows, counts = within_reach(logits, centerness, sizes, model.score_cut, least)
        logits, boxes, centerness, anchors = (part[rows] for part in (logits, boxes, centerness, anchors))
        sizes = tuple((count, 1) for count in counts)
    return best_candidates(
        class_scores(logits, token_map, model.aggregation),
        boxes,
        centerness,
        anchors,
        sizes,
        image_size,
        score_cut=model.score_cut,
        coder=model.coder,
        least=least,
    )
