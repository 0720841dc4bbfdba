"""`Detector`: images and words in, `Detections` out."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack, cast, overload

import numpy as np

from openglip.errors import ConfigError, ImageError
from openglip.images.prepare import Preparation, prepare
from openglip.images.read import ImageSource, describe, is_one_image, read_image
from openglip.predict.backends.base import Backend, BoxArrays
from openglip.predict.options import DetectArguments, DetectOptions, check_count
from openglip.predict.schedule import Batch, EncodedImage, OpenedImage, UnreadableImage, detect_in_batches
from openglip.predict.text import Categories, EncodedText, Phrase, TextEncoder, check_detector
from openglip.runtime import Precision
from openglip.structures.detections import Detections

if TYPE_CHECKING:
    import torch
    from torch import nn

    from openglip.model.contract import Model

ImageLike: TypeAlias = "ImageSource | EncodedImage"


class Detector:
    """Finds words in images with one model. Its only state is bounded caches; safe to use from several threads.

    Args:
        model: A built model (`openglip.load` makes one by name). It is put into eval mode and moved to `device`.
        device: "auto" (CUDA where there is one, else the CPU), or a device of torch.
        precision: "fp32", "bf16" (autocast), or "auto" (bf16 where the device is natively fast at it).

    Attributes:
        backend: What runs the model.

    Raises:
        ConfigError: The model lacks a part of `openglip.model.contract.Model`, or the device can't be used.
    """

    def __init__(
        self, model: nn.Module | Model, *, device: str | torch.device = "auto", precision: Precision = "fp32"
    ) -> None:
        from openglip.predict.backends.torch import TorchBackend  # late: brings torch

        self.backend: Backend = TorchBackend(model, device, precision)
        self.id = secrets.token_hex(8)
        self._text = TextEncoder(self.backend, self.id)

    @property
    def model(self) -> Model:
        """The network. Raises ConfigError where the backend runs an exported graph."""
        from openglip.predict.backends.torch import TorchBackend

        if not isinstance(self.backend, TorchBackend):
            raise ConfigError("this detector runs an exported model: there is no network to look at")
        return self.backend.model

    @property
    def device(self) -> str:
        """Where the model runs, for example "cpu" or "cuda:0"."""
        return self.backend.device

    @property
    def precision(self) -> str:
        """The precision in which the model computes, "fp32" or "bf16"."""
        return self.backend.precision

    @overload
    def detect(
        self,
        images: ImageLike,
        categories: Categories,
        *,
        options: DetectOptions | None = None,
        **arguments: Unpack[DetectArguments],
    ) -> Detections: ...
    @overload
    def detect(
        self,
        images: Iterable[ImageLike],
        categories: Categories,
        *,
        options: DetectOptions | None = None,
        **arguments: Unpack[DetectArguments],
    ) -> list[Detections]: ...
    def detect(
        self,
        images: ImageLike | Iterable[ImageLike],
        categories: Categories,
        *,
        options: DetectOptions | None = None,
        **arguments: Unpack[DetectArguments],
    ) -> Detections | list[Detections]:
        """Find the boxes of every category in one image or several.

        Args:
            images: One image or an iterable of them: a path, the bytes of a file, a PIL image, an array H x W x 3 uint8
                RGB, a tensor 3 x H x W (uint8, or float from 0 to 1), or the result of `encode`.
            categories: Names for all images; one list of names per image; one string that is split at full stops,
                commas, semicolons and line breaks; or the result of `encode_text`.
            options: Options of earlier calls to use again; keyword arguments replace single ones.
            **arguments: The fields of `DetectOptions`: threshold, top_k, nms_iou, class_agnostic, short_side,
                max_side, batch_size, chunk_size, distractors, on_error.

        Returns:
            One `Detections` for one image, else a list in the order of the images.

        Raises:
            ImageError: An image can't be read, unless `on_error="record"`.
            PromptError: The categories can't become a prompt.
            ConfigError: An option is out of range, or something was encoded by another detector.
        """
        detections = self.stream(images, categories, options=options, **arguments)
        return next(detections) if is_single(images) else list(detections)

    @overload
    def ground(
        self,
        images: ImageLike,
        captions: str | Sequence[str],
        *,
        phrases: Sequence[Phrase] | Sequence[Sequence[Phrase]] | None = None,
        options: DetectOptions | None = None,
        **arguments: Unpack[DetectArguments],
    ) -> Detections: ...
    @overload
    def ground(
        self,
        images: Iterable[ImageLike],
        captions: str | Sequence[str],
        *,
        phrases: Sequence[Phrase] | Sequence[Sequence[Phrase]] | None = None,
        options: DetectOptions | None = None,
        **arguments: Unpack[DetectArguments],
    ) -> list[Detections]: ...
    def ground(
        self,
        images: ImageLike | Iterable[ImageLike],
        captions: str | Sequence[str],
        *,
        phrases: Sequence[Phrase] | Sequence[Sequence[Phrase]] | None = None,
        options: DetectOptions | None = None,
        **arguments: Unpack[DetectArguments],
    ) -> Detections | list[Detections]:
        """Find the boxes of the phrases of a caption in one image or several.

        Args:
            images: As for `detect`.
            captions: One caption for all images, or one per image.
            phrases: For each image a list whose items are strings, half-open (start, end) character spans, or lists of
                spans; for one image or one caption the list itself. None: the caption's noun phrases.
            options: As for `detect`.
            **arguments: As for `detect`, without `chunk_size` and `distractors`.

        Returns:
            As `detect`, with `caption` and `phrase_spans`. The embedded model returns at most 32 boxes per phrase.

        Raises:
            ImageError: An image can't be read, unless `on_error="record"`.
            PromptError: A caption is empty or too long, or a phrase is not in it.
            ConfigError: An option is out of range, or something was encoded by another detector.
        """
        single = is_single(images)
        if single and phrases is not None and not isinstance(captions, str):
            phrases = cast("Sequence[Sequence[Phrase]]", [phrases])
        detections = self.stream(images, captions=captions, phrases=phrases, options=options, **arguments)
        return next(detections) if single else list(detections)

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        categories: Categories | None = None,
        *,
        captions: str | Iterable[str] | None = None,
        phrases: Iterable[Any] | None = None,
        options: DetectOptions | None = None,
        **arguments: Unpack[DetectArguments],
    ) -> Iterator[Detections]:
        """`detect` (categories) or `ground` (captions) over any number of images, in constant memory.

        Args:
            images: As for `detect`; a generator is read as it goes.
            categories: As for `detect`.
            captions: As for `ground`, in place of `categories`.
            phrases: As for `ground`.
            options: As for `detect`.
            **arguments: As for `detect`.

        Returns:
            An iterator over one `Detections` per image, in order.

        Raises:
            ImageError: An image can't be read, unless `on_error="record"`.
            PromptError: The words can't become a prompt.
            ConfigError: Neither or both of categories and captions are given, or an option does not fit.
        """
        if (categories is None) == (captions is None):
            raise ConfigError("give either categories or captions")
        chosen = (options or DetectOptions()).with_arguments(arguments)
        images = [cast("ImageLike", images)] if is_single(images) else cast("Iterable[ImageLike]", images)
        count = len(images) if isinstance(images, Sized) else None
        if categories is not None:
            texts = self._text.category_texts(categories, chosen.distractors, chosen.chunk_size, count)
        elif chosen.distractors or chosen.chunk_size is not None:
            raise ConfigError("distractors and chunk_size are for categories: a caption is read as it stands")
        else:
            texts = self._text.caption_texts(cast("str | Iterable[str]", captions), phrases, count)
        preparation = self._preparation(chosen.short_side, chosen.max_side)
        return detect_in_batches(
            self.backend,
            iter(images),
            texts,
            chosen.batch_size,
            partial(self._open, preparation=preparation, record=chosen.on_error == "record"),
            partial(self._detect_batch, options=chosen),
        )

    @overload
    def encode(
        self, images: ImageSource, *, short_side: int | None = None, max_side: int | None = None
    ) -> EncodedImage: ...
    @overload
    def encode(
        self, images: Iterable[ImageSource], *, short_side: int | None = None, max_side: int | None = None
    ) -> list[EncodedImage]: ...
    def encode(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        short_side: int | None = None,
        max_side: int | None = None,
    ) -> EncodedImage | list[EncodedImage]:
        """Encode what does not depend on the words, to be used again with many prompts.

        Args:
            images: One image or an iterable of them, as for `detect`.
            short_side: Length of the short side of the resized image, in pixels. None: the model's own.
            max_side: Limit of its long side, in pixels. None: the model's own.

        Returns:
            One encoded image for one image, else a list; accepted by this detector wherever images are. With fusion it
            holds backbone and pyramid only.

        Raises:
            ImageError: An image can't be read.
        """
        check_count("short_side", short_side)
        check_count("max_side", max_side)
        preparation = self._preparation(short_side, max_side)
        if is_single(images):
            return self._encode(cast("ImageSource", images), preparation)
        return [self._encode(image, preparation) for image in cast("Iterable[ImageSource]", images)]

    def encode_text(
        self, categories: str | Sequence[str], *, distractors: Sequence[str] = (), chunk_size: int | None = None
    ) -> EncodedText:
        """Encode category names, to be used again with many images.

        Args:
            categories: Names, or one string that is split as in `detect`.
            distractors: Words that take part in the prompt and are left out of the result.
            chunk_size: Names per prompt. None: as many as fit, evenly spread.

        Returns:
            The encoded vocabulary; accepted by this detector wherever categories are.

        Raises:
            PromptError: A name is empty, doubled or too long.
        """
        check_count("chunk_size", chunk_size)
        return self._text.categories(categories, distractors, chunk_size)

    def _preparation(self, short_side: int | None, max_side: int | None) -> Preparation:
        preparation = self.backend.preparation
        if short_side is not None:
            preparation = replace(preparation, short_side=short_side)
        return replace(preparation, max_side=max_side) if max_side is not None else preparation

    def _open(
        self, image: ImageLike, preparation: Preparation, record: bool = False
    ) -> OpenedImage | EncodedImage | UnreadableImage:
        if isinstance(image, EncodedImage):
            check_detector(image.detector_id, self.id)
            return image
        source = describe(image) if isinstance(image, (str, os.PathLike)) else None
        try:
            pixels = read_image(image)
        except ImageError as error:
            if not record:
                raise
            return UnreadableImage(source or describe(image), error)
        return OpenedImage(prepare(pixels, preparation), (pixels.shape[0], pixels.shape[1]), source)

    def _encode(self, image: ImageSource, preparation: Preparation) -> EncodedImage:
        opened = cast("OpenedImage", self._open(image, preparation))
        maps = self.backend.encode_images([opened.pixels])
        return EncodedImage(self.id, maps, opened.network_size, opened.image_size, opened.source)

    def _detect_batch(self, batch: Batch, options: DetectOptions) -> list[Detections]:
        """One batch of equal padded size: encode the images, search for each prompt, join the prompts of each image."""
        images, texts = batch
        thresholds = [options.thresholds(text.vocabulary, self.backend.default_threshold) for text in texts]
        lowest = [float(min(values, default=0.0)) for values in thresholds]
        if isinstance(images[0], EncodedImage):
            maps = self.backend.join_images([cast("EncodedImage", image).maps for image in images])
        else:
            maps = self.backend.encode_images([cast("OpenedImage", image).pixels for image in images])

        boxes: list[list[BoxArrays]] = [[] for _ in images]
        for number in range(max(len(text.prompts) for text in texts)):
            rows = [i for i, text in enumerate(texts) if number < len(text.prompts)]
            prompts = [texts[i].prompts[number] for i in rows]
            results = self.backend.detect(
                maps,
                rows,
                [prompt.tokens for prompt in prompts],
                [prompt.token_map for prompt in prompts],
                [images[i].network_size for i in rows],
                [thresholds[i][prompt.labels] for i, prompt in zip(rows, prompts, strict=True)],
                least=min(lowest[i] for i in rows),
                nms_iou=options.nms_iou,
                phrases=prompts[0].phrases,
            )
            for i, prompt, result in zip(rows, prompts, results, strict=True):
                boxes[i].append(result._replace(labels=prompt.labels[result.labels]))
        return [self._join(boxes[i], images[i], texts[i], thresholds[i], options) for i in range(len(images))]

    def _join(
        self,
        prompts: Sequence[BoxArrays],
        image: OpenedImage | EncodedImage,
        text: EncodedText,
        thresholds: np.ndarray,
        options: DetectOptions,
    ) -> Detections:
        """The boxes of all prompts of one image: cut by score, best first, in pixels of the original."""
        boxes = BoxArrays(*(np.concatenate(columns) for columns in zip(*prompts, strict=True)))
        # Thresholds come first: a box below its own must not suppress others nor count among the top_k.
        boxes = boxes.select(boxes.scores > thresholds[boxes.labels])
        if options.class_agnostic:
            boxes = self.backend.suppress(boxes, options.nms_iou)
        if options.top_k is not None:
            boxes = boxes.best(options.top_k)
        boxes = boxes.select(np.argsort(-boxes.scores, kind="stable"))
        scale = np.array(image.image_size[::-1]) / np.array(image.network_size[::-1])
        return Detections(
            boxes=(boxes.boxes.astype(np.float64) * np.tile(scale, 2)).astype(np.float32),
            scores=boxes.scores,
            labels=boxes.labels,
            vocabulary=text.vocabulary,
            image_size=image.image_size,
            caption=text.caption,
            phrase_spans=text.phrase_spans,
            source=image.source,
        )


def load(
    name: str | os.PathLike[str] = "nano",
    weights: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    precision: Precision = "fp32",
) -> Detector:
    """A detector by its model's name or a checkpoint's path.

    Args:
        name: A name ("nano", "glip-t", ...), the path of a checkpoint, or the folder of a finished training run.
        weights: A checkpoint for a named model. None: embedded, cached, or downloaded with a printed line. "random":
            random weights, for benchmarks.
        device: "auto" (CUDA where there is one, else the CPU), or a device of torch.
        precision: "fp32", "bf16", or "auto" (bf16 where the device is natively fast at it).

    Returns:
        The detector.

    Raises:
        ConfigError: There is no such model, device or precision.
        WeightsError: The checkpoint is missing, damaged or of another model.
    """
    from openglip.weights.load import load_model

    return Detector(load_model(name, weights), device=device, precision=precision)


def is_single(images: object) -> bool:
    """Whether this is one image. Raises ImageError for a four-dimensional array."""
    return isinstance(images, EncodedImage) or is_one_image(images)
