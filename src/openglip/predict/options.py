"""The options of a detection: one record that Python, the command line, evaluation and labelling share."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast

from openglip.errors import ConfigError, PromptError

if TYPE_CHECKING:
    import numpy as np

OnError = Literal["raise", "record"]
Threshold: TypeAlias = "float | Sequence[float] | Mapping[str, float] | None"


class DetectArguments(TypedDict, total=False):
    """The keyword arguments of `Detector.detect`, `ground` and `stream`; `DetectOptions` explains them."""

    threshold: Threshold
    top_k: int | None
    nms_iou: float
    class_agnostic: bool
    short_side: int | None
    max_side: int | None
    batch_size: int | None
    chunk_size: int | None
    distractors: Sequence[str]
    on_error: OnError


@dataclass(frozen=True)
class DetectOptions:
    """What to do with images and words. A new option is a new field here and in `DetectArguments`.

    `chunk_size` and `distractors` have an effect on `detect` only.

    Attributes:
        threshold: Only boxes with a score above it are returned. None: the model's own default. A number for all
            categories, a list with one per category, or a mapping from category to number (others get the default).
            0: exactly the official set of boxes.
        top_k: Boxes per image after all prompts; boxes that tie with the last one are returned too. None: no limit.
        nms_iou: Overlap (IoU) above which the lower of two boxes of one category is suppressed.
        class_agnostic: Whether boxes of different categories suppress each other too.
        short_side: Length of the short side of the resized image, in pixels. None: the model's own.
        max_side: Limit of the long side of the resized image, in pixels. None: the model's own.
        batch_size: Images to run together. None: as many as suit the device.
        chunk_size: Names per prompt. None: as many as fit, evenly spread.
        distractors: Words that take part in the prompt and are left out of the result.
        on_error: "raise" an `ImageError` for an image that can't be read, or "record" it: that image's `Detections`
            are empty and have `error` set.

    Raises:
        ConfigError: A value is out of range.
    """

    threshold: Threshold = None
    top_k: int | None = 100
    nms_iou: float = 0.6
    class_agnostic: bool = False
    short_side: int | None = None
    max_side: int | None = None
    batch_size: int | None = None
    chunk_size: int | None = None
    distractors: Sequence[str] = ()
    on_error: OnError = "raise"

    def __post_init__(self) -> None:
        for name in ("top_k", "batch_size", "chunk_size", "short_side", "max_side"):
            check_count(name, getattr(self, name))
        if not (isinstance(self.nms_iou, Real) and 0 <= self.nms_iou <= 1):
            raise ConfigError(f"nms_iou is {self.nms_iou!r}; it must be a number from 0 to 1")
        if self.on_error not in ("raise", "record"):
            raise ConfigError(f"on_error is {self.on_error!r}; it must be 'raise' or 'record'")
        _check_threshold(self.threshold)
        if isinstance(self.distractors, (str, bytes)):
            raise PromptError(f"distractors must be a list, not {self.distractors!r:.60}")

    def with_arguments(self, arguments: DetectArguments) -> DetectOptions:
        """These options with some of them replaced.

        Raises:
            TypeError: There is no such option.
        """
        names = [field.name for field in fields(self)]
        for name in arguments:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
                raise TypeError(f"there is no option {name!r}{hint}")
        return replace(self, **arguments)

    def thresholds(self, vocabulary: Sequence[str], default: float) -> np.ndarray:
        """The threshold of each entry of a vocabulary, float32.

        Args:
            vocabulary: Names or phrases.
            default: The threshold of the model.

        Raises:
            ConfigError: The count or the names of the thresholds do not fit the vocabulary.
        """
        import numpy as np  # late, because the command line lists its options without numpy

        threshold = self.threshold
        if isinstance(threshold, Mapping):
            unknown = [name for name in threshold if name not in vocabulary]
            if unknown:
                raise ConfigError(f"threshold names {unknown[0]!r}, which is not among the categories")
            values = [threshold.get(name, default) for name in vocabulary]
        elif threshold is None or np.ndim(threshold) == 0:
            values = [default if threshold is None else threshold] * len(vocabulary)
        else:
            values = list(cast("Sequence[float]", threshold))
            if len(values) != len(vocabulary):
                raise ConfigError(f"{len(values)} thresholds for {len(vocabulary)} categories: give one per category")
        return np.array([float(value) for value in values], np.float32)  # type: ignore[arg-type]


def _check_threshold(threshold: Threshold) -> None:
    """Raise ConfigError for a threshold that is not a number, of any library, from 0 to 1."""
    if threshold is None:
        return
    import numpy as np

    single = not isinstance(threshold, Mapping) and np.ndim(threshold) == 0
    values: Any = threshold.values() if isinstance(threshold, Mapping) else [threshold] if single else threshold
    try:
        if any(isinstance(value, (bool, str)) for value in values):
            raise TypeError
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a threshold must be a number from 0 to 1: {threshold!r}") from error
    if not all(0 <= number <= 1 for number in numbers):
        raise ConfigError(f"a threshold must lie within 0 and 1: {threshold!r}")


def check_count(name: str, value: object) -> None:
    """Raise ConfigError unless the value is None or a whole number of at least 1."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):  # type: ignore[operator]
        raise ConfigError(f"{name} is {value!r}; it must be a whole number, at least 1, or None")
