"""The embedded model: GLIP's design made small, around a frozen detector (YOLOX-Nano) and a frozen text encoder.

An image passes through two encoders. YOLOX-Nano is used as released: its features, its 80 class scores and its boxes
are inputs of the rest. MobileNetV2 is trained, and sees the image at three fifths of its size. A small pyramid and
tower join both on a grid of their own; their output is aligned with words as in GLIP. The detector's scores carry over
to words that resemble one of its 80 class names, and its boxes are the initial guess of the tower's. Before words are
compared with the image they attend to it (the text side of deep fusion), each independently, so that the score of a
name does not depend on the other names of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.images.prepare import Preparation
from openglip.model.anchors import AnchorGrid, BoxCoder
from openglip.model.contract import Model
from openglip.model.head import HeadOutputs, TextFeatures
from openglip.model.linear import convolve
from openglip.model.mode import is_plain
from openglip.model.postprocess import Aggregation, ScoredBoxes, TokenMap, join_boxes, suppress
from openglip.model.workers import Workers
from openglip.nano import geometry
from openglip.nano.geometry import DETECTOR_GRID, GREY, GRID, TOWER_GRID, flatten_levels, level_sizes
from openglip.nano.layers import ConvBlock, TextToImageAttention, without_autocast
from openglip.nano.mobilenet import MobileNetV2
from openglip.nano.second_stage import CANDIDATES, SecondStage, phrase_candidates
from openglip.nano.text import TEXT_DIM, class_synonyms, encode_segments, text_encoder, word_mask
from openglip.nano.yolox import CLASSES, Yolox, upsample

BLOCK_WIDTH = 96
MIN_DETECTOR_SCORE = 0.01  # scores far below it carry no information
CENTERNESS_POWER = 0.7  # below 1: centerness weighs a little less in the final score than its loss suggests
CLASS_PENALTY = 3.0  # subtracted from the tower's logits of a word that means one of the detector's classes
# A text whose cosine similarity to a COCO name (or synonym) exceeds 0.75 is treated as that class; 30 is the softmax's
# inverse temperature.
CLASS_SIMILARITY, CLASS_SHARPNESS = 0.75, 30.0


class Nano(nn.Module, Model):
    """The embedded model; see the module's text. The default sizes are those of the embedded weights.

    Args:
        dim: Channels of the tower and of the word features.
        width: Inner channels of the tower's blocks.
        attention_layers: Layers in which words attend to the image.
    """

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
    class_embeddings: Tensor
    synonym_embeddings: Tensor
    synonym_classes: Tensor
    tower_calibration: Tensor
    detector_calibration: Tensor

    def __init__(self, dim: int = 128, width: int = BLOCK_WIDTH, attention_layers: int = 2) -> None:
        super().__init__()
        self.coder = BoxCoder()
        self.bert = text_encoder(self.max_tokens)
        self.yolox = Yolox()
        self.mobilenet = MobileNetV2()
        # features of YOLOX (neck, class branch, box branch), its class scores, MobileNetV2's features, x and y
        channels = (64 + 128 + CLASSES + 32 + 2, 128 + 128 + CLASSES + 96 + 2, 256 + 128 + CLASSES + 320 + 2)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, dim, 1, bias=False), nn.BatchNorm2d(dim)) for c in channels
        )
        self.top_down = nn.ModuleList(ConvBlock(dim, width) for _ in range(2))
        self.downsample = nn.ModuleList(nn.Conv2d(dim, dim, 3, 2, 1, groups=dim) for _ in range(2))
        self.bottom_up = nn.ModuleList(ConvBlock(dim, width) for _ in range(3))
        self.alignment_branch = ConvBlock(dim, width)
        self.box_branch = ConvBlock(dim, width)
        self.keys = nn.Conv2d(dim, dim, 1)
        self.box_regression = nn.Conv2d(dim, 4, 1)
        self.centerness = nn.Conv2d(dim, 1, 1)
        self.text_projection = nn.Sequential(nn.Linear(2 * TEXT_DIM, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.text_attention = nn.ModuleList(TextToImageAttention(dim) for _ in range(attention_layers))
        self.query_projection = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim + 1))
        self.second_stage = SecondStage(dim)
        # unit-length mean features of the 80 class names, and of `class_synonyms`
        self.register_buffer("class_embeddings", torch.zeros(CLASSES, TEXT_DIM))
        synonym_classes = torch.tensor([i for _, i in class_synonyms()])
        self.register_buffer("synonym_classes", synonym_classes, persistent=False)
        self.register_buffer("synonym_embeddings", torch.zeros(len(synonym_classes), TEXT_DIM))
        # logistic model of "this word resembles that class": slopes for token and segment similarity, intercept
        self.class_similarity = nn.Parameter(torch.tensor([8.0, 12.0, -14.0]))
        self.detector_weight = nn.Parameter(torch.tensor(1.0))
        self.prior_logit = nn.Parameter(torch.tensor(-4.6))
        self.register_buffer("tower_calibration", torch.tensor([1.0, 0.0]))  # scale and shift of the tower's logits
        self.register_buffer("detector_calibration", torch.tensor([1.0, -0.3]))  # and of the detector's
        nn.init.normal_(self.box_regression.weight, std=0.01)
        nn.init.zeros_(self.box_regression.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.centerness.bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU
        for frozen in (self.bert, self.yolox, self.second_stage):
            frozen.requires_grad_(False)

    @property
    def anchors(self) -> AnchorGrid:  # type: ignore[override]
        """The anchors of the outputs: those of the tower alone while the model trains."""
        return TOWER_GRID if self.training else GRID

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> HeadOutputs:
        """The outputs of `align`; while the model trains those of the tower alone, which is all that learns.

        Args:
            images: B x 3 x H x W, prepared.
            ids: B x L int64, token ids.
            mask: B x L bool, False on padding.
        """
        if not self.training:
            return self.align(self.encode_image(images), self.encode_text(ids, mask))
        levels = self.encode_image(images)[:3]
        with without_autocast(images.device):  # words and their comparison need float32
            text = self.encode_text(ids, mask)
            outputs = self.align_tower([level.float() for level in levels], text)
        # full stops, [CLS] and [SEP] have neither loss nor gradient
        logits = outputs.logits.masked_fill(~word_mask(ids, mask)[:, None], -1e4)
        return outputs._replace(logits=logits)

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        """Encode each segment between full stops as if it were a text of its own.

        Args:
            ids: B x L int64, token ids.
            mask: B x L bool, False on padding.

        Returns:
            The features of `project_text`; full stops, [CLS] and [SEP] are encoded as zeros.
        """
        return TextFeatures(self.project_text(encode_segments(self.bert, ids, mask)), mask)

    def project_text(self, hidden: Tensor) -> Tensor:
        """From features of the text encoder to those that `align` compares with the image.

        Args:
            hidden: B x L x 768, features of each token and the mean feature of its segment.

        Returns:
            B x L x (D + 160): word features, similarity to each of the detector's 80 classes, and the probability that
            the segment means that class.
        """
        token, segment = (F.normalize(half, dim=-1) for half in hidden.split(TEXT_DIM, -1))
        token_slope, segment_slope, intercept = self.class_similarity
        cosine = segment @ self.class_embeddings.T
        similarity = token_slope * (token @ self.class_embeddings.T) + segment_slope * cosine + intercept
        synonym_classes = self.synonym_classes.expand(*cosine.shape[:-1], -1)
        nearest = cosine.scatter_reduce(-1, synonym_classes, segment @ self.synonym_embeddings.T, "amax")
        is_class = (nearest * CLASS_SHARPNESS).softmax(-1) * ((nearest - CLASS_SIMILARITY) * CLASS_SHARPNESS).sigmoid()
        words = self.text_projection(torch.cat([token, segment], -1) * TEXT_DIM**0.5)
        return torch.cat([words, similarity.sigmoid(), is_class], -1)

    def encode_image(self, images: Tensor) -> list[Tensor]:
        """Encode prepared images.

        Args:
            images: B x 3 x H x W, sides multiples of 40.

        Returns:
            Three levels of the tower, B x (2 D + 5 + 80) x h x w: alignment keys, features, boxes, centerness, the
            detector's scores; then three of the detector, B x (4 + 80) x h x w: boxes and scores. Boxes are offsets
            from the anchors of `GRID`.

        Raises:
            ValueError: A side is not a multiple of 40.
        """
        height, width = images.shape[2:]
        if height % 40 or width % 40:
            raise ValueError(f"the sides of an image are multiples of 40 here, not {height} x {width}")
        # without antialiasing: images stored small are blurred by their enlargement already
        small = F.interpolate(images, (height * 3 // 5, width * 3 // 5), mode="bicubic", align_corners=False)
        encoders = ((self.run_detector, geometry.unprepare(images)), (self.mobilenet, geometry.unprepare(small)))
        with Workers(images.device, at_most=1 if torch.is_grad_enabled() or is_plain() else 2) as workers:
            detected, maps = cast("Any", workers.map(lambda job: job[0](job[1]), encoders))
        sizes = [(height // stride, width // stride) for stride in TOWER_GRID.strides]
        maps = [geometry.resample(x, size, 4 / 3) for x, size in zip(maps, sizes, strict=True)]
        detected_on_tower = [
            ([geometry.resample(x, size, 4 / 5) for x in features], geometry.resample(scores, size, 4 / 5))
            for (features, scores, _), size in zip(detected, sizes, strict=True)
        ]
        boxes = geometry.decode_detector_boxes([raw for _, _, raw in detected])
        nearest = [geometry.resample_nearest(x, size) for x, size in zip(boxes, sizes, strict=True)]
        return [
            *self.tower(detected_on_tower, geometry.encode_boxes(nearest, TOWER_GRID, self.coder), maps),
            *(
                torch.cat([offsets, scores], 1)
                for offsets, (_, scores, _) in zip(
                    geometry.encode_boxes(boxes, DETECTOR_GRID, self.coder), detected, strict=True
                )
            ),
        ]

    def run_detector(self, images: Tensor) -> list[tuple[list[Tensor], Tensor, Tensor]]:
        """Outputs of `Yolox`, which never trains, for images B x 3 x H x W from 0 to 255."""
        with torch.no_grad():
            return self.yolox(images)

    def tower(
        self, detected: Sequence[tuple[list[Tensor], Tensor]], offsets: Sequence[Tensor], maps: Sequence[Tensor]
    ) -> list[Tensor]:
        """The tower's three levels, as `encode_image` returns them. All inputs are on the tower's grid.

        Args:
            detected: For each level features and class scores of the detector.
            offsets: The detector's boxes as offsets from the anchors of `TOWER_GRID`, B x 4 x h x w each.
            maps: Features of MobileNetV2.
        """
        laterals = cast("Iterable[tuple[nn.Conv2d, nn.BatchNorm2d]]", self.lateral)
        downsample = cast("Sequence[nn.Conv2d]", self.downsample)
        levels = [
            convolve(torch.cat([*features, scores.sqrt(), x, geometry.coordinates(x)], 1), conv, norm=norm)
            for (conv, norm), (features, scores), x in zip(laterals, detected, maps, strict=True)
        ]
        middle = self.top_down[0](levels[1] + upsample(levels[2]))
        fine = self.bottom_up[0](self.top_down[1](levels[0] + upsample(middle)))
        middle = self.bottom_up[1](convolve(fine, downsample[0], plus=middle))
        coarse = self.bottom_up[2](convolve(middle, downsample[1], plus=levels[2]))
        pyramid = []
        weight, bias = (
            torch.cat([getattr(conv, name) for conv in (self.box_regression, self.centerness)])
            for name in ("weight", "bias")
        )
        for level, initial, (_, scores) in zip((fine, middle, coarse), offsets, detected, strict=True):
            boxes, centerness = self.box_branch.forward_projected(level, weight, bias).split([4, 1], 1)
            keys = convolve(self.alignment_branch(level), self.keys)
            pyramid.append(torch.cat([keys, level, boxes + initial, centerness, scores], 1))
        return pyramid

    def align(self, pyramid: Sequence[Tensor], text: TextFeatures | None, least: float = 0.0) -> HeadOutputs:
        """Compare encoded images with words: the tower's cells, then the detector's, for words that mean its classes.

        Args:
            pyramid: The levels of `encode_image`.
            text: Of `encode_text`, one prompt per image.
            least: Scores of the detector's cells below this may be underestimated; the caller will discard them.
        """
        assert text is not None
        tower = self.align_tower(pyramid[:3], text)
        cells = tower.logits.shape[1]
        offsets, scores = flatten_levels(pyramid[3:]).split([4, CLASSES], 2)
        is_class = text.hidden[..., -CLASSES:].transpose(1, 2)  # B x 80 x L, at most 1
        scale, shift = self.detector_calibration
        min_score = ((scores.new_tensor(least**2 * 0.999).logit() - shift) / scale).sigmoid()  # 0 for 0: all cells
        rows = (scores.amax(2) >= min_score).any(0).nonzero()[:, 0]
        word_scores = (scores[:, rows] @ is_class).clamp(1e-6, 1 - 1e-6)
        logits = tower.logits.new_empty((len(scores), cells + scores.shape[1], is_class.shape[2]))
        logits[:, cells:] = -20.0
        shift_of_tower = self.tower_calibration[1] - CLASS_PENALTY * is_class.amax(1, keepdim=True)
        if torch.is_grad_enabled():
            logits[:, :cells] = torch.addcmul(shift_of_tower, tower.logits, self.tower_calibration[0])
        else:
            torch.addcmul(shift_of_tower, tower.logits, self.tower_calibration[0], out=logits[:, :cells])
        logits[:, cells + rows] = word_scores.logit() * scale + shift
        log_centerness = F.logsigmoid(tower.centerness) * CENTERNESS_POWER
        centerness = log_centerness - torch.log(-torch.expm1(log_centerness))  # its logit
        return HeadOutputs(
            logits,
            torch.cat([tower.box_regression, offsets], 1),
            torch.cat([centerness, tower.centerness.new_full(scores.shape[:2], 20.0)], 1),
            tower.sizes + level_sizes(pyramid[3:]),
        )

    def align_tower(self, levels: Sequence[Tensor], text: TextFeatures) -> HeadOutputs:
        """Compare the tower's levels with words; boxes are offsets from the anchors of `TOWER_GRID`."""
        sizes = level_sizes(levels)
        words, similarity, _ = text.hidden.split([text.hidden.shape[2] - 2 * CLASSES, CLASSES, CLASSES], -1)
        dim = words.shape[2]
        keys, features, boxes, centerness, scores = flatten_levels(levels).split([dim, dim, 4, 1, CLASSES], 2)
        queries, bias = self._queries(words, features[:, sizes[0][0] * sizes[0][1] :]).split([dim, 1], -1)
        logits = torch.baddbmm(bias.transpose(1, 2) + self.prior_logit, keys, queries.transpose(1, 2) / dim**0.5)
        evidence = torch.bmm(scores, similarity.transpose(1, 2) / MIN_DETECTOR_SCORE).clamp(max=1 / MIN_DETECTOR_SCORE)
        logits = torch.addcmul(logits, self.detector_weight, torch.log1p(evidence))
        return HeadOutputs(logits, boxes, centerness[..., 0], sizes)

    def _queries(self, words: Tensor, cells: Tensor) -> Tensor:
        """Queries of words (B x L x D) that attended to the coarse cells (B x N x D), and a bias: B x L x (D + 1)."""
        for layer in self.text_attention:
            words = layer(words, cells)
        return self.query_projection(words)

    def phrase_features(self, pyramid: Sequence[Tensor], hidden: Tensor, token_map: Sequence[Sequence[int]]) -> Tensor:
        """Word features of phrases and their queries for one image, averaged over their tokens: N x 2 D.

        Arguments are those of `refine_phrases`.
        """
        words = hidden[None, :, : -2 * CLASSES].float()
        dim = words.shape[2]
        coarse = torch.cat([level[0, dim : 2 * dim].float().flatten(1).T for level in pyramid[1:3]])
        both = torch.cat([words, self._queries(words, coarse[None])[..., :dim]], 2)[0]
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
        """See `Model.detect`. The second stage refines the boxes of phrases."""
        if not phrases or text is None:
            return super().detect(
                pyramid, text, token_maps, image_sizes, thresholds, least=least, nms_iou=nms_iou, phrases=phrases
            )
        outputs = self.align(pyramid, text)
        boxes = []
        for i, (token_map, size) in enumerate(zip(token_maps, image_sizes, strict=True)):
            candidates = phrase_candidates(self, outputs, i, token_map, size, thresholds[i], nms_iou)
            levels = [level[i : i + 1] for level in pyramid]
            refined = self.refine_phrases(candidates, levels, text.hidden[i][text.mask[i]], token_map, size)
            boxes.append(suppress(refined, nms_iou))
        return boxes

    def refine_phrases(
        self,
        candidates: ScoredBoxes,
        pyramid: Sequence[Tensor],
        hidden: Tensor,
        token_map: TokenMap,
        image_size: tuple[int, int],
    ) -> ScoredBoxes:
        """Refine and rescore the best `CANDIDATES` boxes of each phrase. Refined boxes may coincide.

        Args:
            candidates: Boxes of one image, best first; labels are rows of the token map.
            pyramid: Levels of that image, 1 x C x h x w each.
            hidden: L x (D + 160), of `project_text`.
            token_map: The tokens of each phrase.
            image_size: (height, width) without padding, in pixels of the network's input.

        Returns:
            The refined boxes; the best score of each phrase is unchanged.
        """
        words = self.phrase_features(pyramid, hidden, token_map)
        levels = [level[0, : words.shape[1]] for level in pyramid[:3]]
        size = words.new_tensor([image_size[::-1]])
        refined = []
        for phrase, phrase_words in enumerate(words[:, None]):
            rows = (candidates.labels == phrase).nonzero()[:CANDIDATES, 0]
            if not len(rows):
                continue
            boxes, scores = candidates.boxes[rows].to(size.device), candidates.scores[rows].to(size.device).float()
            boxes, scores = self.second_stage.refine(levels, GRID.strides[:3], boxes, scores, phrase_words, size)
            refined.append(ScoredBoxes(boxes.cpu(), scores.cpu(), candidates.labels[rows]))
        return join_boxes(refined) if refined else candidates
