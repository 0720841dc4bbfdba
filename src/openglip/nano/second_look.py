"""The embedded model's second look: the best boxes of a phrase are read again, mended and scored anew.

A second stage as in Faster R-CNN (Ren et al., 2015): features are read at points in and around each box, so that its
borders are seen. The boxes of one phrase are then compared with each other (Relation Networks, Hu et al., 2018); other
phrases have no say.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CANDIDATES = 32  # boxes of a phrase that are looked at again
POINTS, REACH = 5, 1.25  # a grid of 5 x 5 points, of the way from a box's centre to its border
EDGES = (60.0, 133.0)  # side in pixels from which a coarser level is read
STEP = 0.2  # of a box's side, that an output of one moves it
OTHERS = 0.6  # of its way, that a box moves which isn't the best: all the way, many would find the same thing


def points_of(boxes: Tensor) -> Tensor:
    """boxes: ... x 4, xyxy in pixels. Returns ... x 25 x 2, x and y in pixels, rows before columns."""
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    way = torch.linspace(-REACH, REACH, POINTS, device=boxes.device)
    grid = torch.stack(torch.meshgrid(way, way, indexing="xy"), -1).flatten(0, 1)
    return centre[..., None, :] + half[..., None, :] * grid


def read_points(levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor) -> Tensor:
    """Features at the points of boxes, each read from the level that suits its size.

    levels: C x h x w each, fine to coarse, with their strides in pixels; boxes: N x 4, xyxy in pixels. Returns
    N x 25 x C float32; points outside of the padded image read its border.
    """
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1).prod(1).sqrt()
    own = torch.bucketize(side, side.new_tensor(EDGES), right=True)
    points = points_of(boxes)
    seen = points.new_zeros(len(boxes), points.shape[1], levels[0].shape[0])
    for i, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        rows = (own == i).nonzero()[:, 0]
        if len(rows):
            extent = points.new_tensor([level.shape[2], level.shape[1]]) * stride
            where = (points[rows] + 0.5) / extent * 2 - 1
            last = 1 - stride / extent  # the middle of the outermost cell; MPS knows no padding_mode="border"
            where = torch.minimum(torch.maximum(where, -last), last)
            read = F.grid_sample(level[None].float(), where[None], align_corners=False)
            seen[rows] = read[0].permute(1, 2, 0)
    return seen


class Compare(nn.Module):
    """The boxes of a phrase attend to each other, biased by how they lie; then a feed-forward layer. Pre-norm."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.three = nn.Linear(dim, 3 * dim)
        self.lie = nn.Linear(6, heads)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.feed = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, lie: Tensor, real: Tensor) -> Tensor:
        """x: N x K x D; lie: N x K x K x 6; real: N x K bool. Returns N x K x D."""
        n, count, dim = x.shape
        q, k, v = self.three(self.norm(x)).view(n, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.lie(lie).permute(0, 3, 1, 2).masked_fill(~real[:, None, None], -1e4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = x + self.out(seen.transpose(1, 2).reshape(n, count, dim))
        return x + self.feed(x)


class SecondLook(nn.Module):
    """dim: width of the image's and the words' features; width: of the inside."""

    def __init__(self, dim: int, width: int = 96, layers: int = 2, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.point = nn.Linear(dim, 16)
        self.shape = nn.Linear(POINTS**2 * 16, width)
        self.mean = nn.Linear(dim, width)
        self.fit = nn.Linear(POINTS**2, width)
        self.place = nn.Linear(12, width)
        self.words = nn.Linear(2 * dim, width)
        self.gate = nn.Linear(width, width)
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width))
        self.compare = nn.ModuleList(Compare(width, heads, dropout) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 5))
        self.trust = nn.Parameter(torch.tensor(1.0))
        nn.init.zeros_(self.out[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.out[-1].bias)  # type: ignore[arg-type]

    def forward(
        self, seen: Tensor, boxes: Tensor, scores: Tensor, words: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor]:
        """N phrases with K boxes each, best first.

        seen: N x K x 25 x 2 D, of `read_points`: keys and features; boxes: N x K x 4, xyxy in pixels; scores: N x K,
        0 on padding; words: N x 2 D, what the phrase says and what it asks of keys; size: N x 2, width and height of
        the picture in pixels. Returns boxes and logits as they are now.
        """
        keys, seen = seen.chunk(2, 3)
        fit = torch.einsum("nkpd,nd->nkp", keys, words.chunk(2, 1)[1]) / keys.shape[3] ** 0.5
        real, logits = scores > 0, scores.clamp(1e-4, 1 - 1e-4).logit()
        text = self.words(words)[:, None]
        x = self.shape(self.point(seen).flatten(2)) + self.mean(seen.mean(2)) + self.fit(fit)
        x = x + self.place(_places(boxes, logits, size))
        x = self.mix(x * (1 + self.gate(text)) + text)
        lie = _lie(boxes / size.repeat(1, 2)[:, None], logits)
        for block in self.compare:
            x = block(x, lie, real)
        out = self.out(x).float()
        side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1)
        centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + STEP * side * out[..., 1:3]
        half = side * (STEP * out[..., 3:]).clamp(-1, 1).exp() / 2
        return torch.cat([centre - half, centre + half], -1), self.trust * logits + out[..., 0]


def _places(boxes: Tensor, logits: Tensor, size: Tensor) -> Tensor:
    """Where a box lies in the picture, and how it was scored among the others: N x K x 12."""
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


def _lie(boxes: Tensor, logits: Tensor) -> Tensor:
    """How two boxes lie: overlap, share of the one in the other both ways, way between, the other's score.

    boxes: N x K x 4 from 0 to 1. Returns N x K x K x 6.
    """
    one, other = boxes[:, :, None], boxes[:, None]
    inner = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    inner, area = inner.prod(-1), (boxes[..., 2:] - boxes[..., :2]).clamp(min=0.01).prod(-1)
    a, b = area[:, :, None], area[:, None]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    way = centre[:, :, None] - centre[:, None]
    scores = (logits / 3)[:, None].expand_as(inner)
    return torch.stack([inner / (a + b - inner), inner / a, inner / b, way[..., 0], way[..., 1], scores], -1)
