"""From raw outputs to boxes: class scores, the best candidates, suppression, the final cut. Source: GLIP_SPEC 6.3."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from openglip.model.anchors import BoxCoder
from openglip.runtime import torchvision_nms

Aggregation = Literal["mean", "max", "power"]
_nms = cache(torchvision_nms)


class Found(NamedTuple):
    """Boxes N x 4 (xyxy, pixels of the network's input), scores N, labels N (row of the token map)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def class_scores(logits: Tensor, token_map: Sequence[Sequence[int]], aggregation: Aggregation = "mean") -> Tensor:
    """Probability of every class at every anchor: logits A x L -> A x K.

    token_map: per class its token positions; a class without any scores 0. aggregation over a class's tokens: "mean"
    of the word pieces' probabilities, "max", or "power", the geometric mean.
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
    """Rows of the places (logits A x L, centerness A) at which a class may have a probability above `score_cut` and a
    final score of `least`, and how many there are on each level: no aggregation gives a class more than its best token.
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
) -> Found:
    """The best (anchor, class) pairs of one image, decoded and clipped to the un-padded image.

    scores: A x K class probabilities; a pair at or below score_cut is no candidate. Of the rest each level keeps the
    per_level best by probability x centerness; the final score is the square root of that product. least: pairs below
    this final score may be left out, as they have no say in the others (a lower score never suppresses a higher).
    """
    coder = coder or BoxCoder()
    kept, start = [], 0
    weighted = scores * centerness.float().sigmoid()[:, None]
    for h, w in sizes:
        level = slice(start, start + h * w)
        wanted = scores[level] > score_cut
        if least > 0:
            wanted &= weighted[level] > least**2 * (1 - 1e-5)  # with room for the rounding of the root
        flat = wanted.flatten().nonzero()[:, 0]
        if len(flat) > per_level:
            flat = flat[weighted[level].flatten()[flat].topk(per_level, sorted=False).indices]
        kept.append(flat + start * scores.shape[1])
        start += h * w
    pairs = torch.cat(kept)
    rows = pairs // scores.shape[1]
    boxes = coder.decode(box_regression[rows].float(), anchors[rows])
    height, width = image_size
    boxes = torch.stack([boxes[:, i].clamp(0, limit - 1) for i, limit in enumerate((width, height, width, height))], 1)
    return Found(boxes, weighted.flatten()[pairs].sqrt(), pairs % scores.shape[1])


def suppress(found: Found, iou: float = 0.6, *, class_agnostic: bool = False, plus_one: bool = True) -> Found:
    """Non-maximum suppression inside each class (or over all), strictly above `iou`; the result has falling scores.

    plus_one: widths are x2 - x1 + 1, as the released models were tuned with. Runs on the CPU in float64, where an
    overlap of exactly `iou` survives as it does in the official kernel.
    """
    boxes = found.boxes.cpu().double()
    boxes[:, 2:] += float(plus_one)
    if not class_agnostic and len(boxes):
        # classes are moved apart, so that one call serves them all
        boxes += (found.labels.cpu() * (boxes.max() + 2))[:, None]
    keep = _nms()(boxes, found.scores.cpu().double(), iou)
    return Found(*(x.cpu()[keep] for x in found))


def best_with_ties(found: Found, count: int) -> Found:
    """The `count` highest scores, and all that equal the last of them."""
    if len(found.scores) <= count:
        return found
    keep = found.scores >= found.scores.topk(count).values[-1]
    return Found(*(x[keep] for x in found))
