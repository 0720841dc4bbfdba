"""The embedded model's second stage: it refines and rescores the best boxes of a phrase.

A second stage as in Faster R-CNN (Ren et al., 2015): features are sampled at points in and around each box, so that it
can see the borders. The boxes of one phrase are then compared with each other (Relation Networks, Hu et al., 2018);
phrases do not influence each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.model.contract import Model
from openglip.model.head import HeadOutputs
from openglip.model.postprocess import ScoredBoxes, TokenMap, best_candidates, class_scores, join_boxes, suppress

CANDIDATES = 32  # boxes of a phrase that are refined
CANDIDATES_PER_LEVEL = 100  # boxes of a phrase that are chosen on each level, before suppression
GRID_POINTS = 5  # sample points a side: a grid of 5 x 5
GRID_REACH = 1.25  # outermost sample point, as a multiple of the distance from a box's centre to its border
LEVEL_SIDES = (60.0, 133.0)  # box sides in pixels from which the next coarser level is sampled
OFFSET_SCALE = 0.2  # share of a box's side by which an output of 1 moves it
# Fraction of the predicted offset applied to every box but the best. At 1.0 several boxes collapse on to one object.
OTHER_BOXES_STEP = 0.6


def phrase_candidates(
    model: Model,
    outputs: HeadOutputs,
    image: int,
    token_map: TokenMap,
    image_size: tuple[int, int],
    thresholds: Sequence[float],
    nms_iou: float = 0.6,
) -> ScoredBoxes:
    """The boxes that the second stage refines.

    Each phrase's boxes are chosen and suppressed by themselves, so that no phrase displaces another's.

    Args:
        model: Its anchors, box code and score cut are used.
        outputs: Of a batch.
        image: Number of the image in the batch.
        token_map: The tokens of each phrase.
        image_size: (height, width) without padding, in pixels of the network's input.
        thresholds: Of each phrase; one whose best box does not exceed its threshold has no boxes.
        nms_iou: Overlap above which the lower of two boxes is suppressed.

    Returns:
        Boxes phrase by phrase, the best of each first.
    """
    anchors = model.anchors(outputs.sizes, device=outputs.logits.device)
    scores = class_scores(outputs.logits[image], token_map, model.aggregation)
    parts = [ScoredBoxes(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))]
    for phrase, threshold in enumerate(thresholds):
        candidates = best_candidates(
            scores[:, phrase : phrase + 1],
            outputs.box_regression[image],
            outputs.centerness[image],
            anchors,
            outputs.sizes,
            image_size,
            score_cut=model.score_cut,
            per_level=CANDIDATES_PER_LEVEL,
            coder=model.coder,
        )
        if len(candidates.scores) and candidates.scores.max() > threshold:
            remaining = suppress(candidates, nms_iou)
            parts.append(remaining._replace(labels=remaining.labels + phrase))
    return join_boxes(parts)


def sample_points(boxes: Tensor) -> Tensor:
    """The points at which features of a box are sampled.

    Args:
        boxes: ... x 4, xyxy in pixels.

    Returns:
        ... x 25 x 2, x and y in pixels, rows before columns.
    """
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    steps = torch.linspace(-GRID_REACH, GRID_REACH, GRID_POINTS, device=boxes.device)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
    return centre[..., None, :] + half[..., None, :] * grid


def sample_features(levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor) -> Tensor:
    """Features at the sample points of boxes, each from the level that suits the box's size.

    Args:
        levels: C x h x w each, fine to coarse, of one image.
        strides: Of the levels, in pixels.
        boxes: N x 4, xyxy in pixels.

    Returns:
        N x 25 x C float32. Points outside the padded image take the value at its border.
    """
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).prod(1).sqrt()
    level_of_box = torch.bucketize(side, side.new_tensor(LEVEL_SIDES), right=True)
    points = sample_points(boxes)
    features = points.new_zeros(len(boxes), points.shape[1], levels[0].shape[0])
    for i, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        rows = (level_of_box == i).nonzero()[:, 0]
        if len(rows):
            extent = points.new_tensor([level.shape[2], level.shape[1]]) * stride
            relative = (points[rows] + 0.5) / extent * 2 - 1
            last = 1 - stride / extent  # centre of the outermost cell; MPS lacks padding_mode="border"
            relative = torch.minimum(torch.maximum(relative, -last), last)
            sampled = F.grid_sample(level[None].float(), relative[None], align_corners=False)
            features[rows] = sampled[0].permute(1, 2, 0)
    return features


class RelationBlock(nn.Module):
    """The boxes of a phrase attend to each other, biased by their relative geometry; then a feed-forward layer.

    Pre-norm. Source: Relation Networks (Hu et al., 2018).
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.geometry = nn.Linear(6, heads)
        self.output = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, pairs: Tensor, real: Tensor) -> Tensor:
        """x: N x K x D; pairs: N x K x K x 6, of `pair_features`; real: N x K bool. Returns N x K x D."""
        n, count, dim = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.geometry(pairs).permute(0, 3, 1, 2).masked_fill(~real[:, None, None], -1e4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = x + self.output(attended.transpose(1, 2).reshape(n, count, dim))
        return x + self.feed_forward(x)


class SecondStage(nn.Module):
    """Refines and rescores the boxes of phrases.

    Args:
        dim: Channels of the image features and of the word features.
        width: Channels inside the stage.
        layers: Relation blocks.
        heads: Attention heads of a relation block.
        dropout: Probability, in training.
    """

    def __init__(self, dim: int, width: int = 96, layers: int = 2, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.point_projection = nn.Linear(dim, 16)
        self.grid_projection = nn.Linear(GRID_POINTS**2 * 16, width)
        self.mean_projection = nn.Linear(dim, width)
        self.alignment_projection = nn.Linear(GRID_POINTS**2, width)
        self.geometry_projection = nn.Linear(12, width)
        self.text_projection = nn.Linear(2 * dim, width)
        self.text_gate = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.relations = nn.ModuleList(RelationBlock(width, heads, dropout) for _ in range(layers))
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 5))
        self.first_stage_weight = nn.Parameter(torch.tensor(1.0))
        nn.init.zeros_(self.output[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.output[-1].bias)  # type: ignore[arg-type]

    def forward(
        self, features: Tensor, boxes: Tensor, scores: Tensor, words: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Refine the K candidates of each of N phrases, best first.

        Args:
            features: N x K x 25 x 2 D, alignment keys and image features of `sample_features`.
            boxes: N x K x 4, xyxy in pixels of the network's input.
            scores: N x K, 0 on padding.
            words: N x 2 D, features of the phrase and its query, of `Nano.phrase_features`.
            size: N x 2, width and height of the image in pixels.

        Returns:
            Refined boxes N x K x 4 in the same frame, and logits N x K.
        """
        keys, features = features.chunk(2, 3)
        alignment = torch.einsum("nkpd,nd->nkp", keys, words.chunk(2, 1)[1]) / keys.shape[3] ** 0.5
        real, logits = scores > 0, scores.clamp(1e-4, 1 - 1e-4).logit()
        text = self.text_projection(words)[:, None]
        x = self.grid_projection(self.point_projection(features).flatten(2)) + self.mean_projection(features.mean(2))
        x = x + self.alignment_projection(alignment)
        x = x + self.geometry_projection(box_features(boxes, logits, size))
        x = self.mlp(x * (1 + self.text_gate(text)) + text)
        pairs = pair_features(boxes / size.repeat(1, 2)[:, None], logits)
        for block in self.relations:
            x = block(x, pairs, real)
        output = self.output(x).float()
        side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1)
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + OFFSET_SCALE * side * output[..., 1:3]
        half = side * (OFFSET_SCALE * output[..., 3:]).clamp(-1, 1).exp() / 2
        return torch.cat([centre - half, centre + half], -1), self.first_stage_weight * logits + output[..., 0]

    def refine(
        self,
        levels: Sequence[Tensor],
        strides: Sequence[int],
        boxes: Tensor,
        scores: Tensor,
        words: Tensor,
        size: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Refine the boxes of one phrase in one image; they may coincide then.

        Args:
            levels: Keys and features, 2 D x h x w each, fine to coarse.
            strides: Of the levels, in pixels.
            boxes: K x 4, xyxy in pixels of the network's input, best first.
            scores: K.
            words: 1 x 2 D, of `Nano.phrase_features`.
            size: 1 x 2, width and height of the image in pixels.

        Returns:
            Boxes and scores, best first. The best score is what it was.
        """
        features = sample_features(levels, strides, boxes)[None]
        targets, logits = self(features, boxes[None], scores[None], words, size)
        step = torch.full_like(scores, OTHER_BOXES_STEP).index_fill(0, logits[0].argmax(), 1.0)
        boxes = boxes.lerp(targets[0], step[:, None])
        boxes = torch.minimum(boxes.clamp(min=0), size.repeat(1, 2) - 1)
        # only the first stage has learned to reject absent phrases: its best score stays the best
        scores = (logits[0] - logits.max() + scores[:1].clamp(1e-7, 1 - 1e-7).logit()).sigmoid()
        order = scores.argsort(descending=True)
        return boxes[order], scores[order]


def box_features(boxes: Tensor, logits: Tensor, size: Tensor) -> Tensor:
    """Position, size and shape of each box, its logit absolutely and against the best, its rank.

    Args:
        boxes: N x K x 4, xyxy in pixels.
        logits: N x K.
        size: N x 2, width and height of the image in pixels.

    Returns:
        N x K x 12.
    """
    size = size[:, None]
    centre, side = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=1)
    rank = torch.arange(boxes.shape[1], device=boxes.device).expand(logits.shape) / CANDIDATES
    return torch.cat(
        [
            *(centre / size * 2 - 1, side / size, (side / size).log(), (side[..., :1] / side[..., 1:]).log()),
            *((logits / 3)[..., None], ((logits - logits[:, :1]) / 2)[..., None], rank[..., None]),
            *(boxes[..., :1] / size[..., :1], boxes[..., 3:] / size[..., 1:]),
        ],
        -1,
    )


def pair_features(boxes: Tensor, logits: Tensor) -> Tensor:
    """Pairwise features: IoU, intersection over each box's area, centre offset (dx, dy), logit of the other box.

    Args:
        boxes: N x K x 4, xyxy from 0 to 1.
        logits: N x K.

    Returns:
        N x K x K x 6.
    """
    one, other = boxes[:, :, None], boxes[:, None]
    overlap = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    overlap, area = overlap.prod(-1), (boxes[..., 2:] - boxes[..., :2]).clamp(min=0.01).prod(-1)
    a, b = area[:, :, None], area[:, None]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    offset = centre[:, :, None] - centre[:, None]
    scores = (logits / 3)[:, None].expand_as(overlap)
    return torch.stack(
        [overlap / (a + b - overlap), overlap / a, overlap / b, offset[..., 0], offset[..., 1], scores], -1
    )
