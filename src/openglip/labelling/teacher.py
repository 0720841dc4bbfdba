"""A detector as a teacher: pictures with phrases in, scored regions with the caption's own spans out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from openglip.errors import ConfigError, ImageError, PromptError
from openglip.images.read import read_image
from openglip.labelling.filters import NO_REGIONS, Regions, Span, agreeing
from openglip.prompts.text import detection_prompt

if TYPE_CHECKING:
    from openglip.predict.detector import Detector
    from openglip.structures.detections import Detections

Agreement = Literal["flip", "jitter"]
_SHIFT = 0.06  # of the sides: how far a jittered picture is moved

Model: TypeAlias = "str | Callable[[], Detector]"


@dataclass(frozen=True)
class Task:
    """A picture (encoded bytes) and, without categories, a text with the spans to look for."""

    content: bytes
    caption: str = ""
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Answer:
    """size: (height, width) of the upright picture, or None with the error. regions: their phrases are places in the
    task's spans, or in the categories. disagreed: how many boxes a second view did not confirm."""

    size: tuple[int, int] | None
    regions: Regions = NO_REGIONS
    error: str | None = None
    disagreed: int = 0


@dataclass(frozen=True)
class TeacherSettings:
    """What of a detector's call changes its boxes. threads: torch's own per worker, which changes sums' last bits."""

    threshold: float = 0.1
    nms_iou: float = 0.6
    short_side: int | None = None
    max_side: int | None = None
    batch_size: int | None = None
    precision: str = "fp32"
    device: str = "auto"
    threads: int = 1
    agreement: Agreement | None = None

    def __post_init__(self) -> None:
        if self.agreement not in (None, *get_args(Agreement)):
            raise ConfigError(f"no agreement {self.agreement!r}: use {' or '.join(get_args(Agreement))}")


@dataclass
class Clock:
    """Seconds of a processor's core and of the wall that passed inside `running`."""

    cpu: float = 0.0
    wall: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu += time.process_time() - cpu
            self.wall += time.perf_counter() - wall


class Teacher:
    """Wraps a detector. categories: names to look for in every picture instead of phrases of captions.

    `detecting` is the time inside the detector, `reading` that for the pictures' pixels.
    """

    def __init__(self, detector: Any, settings: TeacherSettings, categories: Sequence[str] | None = None) -> None:
        from openglip.predict.phrase_book import PhraseBook

        self.detector, self.settings = detector, settings
        self.detecting, self.reading = Clock(), Clock()
        self.names = None if categories is None else tuple(categories)
        self.prompt = None if categories is None else detection_prompt(categories)
        self._categories = None if categories is None else detector.encode_text(list(categories))
        alone = categories is None and detector.backend.reads_phrases_alone
        self._book = PhraseBook(detector.backend, detector.id) if alone else None

    def begin_shard(self) -> None:
        """Forget phrases of other shards, so that no shard's boxes depend on which were done before."""
        if self._book is not None:
            self._book.forget()

    def answer(self, tasks: Sequence[Task]) -> list[Answer]:
        """Regions for each task. A picture that can't be read is an answer with an error, as is an unusable text.

        A picture of several tasks is encoded once; a model that reads phrases one by one is asked for all of them at
        once, and for equal ones once.
        """
        try:
            return self._answer(tasks) if tasks else []
        except PromptError as error:
            if len(tasks) == 1:
                return [Answer(None, error=f"unusable text: {error}")]
            return [answer for task in tasks for answer in self.answer([task])]

    def _answer(self, tasks: Sequence[Task]) -> list[Answer]:
        if self._book is None:
            words = self._words(tasks)
            found = self._detect(self._encoded_once(tasks), words)
            boxes = [_regions(d) for d in found]
            agreed = self._agreed([t.content for t in tasks], boxes, words)
            return [_answer_of(d, b, a) for d, b, a in zip(found, boxes, agreed, strict=True)]
        phrases: dict[bytes, dict[str, int]] = {}
        for task in tasks:
            own = phrases.setdefault(task.content, {})
            for words in _phrases_of(task):
                own.setdefault(words, len(own))
        with self.detecting.running():
            self._book.learn(phrase for own in phrases.values() for phrase in own)
            texts = {"categories": [self._book.text(list(own)) for own in phrases.values()]}
        found = self._detect(phrases, texts)
        boxes = [_regions(d) for d in found]
        agreed = self._agreed(list(phrases), boxes, texts)
        by_picture = dict(zip(phrases, zip(found, boxes, agreed, strict=True), strict=True))
        return [
            _answer_of(*by_picture[t.content], [phrases[t.content][words] for words in _phrases_of(t)]) for t in tasks
        ]

    def _words(self, tasks: Sequence[Task]) -> dict[str, Any]:
        if self._categories is not None:
            return {"categories": self._categories}
        return {"captions": [t.caption for t in tasks], "phrases": [list(t.spans) for t in tasks]}

    def _encoded_once(self, tasks: Sequence[Task]) -> list[Any]:
        """The pictures; one that stands there several times (captions of a photo, parts of a caption) is encoded."""
        times = Counter(task.content for task in tasks)
        shared: dict[bytes, Any] = {}
        for content in (c for c, n in times.items() if n > 1):
            with suppress(ImageError):  # the detector will say so for each of its tasks
                pixels = self._pixels(content)
                with self.detecting.running():
                    shared[content] = self.detector.encode(
                        pixels, short_side=self.settings.short_side, max_side=self.settings.max_side
                    )
        return [shared.get(task.content, task.content) for task in tasks]

    def _pixels(self, content: bytes) -> np.ndarray:
        with self.reading.running():
            return read_image(content)

    def size_of(self, content: bytes) -> tuple[int, int]:
        """(height, width) of an upright picture that is not shown to the detector. Raises ImageError."""
        return self._pixels(content).shape[:2]

    def _detect(self, images: Iterable[Any], words: dict[str, Any]) -> list[Detections]:
        """images: encoded bytes, pixels, or what the detector encoded. One that can't be read is a detection too."""
        reading = Clock()

        def opened() -> Iterator[Any]:
            for image in images:
                try:
                    with reading.running():
                        image = read_image(image) if isinstance(image, bytes) else image
                except ImageError:
                    pass  # the detector will find out, and record it
                yield image

        with self.detecting.running():
            found = list(
                self.detector.stream(
                    opened(),
                    **words,
                    threshold=self.settings.threshold,
                    top_k=None,
                    nms_iou=self.settings.nms_iou,
                    short_side=self.settings.short_side,
                    max_side=self.settings.max_side,
                    batch_size=self.settings.batch_size,
                    on_error="record",
                )
            )
        for clock, sign in ((self.reading, 1), (self.detecting, -1)):
            clock.cpu += sign * reading.cpu
            clock.wall += sign * reading.wall
        return found

    def _agreed(self, contents: Sequence[bytes], boxes: Sequence[Regions], words: dict[str, Any]) -> list[np.ndarray]:
        """Per picture which of its boxes a second view confirms; all of them where none is asked for."""
        agreed = [np.ones(len(b), bool) for b in boxes]
        kind = self.settings.agreement
        usable = [i for i, b in enumerate(boxes) if len(b)]
        if kind is None or not usable:
            return agreed
        pixels = [self._pixels(contents[i]) for i in usable]
        own = {k: v if k == "categories" and self._book is None else [v[i] for i in usable] for k, v in words.items()}
        seen = self._detect([_second_view(p, kind) for p in pixels], own)
        for i, image, again in zip(usable, pixels, seen, strict=True):
            second = _regions(again)
            agreed[i] = agreeing(
                boxes[i], Regions(_back(second.boxes, image.shape[:2], kind), second.scores, second.phrases)
            )
        return agreed


def _phrases_of(task: Task) -> list[str]:
    """In small letters, as the text encoders read them: "A dog" is "a dog"."""
    return [task.caption[b:e].lower() for b, e in task.spans]


def _regions(found: Detections) -> Regions:
    boxes, scores = found.boxes.astype(np.float64).round(2), found.scores.astype(np.float64).round(4)
    return Regions(boxes, scores, np.asarray(found.labels, np.int64))


def _answer_of(found: Detections, regions: Regions, agreed: np.ndarray, wanted: Sequence[int] | None = None) -> Answer:
    """wanted: which of the picture's phrases the task asked for, in its order; None: all."""
    if found.error is not None:
        return Answer(None, error=f"unreadable picture: {found.error}")
    rows = np.arange(len(regions))
    phrases = regions.phrases
    if wanted is not None:
        each = [np.flatnonzero(phrases == w) for w in wanted]
        rows = np.concatenate([rows[:0], *each])
        phrases = np.repeat(np.arange(len(each)), [len(r) for r in each])
        best = np.argsort(-regions.scores[rows], kind="stable")
        rows, phrases = rows[best], phrases[best]
    kept = agreed[rows]
    own = Regions(regions.boxes[rows][kept], regions.scores[rows][kept], phrases[kept])
    return Answer(found.image_size, own, disagreed=int((~kept).sum()))


def build_detector(model: Model, weights: str | None, device: str, precision: str) -> Any:
    """The detector of a model's name or checkpoint, or what a function returns."""
    if callable(model):
        return model()
    from openglip.predict.detector import load

    return load(model, weights, device=device, precision=precision)  # type: ignore[arg-type]


def _second_view(image: np.ndarray, kind: Agreement) -> np.ndarray:
    if kind == "flip":
        return image[:, ::-1].copy()
    down, right = _shift(image.shape[:2])
    return np.pad(image, ((down, 0), (right, 0), (0, 0)), mode="edge")


def _back(boxes: np.ndarray, size: tuple[int, ...], kind: Agreement) -> np.ndarray:
    """Boxes of the second view in the pixels of the picture of this size."""
    if kind == "flip":
        return np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    down, right = _shift(size)
    return boxes - np.array([right, down, right, down], np.float32)


def _shift(size: tuple[int, ...]) -> tuple[int, int]:
    return round(size[0] * _SHIFT), round(size[1] * _SHIFT)
