"""`Detector`: photos and words in, `Detections` out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, pairwise
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, cast, overload

import numpy as np
import torch
from torch import Tensor, nn

from openglip.errors import ConfigError, ImageError, PromptError
from openglip.images.prepare import Preparation, pad_batch, padded_size, prepare
from openglip.images.read import ImageSource, describe, is_one_image, read_image
from openglip.model.head import HeadOutputs, TextFeatures
from openglip.model.linear import half_copy
from openglip.model.postprocess import Found, best_candidates, best_with_ties, class_scores, suppress, within_reach
from openglip.model.workers import Workers
from openglip.predict.text import EncodedText, TextEncoder, stack
from openglip.prompts.text import part_names
from openglip.runtime import Precision, keep_onednn_kernels, pick_device, pick_precision
from openglip.structures.detections import Detections

OnError = Literal["raise", "record"]
Threshold: TypeAlias = "float | Sequence[float] | dict[str, float] | None"

# Network pixels of one batch on a CPU: one GLIP image of 800 x 1344, or eight of the embedded model's size.
CPU_BATCH_PIXELS = 1_100_000
GPU_BATCH = 8
PHRASE_PER_LEVEL = 100  # places of a level that a second look considers for a phrase


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """The image side of a detection (with fusion: backbone and pyramid only), for the detector that encoded it.

    pyramid: maps of one padded image; network_size: its un-padded (height, width); image_size: of the original.
    """

    owner: object
    pyramid: list[Tensor]
    network_size: tuple[int, int]
    image_size: tuple[int, int]
    source: str | None


@dataclass(frozen=True, eq=False)
class _Opened:
    """An image that is read and resized but not yet encoded, or the error that came instead (its size is then 0)."""

    pixels: Tensor | None
    image_size: tuple[int, int]
    source: str | None
    error: ImageError | None = None

    @property
    def network_size(self) -> tuple[int, int]:
        assert self.pixels is not None
        return self.pixels.shape[1], self.pixels.shape[2]


ImageLike: TypeAlias = "ImageSource | EncodedImage"


@dataclass(frozen=True)
class _Settings:
    """What the caller asked of a detection, apart from images and words."""

    threshold: Threshold
    top_k: int | None
    nms_iou: float
    class_agnostic: bool
    preparation: Preparation
    batch_size: int | None
    on_error: OnError

    def __post_init__(self) -> None:
        _check_whole("top_k", self.top_k)
        _check_whole("batch_size", self.batch_size)
        if not (isinstance(self.nms_iou, Real) and 0 <= self.nms_iou <= 1):
            raise ConfigError(f"nms_iou is {self.nms_iou!r}; it must be a number within 0 and 1")
        if self.on_error not in ("raise", "record"):
            raise ConfigError(f"on_error is {self.on_error!r}; it must be 'raise' or 'record'")


class Detector:
    """Finds words on photos with one model. Holds no state besides bounded caches; safe to use from several threads.

    model: a built model (`openglip.load` makes one by name); it is put into eval mode and moved to `device`.
    precision: "fp32", "bf16" (autocast), "auto" (bf16 where the device is natively fast at it).
    """

    def __init__(self, model: nn.Module, *, device: str | torch.device = "auto", precision: Precision = "fp32") -> None:
        keep_onednn_kernels()
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        self.model: Any = model.eval().to(self.device)
        if self.precision == "bf16":
            self.model = half_copy(self.model)
        self._text = TextEncoder(self.model, self)

    def detect(
        self,
        images: ImageLike | Iterable[ImageLike],
        categories: Any,
        *,
        threshold: Threshold = None,
        top_k: int | None = 100,
        nms_iou: float = 0.6,
        class_agnostic: bool = False,
        short_side: int | None = None,
        max_side: int | None = None,
        batch_size: int | None = None,
        chunk_size: int | None = None,
        distractors: Sequence[str] = (),
        on_error: OnError = "raise",
    ) -> Any:
        """Boxes of every category on one image or several.

        images: one (path, bytes, PIL, H x W x 3 uint8 RGB, tensor 3 x H x W, or from `encode`) or an iterable.
        categories: a list of names for all images, one list per image, one string parted at full stops and commas, or
        from `encode_text`. threshold: None, the model's own; a number; a list or dict per category; 0, the official
        set. top_k: boxes per image, ties kept; None: no cap. chunk_size: names per prompt, None: as many as fit.
        distractors: words that take part in the prompt only. short_side, max_side: of the resized image, in pixels.
        Returns one `Detections` for one image, else a list in order. Raises ImageError, PromptError, ConfigError.
        """
        single = is_single(images)
        found = self.stream(
            images,
            categories,
            threshold=threshold,
            top_k=top_k,
            nms_iou=nms_iou,
            class_agnostic=class_agnostic,
            short_side=short_side,
            max_side=max_side,
            batch_size=batch_size,
            chunk_size=chunk_size,
            distractors=distractors,
            on_error=on_error,
        )
        return next(found) if single else list(found)

    def ground(
        self,
        images: ImageLike | Iterable[ImageLike],
        captions: str | Sequence[str],
        *,
        phrases: Sequence[Any] | None = None,
        threshold: Threshold = None,
        top_k: int | None = 100,
        nms_iou: float = 0.6,
        class_agnostic: bool = False,
        short_side: int | None = None,
        max_side: int | None = None,
        batch_size: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """Boxes of the phrases of a caption on one image or several.

        captions: one for all images, or one per image. phrases: per image a list whose items are strings, (start, end)
        character spans, or lists of spans; for one image or one caption the list itself; None: noun phrases are found.
        Other arguments and the result are those of `detect`, with `caption` and `phrase_spans`; nano gives 32 boxes a
        phrase at most.
        """
        single = is_single(images)
        found = self.stream(
            images,
            captions=captions,
            phrases=[phrases] if single and phrases is not None and not isinstance(captions, str) else phrases,
            threshold=threshold,
            top_k=top_k,
            nms_iou=nms_iou,
            class_agnostic=class_agnostic,
            short_side=short_side,
            max_side=max_side,
            batch_size=batch_size,
            on_error=on_error,
        )
        return next(found) if single else list(found)

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        categories: Any = None,
        *,
        captions: str | Iterable[str] | None = None,
        phrases: Iterable[Any] | None = None,
        threshold: Threshold = None,
        top_k: int | None = 100,
        nms_iou: float = 0.6,
        class_agnostic: bool = False,
        short_side: int | None = None,
        max_side: int | None = None,
        batch_size: int | None = None,
        chunk_size: int | None = None,
        distractors: Sequence[str] = (),
        on_error: OnError = "raise",
    ) -> Iterator[Detections]:
        """`detect` (categories) or `ground` (captions) over any number of images, in order and in constant memory."""
        if (categories is None) == (captions is None):
            raise ConfigError("give either categories or captions")
        settings = _Settings(
            threshold, top_k, nms_iou, class_agnostic, self._preparation(short_side, max_side), batch_size, on_error
        )
        images = as_images(images)
        count = len(images) if isinstance(images, Sized) else None
        if captions is None:
            texts = self._category_texts(categories, distractors, chunk_size, count)
        else:
            texts = self._caption_texts(captions, phrases, count)
        return self._stream(iter(images), texts, settings)

    @overload
    def encode(
        self, images: ImageSource, *, short_side: int | None = None, max_side: int | None = None
    ) -> EncodedImage: ...
    @overload
    def encode(
        self, images: Iterable[ImageSource], *, short_side: int | None = None, max_side: int | None = None
    ) -> list[EncodedImage]: ...
    def encode(self, images: Any, *, short_side: int | None = None, max_side: int | None = None) -> Any:
        """What can be reused of images for many prompts; with fusion that is backbone and pyramid only."""
        preparation = self._preparation(short_side, max_side)
        single = is_single(images)
        encoded = []
        for image in [images] if single else images:
            opened = cast("_Opened", self._open(image, preparation, "raise"))
            pyramid = self._encode_batch([opened], preparation)
            encoded.append(EncodedImage(self, pyramid, opened.network_size, opened.image_size, opened.source))
        return encoded[0] if single else encoded

    def encode_text(
        self, categories: str | Sequence[str], *, distractors: Sequence[str] = (), chunk_size: int | None = None
    ) -> EncodedText:
        """What can be reused of category names for many images; accepted wherever categories are."""
        _check_whole("chunk_size", chunk_size)
        names = part_names(categories) if isinstance(categories, str) else _listed(categories, "categories")
        distractors = _listed(distractors, "distractors")
        with self.inference():
            return self._text.categories(names, distractors, chunk_size)

    # ---- words

    def _category_texts(
        self, categories: Any, distractors: Sequence[str], chunk_size: int | None, count: int | None
    ) -> Iterator[EncodedText]:
        """An endless or per-image series of encoded vocabularies."""

        def encode(item: Any) -> EncodedText:
            if isinstance(item, EncodedText):
                if chunk_size is not None or distractors:
                    raise ConfigError("these words are encoded already: give distractors and chunk_size to encode_text")
                return self._own(item)
            return self.encode_text(item, distractors=distractors, chunk_size=chunk_size)

        if isinstance(categories, (str, EncodedText)):
            return _forever(encode(categories))
        items = _listed(categories, "categories")
        if not items or not all(isinstance(item, (list, tuple, EncodedText)) for item in items):
            return _forever(encode(items))  # names; one that is no string is refused with its position
        _check_count(len(items), "lists of categories", count)
        return (encode(item) for item in items)

    def _caption_texts(
        self, captions: str | Iterable[str], phrases: Iterable[Any] | None, count: int | None
    ) -> Iterator[EncodedText]:
        per_image = None if phrases is None else _listed(phrases, "phrases")
        if isinstance(captions, str):
            if per_image is None or not _is_nested(per_image):
                with self.inference():
                    return _forever(self._text.caption(captions, per_image))
            captions = [captions] * len(per_image)
        captions = _listed(captions, "captions")
        _check_count(len(captions), "captions", count)
        if per_image is not None and len(per_image) != len(captions):
            raise PromptError(
                f"{len(captions)} captions but {len(per_image)} lists of phrases: give one list per caption"
            )
        return self._encode_captions(captions, per_image or [None] * len(captions))

    def _encode_captions(self, captions: list[str], phrases: list[Any]) -> Iterator[EncodedText]:
        for caption, items in zip(captions, phrases, strict=True):
            with self.inference():
                encoded = self._text.caption(caption, items)
            yield encoded

    def _own(self, item: Any) -> Any:
        if item.owner is not self:
            raise ConfigError("this was encoded by another detector: encode it with the one that uses it")
        return item

    # ---- images

    def _preparation(self, short_side: int | None, max_side: int | None) -> Preparation:
        preparation: Preparation = self.model.preparation
        _check_whole("short_side", short_side)
        _check_whole("max_side", max_side)
        if short_side is not None:
            preparation = replace(preparation, short_side=short_side)
        return replace(preparation, max_side=max_side) if max_side is not None else preparation

    def _open(self, image: ImageLike, preparation: Preparation, on_error: OnError) -> _Opened | EncodedImage:
        if isinstance(image, EncodedImage):
            return self._own(image)
        source = describe(image) if isinstance(image, (str, os.PathLike)) else None
        try:
            pixels = read_image(image)
        except ImageError as error:
            if on_error == "raise":
                raise
            return _Opened(None, (0, 0), source or describe(image), error)
        return _Opened(prepare(pixels, preparation), (pixels.shape[0], pixels.shape[1]), source)

    def _encode_batch(self, opened: Sequence[_Opened], preparation: Preparation) -> list[Tensor]:
        """The maps of images of equal padded size."""
        batch = pad_batch([cast("Tensor", o.pixels) for o in opened], preparation.multiple)
        with self.inference():
            return self.model.encode_image(batch.to(self.device))

    # ---- the pass

    def _stream(
        self, images: Iterator[ImageLike], texts: Iterator[EncodedText], settings: _Settings
    ) -> Iterator[Detections]:
        """Read a window of images, run equal sizes as batches, yield in order."""
        place = 0
        batch = settings.batch_size
        window = min(4 * batch, 64) if batch and batch > 1 else 1
        read = partial(self._open, preparation=settings.preparation, on_error=settings.on_error)
        run = partial(self._run, settings=settings)
        # a photo alone in its lane is slower than two photos on all threads
        with Workers(self.device, at_most=batch // 2 if batch else None) as lanes:
            while chunk := list(islice(images, window)):
                words = list(islice(texts, len(chunk)))
                if len(words) < len(chunk):
                    raise PromptError(f"image {place + len(words)} has no words: give one list or caption per image")
                opened = lanes.map(read, chunk)
                results: dict[int, Detections] = {}
                groups: dict[Any, list[int]] = {}
                for i, item in enumerate(opened):
                    if isinstance(item, _Opened) and item.error is not None:
                        results[i] = _failed(item, words[i])
                        continue
                    size = padded_size(*item.network_size, settings.preparation.multiple)
                    groups.setdefault((size, isinstance(item, EncodedImage)), []).append(i)
                parts: list[list[int]] = []
                for (size, _), members in groups.items():
                    step = self._batch_size(size, settings, len(lanes))
                    window = max(window, min(4 * step * len(lanes), 64)) if step > 1 else window
                    parts += _even_parts(members, step)
                batches = [([opened[i] for i in part], [words[i] for i in part]) for part in parts]
                for part, found in zip(parts, lanes.map(run, batches), strict=True):
                    results.update(zip(part, found, strict=True))
                yield from (results[i] for i in range(len(chunk)))
                place += len(chunk)

    def _batch_size(self, size: tuple[int, int], settings: _Settings, lanes: int) -> int:
        """Of each lane; all lanes together run what the caller asked for."""
        if settings.batch_size is not None:
            return max(1, settings.batch_size // lanes)
        return GPU_BATCH if self.device.type != "cpu" else max(1, CPU_BATCH_PIXELS // (size[0] * size[1]))

    def _run(
        self, batch: tuple[Sequence[_Opened | EncodedImage], Sequence[EncodedText]], settings: _Settings
    ) -> list[Detections]:
        """One batch of equal padded size: encode, align with each prompt, collect per image."""
        opened, words = batch
        if isinstance(opened[0], _Opened):
            maps = self._encode_batch(cast("Sequence[_Opened]", opened), settings.preparation)
        else:
            encoded = cast("Sequence[EncodedImage]", opened)
            maps = [torch.cat(level) for level in zip(*(image.pyramid for image in encoded), strict=True)]
        found: list[list[Found]] = [[] for _ in opened]
        thresholds = [self._thresholds(settings.threshold, w.vocabulary) for w in words]
        lowest = [min(t.tolist(), default=0.0) for t in thresholds]
        for p in range(max(len(w.prompts) for w in words)):
            members = [i for i, w in enumerate(words) if p < len(w.prompts)]
            prompts = [words[i].prompts[p] for i in members]
            pyramid = maps if len(members) == len(opened) else [level[members] for level in maps]
            looks_again = prompts[0].phrases and hasattr(self.model, "look_again")
            least = 0.0 if looks_again else min(lowest[i] for i in members)
            with self.inference():
                outputs: HeadOutputs = self.model.align(pyramid, stack(prompts), least)
                anchors = self.model.anchors(outputs.sizes, device=self.device)
                for row, (i, prompt) in enumerate(zip(members, prompts, strict=True)):
                    size = opened[i].network_size
                    if looks_again:
                        own = thresholds[i][prompt.labels]
                        scores = class_scores(outputs.logits[row], prompt.token_map, self.model.aggregation)
                        best = phrase_candidates(self.model, outputs, row, scores, anchors, size, own, settings.nms_iou)
                        levels = [level[row : row + 1] for level in pyramid]
                        hidden = cast("TextFeatures", prompt.features).hidden
                        best = self.model.look_again(best, levels, hidden, prompt.token_map, size)
                    else:
                        best = _candidates(self.model, outputs, row, prompt.token_map, anchors, size, least)
                    best = suppress(best, settings.nms_iou)
                    found[i].append(best._replace(labels=prompt.labels[best.labels]))
        return [self._finish(parts, opened[i], words[i], thresholds[i], settings) for i, parts in enumerate(found)]

    def _finish(
        self,
        parts: Sequence[Found],
        image: _Opened | EncodedImage,
        words: EncodedText,
        thresholds: Tensor,
        settings: _Settings,
    ) -> Detections:
        """Join the prompts of one image, cut, and scale to the original's pixels."""
        found = Found(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
        # Thresholds come first: what is below its own takes no place of the others.
        above = found.scores > thresholds[found.labels]
        found = Found(*(column[above] for column in found))
        if settings.class_agnostic:
            found = suppress(found, settings.nms_iou, class_agnostic=True)
        if settings.top_k is not None:
            found = best_with_ties(found, settings.top_k)
        order = found.scores.argsort(descending=True, stable=True)
        boxes = found.boxes[order].double().numpy()
        scale = np.array(image.image_size[::-1]) / np.array(image.network_size[::-1])
        return Detections(
            boxes=(boxes * np.tile(scale, 2)).astype(np.float32),
            scores=found.scores[order].float().numpy(),
            labels=found.labels[order].numpy(),
            vocabulary=words.vocabulary,
            image_size=image.image_size,
            caption=words.caption,
            phrase_spans=words.phrase_spans,
            source=image.source,
        )

    def _thresholds(self, threshold: Threshold, vocabulary: tuple[str, ...]) -> Tensor:
        default = float(self.model.default_threshold)
        if isinstance(threshold, Mapping):
            unknown = [name for name in threshold if name not in vocabulary]
            if unknown:
                raise ConfigError(f"threshold names {unknown[0]!r}, which is not among the categories")
            values = [threshold.get(name, default) for name in vocabulary]
        elif threshold is None or np.ndim(threshold) == 0:  # a number of any library
            values = [default if threshold is None else threshold] * len(vocabulary)
        else:
            values = list(threshold)  # type: ignore[arg-type]
            if len(values) != len(vocabulary):
                raise ConfigError(f"{len(values)} thresholds for {len(vocabulary)} categories: give one per category")
        try:
            numbers = [float(value) for value in values]  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"a threshold must be a number within 0 and 1: {threshold!r}") from error
        if not all(0 <= number <= 1 for number in numbers):
            raise ConfigError(f"a threshold must lie within 0 and 1: {threshold!r}")
        return torch.tensor(numbers)

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """What the model runs in: no gradients, and this detector's precision."""
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, self.precision == "bf16"):
            yield


def _candidates(
    model: Any,
    outputs: HeadOutputs,
    row: int,
    token_map: Sequence[Sequence[int]],
    anchors: Tensor,
    image_size: tuple[int, int],
    least: float,
) -> Found:
    """The best pairs of place and class of one image of a batch; those whose final score is below `least` may miss."""
    logits, boxes, centerness, sizes = (
        outputs.logits[row],
        outputs.box_regression[row],
        outputs.centerness[row],
        outputs.sizes,
    )
    if least > 0 or model.score_cut > 0:
        rows, counts = within_reach(logits, centerness, sizes, model.score_cut, least)
        logits, boxes, centerness, anchors = (part[rows] for part in (logits, boxes, centerness, anchors))
        sizes = [(count, 1) for count in counts]
    return best_candidates(
        class_scores(logits, token_map, model.aggregation),
        boxes,
        centerness,
        anchors,
        sizes,
        image_size,
        score_cut=model.score_cut,
        coder=getattr(model, "coder", None),
        least=least,
    )


def phrase_candidates(
    model: Any,
    outputs: HeadOutputs,
    row: int,
    scores: Tensor,
    anchors: Tensor,
    image_size: tuple[int, int],
    thresholds: Tensor,
    nms_iou: float = 0.6,
) -> Found:
    """What a second look is given of one image of a batch: the boxes of each phrase, best first, found and suppressed
    for itself, so that no phrase takes another's place.

    scores: A x P; image_size: un-padded, in pixels; thresholds: P; a phrase that reaches its own nowhere has no boxes.
    """
    parts = [Found(anchors.new_zeros(0, 4).cpu(), anchors.new_zeros(0).cpu(), torch.zeros(0, dtype=torch.int64))]
    for phrase, threshold in enumerate(thresholds.tolist()):
        own = scores[:, phrase : phrase + 1]
        found = best_candidates(
            own,
            outputs.box_regression[row],
            outputs.centerness[row],
            anchors,
            outputs.sizes,
            image_size,
            score_cut=model.score_cut,
            per_level=PHRASE_PER_LEVEL,
            coder=model.coder,
        )
        if len(found.scores) and found.scores.max() > threshold:
            found = suppress(found, nms_iou)
            parts.append(found._replace(labels=found.labels + phrase))
    return Found(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def load(
    name: str = "nano",
    weights: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    precision: Precision = "fp32",
) -> Detector:
    """A detector by its model's name or a checkpoint's path.

    weights: a checkpoint; None: embedded, cached, or downloaded with a printed line; "random": for benchmarks.
    Raises ConfigError for an unknown name, WeightsError for a checkpoint that is missing, damaged or of another model.
    """
    from openglip.weights.load import load_model

    return Detector(load_model(name, weights), device=device, precision=precision)


def is_single(images: Any) -> bool:
    """Whether this is one image. Raises ImageError for a four-dimensional array."""
    return isinstance(images, EncodedImage) or is_one_image(images)


def as_images(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """One image as a list of one; several as they are."""
    return [cast("ImageLike", images)] if is_single(images) else cast("Iterable[ImageLike]", images)


def _even_parts(items: list[int], most: int) -> list[list[int]]:
    """As few parts as hold `most` items each, of nearly equal length."""
    count = -(-len(items) // most)
    ends = [len(items) * n // count for n in range(count + 1)]
    return [items[start:end] for start, end in pairwise(ends)]


def _check_whole(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
        raise ConfigError(f"{name} is {value!r}; it must be a whole number, at least 1, or None")


def _listed(items: Any, what: str) -> list[Any]:
    """The items as a list; one string would be taken apart into its letters."""
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise PromptError(f"{what} must be a list, not {items!r:.60}")
    return list(items)


def _check_count(given: int, what: str, images: int | None) -> None:
    if images is not None and given != images:
        raise PromptError(f"{given} {what} for {images} images: give one per image, or one for all")


def _is_nested(phrases: list[Any]) -> bool:
    """Whether this is one list of phrases per image: an item that is itself a list with a string inside."""
    return bool(phrases) and all(isinstance(p, (list, tuple)) and any(isinstance(x, str) for x in p) for p in phrases)


def _forever(item: EncodedText) -> Iterator[EncodedText]:
    while True:
        yield item


def _failed(opened: _Opened, words: EncodedText) -> Detections:
    return Detections(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        labels=np.zeros(0, np.int64),
        vocabulary=words.vocabulary,
        image_size=None,
        caption=words.caption,
        phrase_spans=words.phrase_spans,
        source=opened.source,
        error=str(opened.error),
    )
