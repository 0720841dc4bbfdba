"""A detector as a teacher: pictures with phrases in, scored regions with the caption's own spans out."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from openglip.errors import ConfigError, ImageError, PromptError
from openglip.images.read import read_image
from openglip.labelling.filters import Region, agreeing
from openglip.prompts.text import Spans, detection_prompt

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
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Answer:
    """size: (height, width) of the upright picture, or None with the error. regions: best first."""

    size: tuple[int, int] | None
    regions: tuple[Region, ...] = ()
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


class Teacher:
    """Wraps a detector. categories: names to look for in every picture instead of phrases of captions."""

    def __init__(self, detector: Any, settings: TeacherSettings, categories: Sequence[str] | None = None) -> None:
        self.detector, self.settings = detector, settings
        self.seconds = self.cpu_seconds = 0.0
        self.prompt = None if categories is None else detection_prompt(categories)
        self._categories = None if categories is None else detector.encode_text(list(categories))

    def answer(self, tasks: Sequence[Task]) -> list[Answer]:
        """Regions for each task. A picture that can't be read is an answer with an error, as is an unusable text."""
        begin, cpu_begin = time.perf_counter(), time.process_time()
        try:
            answers = self._answer(tasks) if tasks else []
        except PromptError as error:
            if len(tasks) == 1:
                return [Answer(None, error=f"unusable text: {error}")]
            return [answer for task in tasks for answer in self.answer([task])]
        finally:
            self.seconds += time.perf_counter() - begin
            self.cpu_seconds += time.process_time() - cpu_begin
        return answers

    def _answer(self, tasks: Sequence[Task]) -> list[Answer]:
        found = list(self._detect(self._encoded_once(tasks), tasks))
        answers = [self._regions(d, task) for d, task in zip(found, tasks, strict=True)]
        if self.settings.agreement is None:
            return answers
        usable = [i for i, answer in enumerate(answers) if answer.regions]
        pixels = [read_image(tasks[i].content) for i in usable]
        seen = list(
            self._detect([_second_view(p, self.settings.agreement) for p in pixels], [tasks[i] for i in usable])
        )
        for i, image, again in zip(usable, pixels, seen, strict=True):
            boxes = _back(again.boxes, image.shape[:2], self.settings.agreement)
            second = self._regions(again, tasks[i], boxes).regions
            kept = agreeing(answers[i].regions, second)
            answers[i] = Answer(answers[i].size, tuple(kept), disagreed=len(answers[i].regions) - len(kept))
        return answers

    def _encoded_once(self, tasks: Sequence[Task]) -> list[Any]:
        """The pictures; one that stands there several times (captions of a photo, parts of a caption) is encoded."""
        times = Counter(task.content for task in tasks)
        shared: dict[bytes, Any] = {}
        for content in (c for c, n in times.items() if n > 1):
            with suppress(ImageError):  # the detector will say so for each of its tasks
                shared[content] = self.detector.encode(
                    content, short_side=self.settings.short_side, max_side=self.settings.max_side
                )
        return [shared.get(task.content, task.content) for task in tasks]

    def _detect(self, images: Sequence[Any], tasks: Sequence[Task]) -> Iterator[Detections]:
        if self._categories is not None:
            words: dict[str, Any] = {"categories": self._categories}
        else:
            words = {"captions": [t.caption for t in tasks], "phrases": [list(t.spans) for t in tasks]}
        return self.detector.stream(
            iter(images),
            **words,
            threshold=self.settings.threshold,
            top_k=None,
            nms_iou=self.settings.nms_iou,
            short_side=self.settings.short_side,
            max_side=self.settings.max_side,
            batch_size=self.settings.batch_size,
            on_error="record",
        )

    def _regions(self, found: Detections, task: Task, boxes: np.ndarray | None = None) -> Answer:
        if found.error is not None:
            return Answer(None, error=f"unreadable picture: {found.error}")
        spans: tuple[Spans, ...] = self.prompt.spans if self.prompt is not None else tuple((s,) for s in task.spans)
        corners = (found.boxes if boxes is None else boxes).astype(np.float64).round(2).tolist()
        regions = tuple(
            Region(tuple(box), round(float(score), 4), label, found.vocabulary[label], spans[label])
            for box, score, label in zip(corners, found.scores, found.labels.tolist(), strict=True)
        )
        return Answer(found.image_size, regions)


def size_of(content: bytes) -> tuple[int, int]:
    """(height, width) of an upright picture that is not shown to the teacher. Raises ImageError."""
    pixels = read_image(content)
    return pixels.shape[0], pixels.shape[1]


def weights_sha256(model: Any) -> str:
    """A digest of a model's parameters and buffers, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


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
