"""A detector as a teacher: images with phrases in, scored boxes with the caption's spans out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from os import PathLike
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from openglip.errors import ConfigError, ImageError, PromptError
from openglip.files import StrPath
from openglip.images.read import read_image
from openglip.labelling.filters import NO_BOXES, PhraseBoxes, Size, confirmed
from openglip.predict.detector import Detector, load
from openglip.predict.options import DetectOptions
from openglip.predict.phrase_book import PhraseBook
from openglip.prompts.text import detection_prompt
from openglip.runtime import Precision
from openglip.structures.detections import Detections
from openglip.structures.sample import Span

Agreement = Literal["flip", "jitter"]
DEFAULT_THRESHOLD = 0.1
SHIFT = 0.06  # of the sides, by which a jittered image is moved

Model: TypeAlias = StrPath | Detector | Callable[[], Detector]


@dataclass(frozen=True)
class Query:
    """An image, and what to look for in it.

    Attributes:
        content: The encoded image.
        caption: Its caption; not used with categories.
        spans: Character ranges of the phrases in the caption.
    """

    content: bytes
    caption: str = ""
    spans: tuple[Span, ...] = ()

    @property
    def phrases(self) -> list[str]:
        """The phrases in lower case, as the text encoders read them: "A dog" is "a dog"."""
        return [self.caption[begin:end].lower() for begin, end in self.spans]


@dataclass(frozen=True)
class Answer:
    """The teacher's answer to a query.

    Attributes:
        size: (height, width) of the upright image; None with an error.
        boxes: Scored boxes; their phrases are indices of the query's spans, or of the categories.
        error: Why there is no result.
        unconfirmed: Number of boxes that a second view did not confirm.
    """

    size: Size | None
    boxes: PhraseBoxes = NO_BOXES
    error: str | None = None
    unconfirmed: int = 0


@dataclass(frozen=True)
class TeacherSettings:
    """What changes the boxes of a teacher.

    Attributes:
        options: Options of detection. The threshold is one number, 0.1 by default; all boxes above it are kept.
        precision: "fp32", "bf16" or "auto".
        device: "auto", "cpu", "cuda", ...
        threads: Threads of each worker; their number changes the last bits of sums.
        agreement: Keep only boxes that are found again on a second view: "flip" mirrors the image, "jitter"
            shifts it.

    Raises:
        ConfigError: A setting can't be used for labelling.
    """

    options: DetectOptions = field(default_factory=DetectOptions)
    precision: Precision = "fp32"
    device: str = "auto"
    threads: int = 1
    agreement: Agreement | None = None

    def __post_init__(self) -> None:
        if self.agreement not in (None, *get_args(Agreement)):
            raise ConfigError(f"no agreement {self.agreement!r}: use {' or '.join(get_args(Agreement))}")
        if not isinstance(self.threshold, Real):
            raise ConfigError(f"labelling takes one number as threshold, not {self.threshold!r:.60}")
        if self.options.top_k not in (None, DetectOptions().top_k) or self.options.on_error != "raise":
            raise ConfigError(
                "labelling keeps all boxes above the threshold and records images that can't be read: leave out top_k "
                "and on_error, and limit boxes with LabelSettings(boxes_per_phrase=...)"
            )

    @property
    def threshold(self) -> float:
        """The score above which boxes are kept."""
        return DEFAULT_THRESHOLD if self.options.threshold is None else self.options.threshold  # type: ignore[return-value]

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, for the manifest; options that no earlier version had only where they are set."""
        options, default = self.options, DetectOptions()
        always = ("nms_iou", "short_side", "max_side", "batch_size")
        result = {"threshold": self.threshold, **{name: getattr(options, name) for name in always}}
        for name in ("class_agnostic", "chunk_size", "distractors"):
            if getattr(options, name) != getattr(default, name):
                result[name] = getattr(options, name)
        return result | {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"}


@dataclass
class Stopwatch:
    """Seconds that passed inside `running`: of a processor core, and by the clock."""

    cpu: float = 0.0
    wall: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure a block."""
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu += time.process_time() - cpu
            self.wall += time.perf_counter() - wall


class Teacher:
    """A detector that answers queries.

    Args:
        detector: The detector.
        settings: How it is used.
        categories: Names to look for in every image instead of the phrases of captions.

    Attributes:
        detecting: Time inside the detector.
        reading: Time for decoding images.
        prompt: The prompt of the categories; None with captions.
    """

    def __init__(self, detector: Detector, settings: TeacherSettings, categories: Sequence[str] | None = None) -> None:
        self.detector, self.settings = detector, settings
        self.detecting, self.reading = Stopwatch(), Stopwatch()
        self.names = None if categories is None else tuple(categories)
        self.prompt = self._categories = self._phrase_book = None
        options = settings.options
        if categories is not None:
            self.prompt = detection_prompt(categories)
            self._categories = detector.encode_text(
                list(categories), distractors=options.distractors, chunk_size=options.chunk_size
            )
        elif detector.backend.reads_phrases_alone:
            self._phrase_book = PhraseBook(detector.backend, detector.id)
        # chunk_size and distractors are in the encoded categories
        self._options = replace(
            options, threshold=settings.threshold, top_k=None, chunk_size=None, distractors=(), on_error="record"
        )

    def begin_shard(self) -> None:
        """Forget the phrases of other shards, so that no boxes depend on which shards were done before."""
        if self._phrase_book is not None:
            self._phrase_book.forget()

    def answer(self, queries: Sequence[Query]) -> list[Answer]:
        """Find the boxes of each query.

        An image that occurs in several queries is encoded once. A model that reads each phrase alone gets all phrases
        of an image at once, and equal ones once.

        Returns:
            An answer per query. For an image or a text that can't be used it holds the error.
        """
        try:
            return self._answer(queries) if queries else []
        except PromptError as error:
            if len(queries) == 1:
                return [Answer(None, error=f"unusable text: {error}")]
            return [answer for query in queries for answer in self.answer([query])]

    def _answer(self, queries: Sequence[Query]) -> list[Answer]:
        if self._phrase_book is not None:
            return self._answer_by_phrase(queries, self._phrase_book)
        words: dict[str, Any] = {"captions": [q.caption for q in queries], "phrases": [list(q.spans) for q in queries]}
        if self._categories is not None:
            words = {"categories": self._categories}
        results = self._detect(self._encode_shared(queries), words)
        boxes = [_phrase_boxes(result) for result in results]
        masks = self._confirm([query.content for query in queries], boxes, words)
        return [_answer(*columns) for columns in zip(results, boxes, masks, strict=True)]

    def _answer_by_phrase(self, queries: Sequence[Query], phrase_book: PhraseBook) -> list[Answer]:
        """Look for all phrases of an image at once, then give each query the boxes of its phrases."""
        phrases: dict[bytes, dict[str, int]] = {}
        for query in queries:
            indices = phrases.setdefault(query.content, {})
            for phrase in query.phrases:
                indices.setdefault(phrase, len(indices))
        with self.detecting.running():
            phrase_book.learn(phrase for indices in phrases.values() for phrase in indices)
            words = {"categories": [phrase_book.text(list(indices)) for indices in phrases.values()]}
        results = self._detect(phrases, words)
        boxes = [_phrase_boxes(result) for result in results]
        masks = self._confirm(list(phrases), boxes, words)
        by_image = dict(zip(phrases, zip(results, boxes, masks, strict=True), strict=True))
        return [
            _answer(*by_image[query.content], [phrases[query.content][phrase] for phrase in query.phrases])
            for query in queries
        ]

    def _encode_shared(self, queries: Sequence[Query]) -> list[Any]:
        """The images; those of several queries (captions of a photo, chunks of a caption) are encoded."""
        counts = Counter(query.content for query in queries)
        encoded: dict[bytes, Any] = {}
        sides = {"short_side": self.settings.options.short_side, "max_side": self.settings.options.max_side}
        for content in (content for content, count in counts.items() if count > 1):
            with suppress(ImageError):  # the detector will record it for each query
                pixels = self._read(content)
                with self.detecting.running():
                    encoded[content] = self.detector.encode(pixels, **sides)
        return [encoded.get(query.content, query.content) for query in queries]

    def _read(self, content: bytes) -> np.ndarray:
        with self.reading.running():
            return read_image(content)

    def size_of(self, content: bytes) -> Size:
        """(height, width) of an upright image that the detector does not see. Raises ImageError."""
        height, width = self._read(content).shape[:2]
        return height, width

    def _detect(self, images: Iterable[Any], words: Mapping[str, Any]) -> list[Detections]:
        """Run the detector on encoded files, pixels, or its own encoded images; what can't be read is recorded."""
        reading = Stopwatch()

        def opened() -> Iterator[Any]:
            for image in images:
                with suppress(ImageError), reading.running():  # the detector will find the error too, and record it
                    image = read_image(image) if isinstance(image, bytes) else image
                yield image

        with self.detecting.running():
            results = list(self.detector.stream(opened(), **words, options=self._options))
        for watch, sign in ((self.reading, 1), (self.detecting, -1)):
            watch.cpu += sign * reading.cpu
            watch.wall += sign * reading.wall
        return results

    def _confirm(
        self, contents: Sequence[bytes], boxes: Sequence[PhraseBoxes], words: Mapping[str, Any]
    ) -> list[np.ndarray]:
        """A mask per image of the boxes that a second view confirms; of all boxes where none is used."""
        masks = [np.ones(len(b), bool) for b in boxes]
        kind = self.settings.agreement
        rows = [i for i, b in enumerate(boxes) if len(b)]
        if kind is None or not rows:
            return masks
        images = [self._read(contents[i]) for i in rows]
        words = {k: [v[i] for i in rows] if isinstance(v, list) else v for k, v in words.items()}
        results = self._detect([_second_view(image, kind) for image in images], words)
        for i, image, result in zip(rows, images, results, strict=True):
            second = _phrase_boxes(result)
            moved_back = _move_back(second.boxes, image.shape[:2], kind)
            masks[i] = confirmed(boxes[i], PhraseBoxes(moved_back, second.scores, second.phrases))
        return masks


def _phrase_boxes(detections: Detections) -> PhraseBoxes:
    boxes, scores = detections.boxes.astype(np.float64).round(2), detections.scores.astype(np.float64).round(4)
    return PhraseBoxes(boxes, scores, np.asarray(detections.labels, np.int64))


def _answer(
    detections: Detections, boxes: PhraseBoxes, mask: np.ndarray, phrases: Sequence[int] | None = None
) -> Answer:
    """The answer to one query.

    Args:
        detections: The result for the image.
        boxes: Its boxes.
        mask: Which of them are confirmed.
        phrases: Which of the image's phrases the query has, in its order; None: all.
    """
    if detections.error is not None:
        return Answer(None, error=f"unreadable picture: {detections.error}")
    rows, labels = np.arange(len(boxes)), boxes.phrases
    if phrases is not None:
        rows_of = [np.flatnonzero(labels == phrase) for phrase in phrases]
        rows = np.concatenate([rows[:0], *rows_of])
        labels = np.repeat(np.arange(len(rows_of)), [len(r) for r in rows_of])
        best_first = np.argsort(-boxes.scores[rows], kind="stable")
        rows, labels = rows[best_first], labels[best_first]
    mask = mask[rows]
    remaining = PhraseBoxes(boxes.boxes[rows][mask], boxes.scores[rows][mask], labels[mask])
    return Answer(detections.image_size, remaining, unconfirmed=int((~mask).sum()))


def build_detector(model: Model, weights: StrPath | None, device: str, precision: Precision) -> Detector:
    """The detector of a model's name or checkpoint, what a function returns, or a detector as it is."""
    if isinstance(model, (str, PathLike)):
        return load(model, weights, device=device, precision=precision)
    return model() if callable(model) else model


def _second_view(image: np.ndarray, kind: Agreement) -> np.ndarray:
    if kind == "flip":
        return image[:, ::-1].copy()
    down, right = _shift(image.shape[:2])
    return np.pad(image, ((down, 0), (right, 0), (0, 0)), mode="edge")


def _move_back(boxes: np.ndarray, size: tuple[int, ...], kind: Agreement) -> np.ndarray:
    """Boxes of the second view in pixels of the original image, whose (height, width) is `size`."""
    if kind == "flip":
        return np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    down, right = _shift(size)
    return boxes - np.array([right, down, right, down], np.float32)


def _shift(size: tuple[int, ...]) -> tuple[int, int]:
    return round(size[0] * SHIFT), round(size[1] * SHIFT)
