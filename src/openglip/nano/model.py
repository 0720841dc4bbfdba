"""The embedded model: GLIP's design made small, around a frozen detector (YOLOX-Nano) and a frozen text encoder.

A photo passes through two encoders. YOLOX-Nano is kept exactly as released: its features, its 80 class scores and its
boxes are inputs. MobileNetV2 beside it is trained, and sees the photo smaller. A small pyramid and tower join them on a
grid of their own; their output is aligned with words as in GLIP. The detector's scores are carried to words by likeness
to its 80 names, and its boxes are the first guess of ours. Words look at the picture before they are compared (the text
side of deep fusion), each for itself, so that the score of a name does not depend on which other names are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.images.prepare import Preparation
from openglip.model.anchors import AnchorGrid, BoxCoder
from openglip.model.bert import FIRST, LAST, Bert
from openglip.model.contract import Model
from openglip.model.head import HeadOutputs, TextFeatures
from openglip.model.linear import conv2d, convolve
from openglip.model.mode import is_plain
from openglip.model.postprocess import (
    Aggregation,
    ScoredBoxes,
    TokenMap,
    best_candidates,
    class_scores,
    join_boxes,
    suppress,
)
from openglip.model.workers import Workers
from openglip.nano.mobilenet import MobileNetV2
from openglip.nano.second_look import CANDIDATES, OTHERS, SecondLook, read_points
from openglip.nano.yolox import CLASSES, Yolox, double
from openglip.prompts.tables import coco_thesaurus, read_table

SEPARATOR = 1012  # the word piece "."
PADDING = 0  # [PAD]
GREY = 114.0  # what YOLOX pads with
LEAST = 0.01  # detector scores far below this say nothing
TEXT_DIM = 384
PHRASE_CANDIDATES_PER_LEVEL = 100
INNER = 96  # units of a block
GRID = AnchorGrid((8, 16, 32), scale=8)  # of the detector
TOWER = AnchorGrid((10, 20, 40), scale=8)
PLACES = AnchorGrid((*TOWER.strides, *GRID.strides), scale=8)
CENTRAL = 0.7  # power of centerness: it counts a little less than its loss says
STAND_BACK = 3.0  # by which the tower's logits are lower for a word that is a name of the detector
SHARP, SURE = 30.0, 0.75  # a text more like a name of the detector, or another word for it, than SURE means that name


def other_words() -> list[tuple[str, int]]:
    """Each word of the thesaurus with the number of the name that it means."""
    return [(word, i) for i, name in enumerate(read_table("coco")) for word in coco_thesaurus().get(name, ())]


class WordTable(nn.Module):
    """Word vectors in eight bits, one scale a word: a quarter of the size on disk and in memory."""

    values: Tensor
    scale: Tensor

    def __init__(self, words: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(words, dim, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(words, 1))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.values).to(self.scale.dtype) * F.embedding(ids, self.scale)


class Mixer(nn.Module):
    """Residual block: depthwise 5 x 5, norm, pointwise to another width and back."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.depth = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, bias=False)
        self.norm = nn.BatchNorm2d(dim)
        self.widen = nn.Conv2d(dim, inner, 1)
        self.narrow = nn.Conv2d(inner, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.wide(x), self.narrow, plus=x)

    def wide(self, x: Tensor) -> Tensor:
        return convolve(convolve(x, self.depth, norm=self.norm), self.widen, "swish")

    def then(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """A pointwise convolution (C x D x 1 x 1) of the block's output, without computing that: for a small C."""
        narrow = (weight.flatten(1) @ self.narrow.weight.flatten(1))[..., None, None]
        bias = bias + weight.flatten(1) @ cast("Tensor", self.narrow.bias)
        place = ((1, 1), (0, 0))
        return conv2d(self.wide(x), narrow, bias, *place, plus=conv2d(x, weight, None, *place))


class Look(nn.Module):
    """Words attend to the places of a picture, each word for itself; then a feed-forward layer. Pre-norm."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.keys = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.feed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, words: Tensor, places: Tensor) -> Tensor:
        """words: B x L x D; places: B x N x D. Returns B x L x D."""
        b, length, dim = words.shape
        q = self.query(self.norm(words)).view(b, length, self.heads, -1).transpose(1, 2)
        k, v = self.keys(places).view(b, places.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, length, dim)
        words = words + self.out(seen)
        return words + self.feed(words)


class Nano(nn.Module, Model):
    """The embedded model. See the module's text; numbers are those of the shipped weights."""

    name = "nano"
    preparation = Preparation(
        short_side=320, max_side=800, mean=(GREY, GREY, GREY), std=(1.0, 1.0, 1.0), bgr=True, multiple=40
    )
    score_cut = 0.0
    default_threshold = 0.55
    aggregation: Aggregation = "mean"
    max_tokens = 256
    tokens_are_independent = True
    reads_phrases_alone = True  # better than whole captions here
    names: Tensor
    others: Tensor
    meant: Tensor
    calibration: Tensor
    own: Tensor

    def __init__(self, dim: int = 128, inner: int = INNER, looks: int = 2) -> None:
        super().__init__()
        self.anchors = PLACES
        self.coder = BoxCoder()
        self.bert = Bert(dim=TEXT_DIM, layers=6, heads=12, hidden=1536, positions=self.max_tokens, dropout=0.0)
        self.bert.embeddings.word_embeddings = WordTable(30522, TEXT_DIM)  # type: ignore[assignment]
        self.yolox = Yolox()
        self.mobilenet = MobileNetV2()
        seen = (64 + 128 + CLASSES + 32 + 2, 128 + 128 + CLASSES + 96 + 2, 256 + 128 + CLASSES + 320 + 2)
        self.join = nn.ModuleList(nn.Sequential(nn.Conv2d(c, dim, 1, bias=False), nn.BatchNorm2d(dim)) for c in seen)
        self.down = nn.ModuleList(Mixer(dim, inner) for _ in range(2))
        self.stride = nn.ModuleList(nn.Conv2d(dim, dim, 3, 2, 1, groups=dim) for _ in range(2))
        self.up = nn.ModuleList(Mixer(dim, inner) for _ in range(3))
        self.named = Mixer(dim, inner)
        self.placed = Mixer(dim, inner)
        self.keys = nn.Conv2d(dim, dim, 1)
        self.boxes = nn.Conv2d(dim, 4, 1)
        self.central = nn.Conv2d(dim, 1, 1)
        self.words = nn.Sequential(nn.Linear(2 * TEXT_DIM, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.looks = nn.ModuleList(Look(dim) for _ in range(looks))
        self.asks = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim + 1))
        self.second_look = SecondLook(dim)
        self.register_buffer("names", torch.zeros(CLASSES, TEXT_DIM))  # the 80 names' mean features, unit length
        meant = torch.tensor([i for _, i in other_words()])
        self.register_buffer("meant", meant, persistent=False)
        self.register_buffer("others", torch.zeros(len(meant), TEXT_DIM))  # of `other_words`, likewise
        self.likeness = nn.Parameter(torch.tensor([8.0, 12.0, -14.0]))  # slopes for token and segment, threshold
        self.trust = nn.Parameter(torch.tensor(1.0))
        self.prior = nn.Parameter(torch.tensor(-4.6))
        self.register_buffer("calibration", torch.tensor([1.0, 0.0]))  # scale and shift of the tower's logits
        self.register_buffer("own", torch.tensor([1.0, -0.3]))  # and of the detector's
        nn.init.normal_(self.boxes.weight, std=0.01)
        nn.init.zeros_(self.boxes.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.central.bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> HeadOutputs:
        """images: B x 3 x H x W, prepared; ids: B x L int64; mask: B x L bool."""
        return self.align(self.encode_image(images), self.encode_text(ids, mask))

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        """Encode each segment between full stops by itself, as if it were a text of its own.

        Returns what `read` makes of the tokens; full stops, [CLS] and [SEP] count as zeros.
        """
        rows, columns = segments(ids, mask)
        hidden = ids.new_zeros((*ids.shape, 2 * TEXT_DIM), dtype=self.names.dtype)
        if len(rows):
            length = max(len(c) for c in columns)
            texts = ids.new_full((len(rows), length + 2), PADDING)
            for i, (row, where) in enumerate(zip(rows, columns, strict=True)):
                texts[i, : len(where) + 2] = torch.cat(
                    [ids.new_tensor([FIRST]), ids[row, where], ids.new_tensor([LAST])]
                )
            real = texts != PADDING
            out = self.bert(texts, real)
            mean = (out * real[..., None]).sum(1) / real.sum(1, keepdim=True)
            for i, (row, where) in enumerate(zip(rows, columns, strict=True)):
                own = out[i, 1 : len(where) + 1]
                hidden[row, where] = torch.cat([own, mean[i].expand_as(own)], 1).to(hidden.dtype)
        return TextFeatures(self.read(hidden), mask)

    def read(self, hidden: Tensor) -> Tensor:
        """From features of token and segment (B x L x 768) to what `align` takes (B x L x (D + 160)):

        features, likeness to the detector's 80 names, and how surely the segment is one of them.
        """
        token, segment = (F.normalize(part, dim=-1) for part in hidden.split(TEXT_DIM, -1))
        slope_token, slope_segment, threshold = self.likeness
        near = segment @ self.names.T
        like = slope_token * (token @ self.names.T) + slope_segment * near + threshold
        meant = self.meant.expand(*near.shape[:-1], -1)
        nearest = near.scatter_reduce(-1, meant, segment @ self.others.T, "amax")
        same = (nearest * SHARP).softmax(-1) * ((nearest - SURE) * SHARP).sigmoid()
        return torch.cat([self.words(torch.cat([token, segment], -1) * TEXT_DIM**0.5), like.sigmoid(), same], -1)

    def encode_image(self, images: Tensor) -> list[Tensor]:
        """images: B x 3 x H x W, sides multiples of 40. Returns three levels of the tower, B x (2 D + 5 + 80) x h x w:
        keys, places, boxes, centerness, the detector's scores; then three of the detector, B x (4 + 80) x h x w: boxes
        and scores. Boxes are offsets from the anchors of `PLACES`.
        """
        height, width = images.shape[2:]
        if height % 40 or width % 40:
            raise ValueError(f"the sides of an image are multiples of 40 here, not {height} x {width}")
        # without antialiasing: photos stored small are blurred by their enlargement already
        small = F.interpolate(images, (height * 3 // 5, width * 3 // 5), mode="bicubic", align_corners=False)
        parts = ((self.known, photos(images)), (self.mobilenet, photos(small)))
        with Workers(images.device, at_most=1 if torch.is_grad_enabled() or is_plain() else 2) as lanes:
            known, seen = cast("Any", lanes.map(lambda part: part[0](part[1]), parts))
        sizes = [(height // stride, width // stride) for stride in TOWER.strides]
        seen = [resampled(x, size, 4 / 3) for x, size in zip(seen, sizes, strict=True)]
        on_tower = [
            ([resampled(x, size, 4 / 5) for x in features], resampled(scores, size, 4 / 5))
            for (features, scores, _), size in zip(known, sizes, strict=True)
        ]
        boxes = self.boxes_of([raw for _, _, raw in known])
        nearest = self.offsets([at_four_fifths(x, size) for x, size in zip(boxes, sizes, strict=True)], TOWER)
        own = zip(self.offsets(boxes, GRID), known, strict=True)
        return [
            *self.tower(on_tower, nearest, seen),
            *(torch.cat([guess, scores], 1) for guess, (_, scores, _) in own),
        ]

    def known(self, photo: Tensor) -> list[tuple[list[Tensor], Tensor, Tensor]]:
        """What the detector says of photos (B x 3 x H x W, 0..255), which never trains: see `Yolox`."""
        with torch.no_grad():
            return self.yolox(photo)

    def tower(
        self, known: Sequence[tuple[list[Tensor], Tensor]], guesses: Sequence[Tensor], seen: Sequence[Tensor]
    ) -> list[Tensor]:
        """Its three levels, see `encode_image`, from features and scores of the detector, its boxes as offsets, and
        MobileNetV2's maps, each on the tower's grid.
        """
        joins = cast("Iterable[tuple[nn.Conv2d, nn.BatchNorm2d]]", self.join)
        halves = cast("Sequence[nn.Conv2d]", self.stride)
        levels = [
            convolve(torch.cat([*features, scores.sqrt(), own, _coordinates(own)], 1), join, norm=norm)
            for (join, norm), (features, scores), own in zip(joins, known, seen, strict=True)
        ]
        middle = self.down[0](levels[1] + double(levels[2]))
        fine = self.up[0](self.down[1](levels[0] + double(middle)))
        middle = self.up[1](convolve(fine, halves[0], plus=middle))
        coarse = self.up[2](convolve(middle, halves[1], plus=levels[2]))
        pyramid = []
        ends = [torch.cat([getattr(conv, part) for conv in (self.boxes, self.central)]) for part in ("weight", "bias")]
        for level, guess, (_, scores) in zip((fine, middle, coarse), guesses, known, strict=True):
            boxes, central = self.placed.then(level, *ends).split([4, 1], 1)
            pyramid.append(
                torch.cat([convolve(self.named(level), self.keys), level, boxes + guess, central, scores], 1)
            )
        return pyramid

    def align(self, pyramid: Sequence[Tensor], text: TextFeatures, least: float = 0.0) -> HeadOutputs:
        """Compare places with words: those of the tower, then the detector's own, for words that are its names.

        least: where the detector's own final scores stay below it, they may come out lower still.
        """
        tower = self.compare(pyramid[:3], text)
        first = tower.logits.shape[1]
        guesses, scores = _places(pyramid[3:]).split([4, CLASSES], 2)
        same = text.hidden[..., -CLASSES:].transpose(1, 2)  # B x 80 x L: how surely a word is one of the names, <= 1
        scale, shift = self.own
        enough = ((scores.new_tensor(least**2 * 0.999).logit() - shift) / scale).sigmoid()  # 0 for 0: all places
        reach = (scores.amax(2) >= enough).any(0).nonzero()[:, 0]
        known = (scores[:, reach] @ same).clamp(1e-6, 1 - 1e-6)
        logits = tower.logits.new_empty((len(scores), first + scores.shape[1], same.shape[2]))
        logits[:, first:] = -20.0
        torch.addcmul(
            self.calibration[1] - STAND_BACK * same.amax(1, keepdim=True),
            tower.logits,
            self.calibration[0],
            out=logits[:, :first],
        )
        logits[:, first + reach] = known.logit() * scale + shift
        central = F.logsigmoid(tower.centerness) * CENTRAL
        return HeadOutputs(
            logits,
            torch.cat([tower.box_regression, guesses], 1),
            torch.cat(
                [central - torch.log(-torch.expm1(central)), tower.centerness.new_full(scores.shape[:2], 20.0)], 1
            ),
            tower.sizes + _sizes(pyramid[3:]),
        )

    def compare(self, levels: Sequence[Tensor], text: TextFeatures) -> HeadOutputs:
        """The tower's levels with words; its boxes are offsets from the anchors of `GRID` on the tower's image."""
        sizes = _sizes(levels)
        words, like, _ = text.hidden.split([text.hidden.shape[2] - 2 * CLASSES, CLASSES, CLASSES], -1)
        dim = words.shape[2]
        keys, seen, boxes, central, scores = _places(levels).split([dim, dim, 4, 1, CLASSES], 2)
        asked, bias = self._ask(words, seen[:, sizes[0][0] * sizes[0][1] :]).split([dim, 1], -1)
        logits = torch.baddbmm(bias.transpose(1, 2) + self.prior, keys, asked.transpose(1, 2) / dim**0.5)
        known = torch.bmm(scores, like.transpose(1, 2) / LEAST).clamp(max=1 / LEAST)
        logits = torch.addcmul(logits, self.trust, torch.log1p(known))
        return HeadOutputs(logits, boxes, central[..., 0], sizes)

    def _ask(self, words: Tensor, coarse: Tensor) -> Tensor:
        """What words (B x L x D) ask of keys, after a look at the coarse places (B x N x D): B x L x (D + 1)."""
        for look in self.looks:
            words = look(words, coarse)
        return self.asks(words)

    def phrases(self, pyramid: Sequence[Tensor], hidden: Tensor, token_map: Sequence[Sequence[int]]) -> Tensor:
        """What phrases say, and what they ask of one picture: N x 2 D, means over their tokens. See `look_again`."""
        words = hidden[None, :, : -2 * CLASSES].float()
        dim = words.shape[2]
        coarse = torch.cat([level[0, dim : 2 * dim].float().flatten(1).T for level in pyramid[1:3]])
        both = torch.cat([words, self._ask(words, coarse[None])[..., :dim]], 2)[0]
        return torch.stack([both[list(tokens)].mean(0) for tokens in token_map])

    def detect(
        self,
        pyramid: Sequence[Tensor],
        text: TextFeatures | None,
        token_maps: Sequence[TokenMap],
        image_sizes: Sequence[tuple[int, int]],
        thresholds: Sequence[Sequence[float]],
        *,
        least: float = 0.0,
        nms_iou: float = 0.6,
        phrases: bool = False,
    ) -> list[ScoredBoxes]:
        """See `Model.detect`. The boxes of phrases are read again by the second stage."""
        if not phrases or text is None:
            return super().detect(
                pyramid, text, token_maps, image_sizes, thresholds, least=least, nms_iou=nms_iou, phrases=phrases
            )
        outputs = self.align(pyramid, text)
        boxes = []
        for i, (token_map, size) in enumerate(zip(token_maps, image_sizes, strict=True)):
            candidates = self.phrase_candidates(outputs, i, token_map, size, thresholds[i], nms_iou)
            levels = [level[i : i + 1] for level in pyramid]
            refined = self.look_again(candidates, levels, text.hidden[i][text.mask[i]], token_map, size)
            boxes.append(suppress(refined, nms_iou))
        return boxes

    def phrase_candidates(
        self,
        outputs: HeadOutputs,
        image: int,
        token_map: TokenMap,
        image_size: tuple[int, int],
        thresholds: Sequence[float],
        nms_iou: float = 0.6,
    ) -> ScoredBoxes:
        """The boxes that the second stage reads again.

        Each phrase's boxes are chosen and suppressed by themselves, so that no phrase displaces another's.

        Args:
            outputs: Of a batch.
            image: Number of the image in the batch.
            token_map: The tokens of each phrase.
            image_size: (height, width) without padding, in pixels of the network's input.
            thresholds: Of each phrase; one whose best box does not exceed its threshold has no boxes.
            nms_iou: Overlap above which the lower of two boxes is suppressed.

        Returns:
            Boxes phrase by phrase, the best of each first.
        """
        anchors = self.anchors(outputs.sizes, device=outputs.logits.device)
        scores = class_scores(outputs.logits[image], token_map, self.aggregation)
        parts = [ScoredBoxes(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))]
        for phrase, threshold in enumerate(thresholds):
            candidates = best_candidates(
                scores[:, phrase : phrase + 1],
                outputs.box_regression[image],
                outputs.centerness[image],
                anchors,
                outputs.sizes,
                image_size,
                score_cut=self.score_cut,
                per_level=PHRASE_CANDIDATES_PER_LEVEL,
                coder=self.coder,
            )
            if len(candidates.scores) and candidates.scores.max() > threshold:
                remaining = suppress(candidates, nms_iou)
                parts.append(remaining._replace(labels=remaining.labels + phrase))
        return join_boxes(parts)

    def look_again(
        self,
        found: ScoredBoxes,
        pyramid: Sequence[Tensor],
        hidden: Tensor,
        token_map: Sequence[Sequence[int]],
        image_size: tuple[int, int],
    ) -> ScoredBoxes:
        """The best `CANDIDATES` boxes of each phrase, mended and scored anew; boxes of one thing may coincide then. The
        best score of a phrase is what it was.

        found: of one picture, best first; pyramid: of that picture, 1 x C x h x w; hidden: L x (D + 160), of `read`;
        token_map: tokens of each phrase; image_size: un-padded (height, width), in pixels.
        """
        words = self.phrases(pyramid, hidden, token_map)
        levels = [level[0, : words.shape[1]] for level in pyramid[:3]]
        size = words.new_tensor([image_size[::-1]])
        parts = []
        for phrase, own in enumerate(words[:, None]):
            rows = (found.labels == phrase).nonzero()[:CANDIDATES, 0]
            if not len(rows):
                continue
            boxes, scores = found.boxes[rows].to(size.device), found.scores[rows].to(size.device).float()
            seen = read_points(levels, PLACES.strides[:3], boxes)[None]
            mended, logits = self.second_look(seen, boxes[None], scores[None], own, size)
            way = torch.full_like(scores, OTHERS).index_fill(0, logits[0].argmax(), 1.0)
            boxes = boxes.lerp(mended[0], way[:, None])
            boxes = torch.minimum(boxes.clamp(min=0), size.repeat(1, 2) - 1)
            # only the first stage has learned what is absent: the best score stays its best
            scores = (logits[0] - logits.max() + scores[:1].clamp(1e-7, 1 - 1e-7).logit()).sigmoid()
            order = scores.argsort(descending=True)
            parts.append(ScoredBoxes(boxes[order].cpu(), scores[order].cpu(), found.labels[rows]))
        return join_boxes(parts) if parts else found

    def boxes_of(self, raw: Sequence[Tensor]) -> list[Tensor]:
        """The detector's boxes, B x 4 x h x w per level: xyxy in pixels of its image."""
        boxes = []
        for level, stride in zip(raw, GRID.strides, strict=True):
            y, x = (torch.arange(n, device=level.device, dtype=level.dtype) for n in level.shape[2:])
            corner = torch.stack(torch.meshgrid(x, y, indexing="xy"))
            centre = (corner + level[:, :2]) * stride
            half = level[:, 2:].clamp(-6, 6).exp() * stride / 2
            boxes.append(torch.cat([centre - half, centre + half], 1))
        return boxes

    def offsets(self, boxes: Sequence[Tensor], grid: AnchorGrid) -> list[Tensor]:
        """Boxes B x 4 x h x w per level as offsets from the grid's anchors."""
        sizes = _sizes(boxes)
        anchors = grid(sizes, boxes[0].device, boxes[0].dtype).split([h * w for h, w in sizes])
        offsets = []
        for level, own in zip(boxes, anchors, strict=True):
            rows = self.coder.encode(level.flatten(2).transpose(1, 2), own)
            offsets.append(rows.transpose(1, 2).reshape(level.shape))
        return offsets


def resampled(x: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """The first `size` cells of map x, B x C x h x w, on a grid of `scale` as many a side: bilinear."""
    # torch copies a side that has as many cells already, whatever the scale: one more cell, which is read by none
    more = [int(n == wanted) for n, wanted in zip(x.shape[2:], size, strict=True)]
    if any(more):
        x = F.pad(x, (0, more[1], 0, more[0]))
    return torch.ops.aten.upsample_bilinear2d(x, list(size), False, scale, scale)


def at_four_fifths(x: Tensor, size: tuple[int, int]) -> Tensor:
    """As `resampled` with 4 / 5, but each cell reads the one at its middle."""
    rows, columns = ((torch.arange(n, device=x.device) * 2 + 1) * 5 // 8 for n in size)
    return x.index_select(2, rows).index_select(3, columns)


def _places(levels: Sequence[Tensor]) -> Tensor:
    """Levels B x C x h x w as B x A x C."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], 1)


def photos(images: Tensor) -> Tensor:
    """Prepared images as 0..255, channels last in memory, with more grey up to multiples of 32."""
    images = F.pad(images, (0, -images.shape[3] % 32, 0, -images.shape[2] % 32))
    return torch.add(images, GREY, out=torch.empty_like(images, memory_format=torch.channels_last))


def _sizes(levels: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((int(level.shape[2]), int(level.shape[3])) for level in levels)


def _coordinates(like: Tensor) -> Tensor:
    """B x 2 x h x w: x and y from -1 to 1."""
    b, _, h, w = like.shape
    y = torch.linspace(-1, 1, h, device=like.device, dtype=like.dtype)
    x = torch.linspace(-1, 1, w, device=like.device, dtype=like.dtype)
    both = torch.stack(torch.meshgrid(x, y, indexing="xy"))[None].expand(b, -1, -1, -1)
    return both.contiguous(memory_format=torch.channels_last)


def segments(ids: Tensor, mask: Tensor) -> tuple[list[int], list[Tensor]]:
    """Runs of tokens between full stops: the row of each, and its columns."""
    word = mask & (ids != SEPARATOR) & (ids != FIRST) & (ids != LAST) & (ids != PADDING)
    rows: list[int] = []
    columns: list[Tensor] = []
    for row, flags in enumerate(word):
        where = flags.nonzero()[:, 0]
        if len(where):
            runs = torch.tensor_split(where, ((where.diff() > 1).nonzero()[:, 0] + 1).cpu())
            rows += [row] * len(runs)
            columns += runs
    return rows, columns
