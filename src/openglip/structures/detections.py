"""`Detections`: the boxes, scores and names of one image."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast, overload

import numpy as np
from PIL import Image

from openglip.errors import DataError, ImageError, MissingExtraError
from openglip.files import StrPath, whole_file
from openglip.images.read import ImageSource, read_image
from openglip.structures.draw import draw
from openglip.structures.sample import Spans

if TYPE_CHECKING:
    import supervision  # pyright: ignore[reportMissingImports]  an extra


_ARRAYS = {"boxes": np.float32, "scores": np.float32, "labels": np.int64}


class Detection(NamedTuple):
    """One box of a `Detections`.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the upright image.
        score: From 0 to 1.
        label: Index into the vocabulary.
        name: The caller's string.
    """

    box: np.ndarray
    score: float
    label: int
    name: str


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """Boxes, scores and names of one image; immutable.

    Attributes:
        boxes: N x 4 float32, xyxy in pixels of the upright original image; widths are x2 - x1.
        scores: N float32 in descending order.
        labels: N int64, index into `vocabulary`.
        vocabulary: The caller's categories or phrases.
        image_size: (height, width); None if the image could not be read.
        caption: The caption, after `ground`.
        phrase_spans: The character ranges of each phrase of the vocabulary in `caption`, after `ground`.
        source: The image's path, if it has one.
        error: Why there are no detections, if the image could not be read.

    Raises:
        DataError: The fields do not fit together.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    vocabulary: tuple[str, ...]
    image_size: tuple[int, int] | None
    caption: str | None = None
    phrase_spans: tuple[Spans, ...] | None = None
    source: str | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        for name, dtype in _ARRAYS.items():
            values = np.array(getattr(self, name), dtype)
            if name == "boxes" and values.size == 0:
                values = values.reshape(-1, 4)
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
        if self.image_size is not None:
            object.__setattr__(self, "image_size", (int(self.image_size[0]), int(self.image_size[1])))
        if self.phrase_spans is not None:
            spans = tuple(tuple((int(b), int(e)) for b, e in phrase) for phrase in self.phrase_spans)
            object.__setattr__(self, "phrase_spans", spans)
        self._check()

    def _check(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,) or self.labels.shape != (count,):
            shapes = f"{self.boxes.shape}, {self.scores.shape}, {self.labels.shape}"
            raise DataError(f"boxes, scores and labels must be N x 4, N and N, not {shapes}")
        if not (np.isfinite(self.boxes).all() and np.isfinite(self.scores).all()):
            raise DataError("boxes and scores must be finite")
        if (np.diff(self.scores) > 0).any():
            raise DataError("scores must be in descending order: sort boxes, scores and labels by score")
        if count and not (self.labels.min() >= 0 and self.labels.max() < len(self.vocabulary)):
            raise DataError(f"labels must be in 0..{len(self.vocabulary) - 1}, the indices of the vocabulary")
        if self.phrase_spans is not None and len(self.phrase_spans) != len(self.vocabulary):
            raise DataError(f"{len(self.phrase_spans)} phrase spans for {len(self.vocabulary)} phrases")

    @property
    def names(self) -> tuple[str, ...]:
        """The caller's string of each detection."""
        labels: list[int] = self.labels.tolist()
        return tuple(self.vocabulary[label] for label in labels)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray | Sequence[bool]) -> Detections: ...
    def __getitem__(self, index: int | slice | np.ndarray | Sequence[bool]) -> Detection | Detections:
        """One `Detection` for an integer; a `Detections` of some boxes for a slice, indices or a boolean mask."""
        if isinstance(index, (int, np.integer)):
            label = int(self.labels[index])
            return Detection(self.boxes[index], float(self.scores[index]), label, self.vocabulary[label])
        rows = index if isinstance(index, slice) else np.asarray(index)
        if isinstance(rows, np.ndarray) and rows.size == 0:
            rows = rows.astype(np.int64)
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        same_arrays = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _ARRAYS)
        rest = [f.name for f in fields(self) if f.name not in _ARRAYS]
        return same_arrays and all(getattr(self, name) == getattr(other, name) for name in rest)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type[Detections], tuple[Any, ...]]:  # an unpickled array would be writable
        return Detections, tuple(getattr(self, f.name) for f in fields(self))

    def __repr__(self) -> str:
        where = f" in {self.source}" if self.source else ""
        if self.error is not None:
            return f"Detections(error{where}: {self.error})"
        shown = ", ".join(f"{d.name} {d.score:.2f}" for d in self[:5])
        more = ", ..." if len(self) > 5 else ""
        return f"Detections({len(self)}{where}{': ' if shown else ''}{shown}{more})"

    def filter(
        self,
        *,
        threshold: float | Mapping[str, float] | None = None,
        names: str | Sequence[str] | None = None,
        min_side: float = 0,
        top_k: int | None = None,
    ) -> Detections:
        """The detections that fulfil every given condition.

        Args:
            threshold: Least score: one number, or one per name; names without a number pass.
            names: The names to keep, or one.
            min_side: Least width and height, in pixels.
            top_k: Number of detections to keep, the best of those that fulfil the other conditions.

        Raises:
            DataError: A name is not in the vocabulary, or `top_k` is negative.
        """
        if top_k is not None and top_k < 0:
            raise DataError(f"top_k is {top_k}; it must be at least 0, or None for no cap")
        names = [names] if isinstance(names, str) else names
        for name in (*(names or ()), *(threshold if isinstance(threshold, Mapping) else ())):
            if name not in self.vocabulary:
                raise DataError(f"{name!r} is not in the vocabulary: {', '.join(self.vocabulary)}")
        mask = np.all(self.boxes[:, 2:] - self.boxes[:, :2] >= min_side, axis=1)
        if isinstance(threshold, Mapping):
            mask &= self.scores >= np.array([threshold.get(n, -np.inf) for n in self.names])
        elif threshold is not None:
            mask &= self.scores >= np.float32(threshold)
        if names is not None:
            mask &= np.array([n in set(names) for n in self.names], bool)
        return self[np.asarray(mask)][:top_k]

    def to_coco(self, image_id: int = 0, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """The detections as COCO results: image_id, category_id, bbox (x, y, width, height), score.

        Args:
            image_id: Id of the image.
            category_ids: Id of each entry of the vocabulary. None: its index counted from 1.

        Raises:
            DataError: There are more or fewer ids than entries.
        """
        if category_ids is not None and len(category_ids) != len(self.vocabulary):
            raise DataError(f"{len(category_ids)} category ids for {len(self.vocabulary)} categories")
        ids = range(1, len(self.vocabulary) + 1) if category_ids is None else category_ids
        rows: list[dict[str, Any]] = []
        for (x1, y1, x2, y2), score, label in zip(self.boxes.tolist(), self.scores, self.labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"image_id": image_id, "category_id": ids[label], "bbox": box, "score": float(score)})
        return rows

    def to_supervision(self) -> supervision.Detections:  # pyright: ignore[reportUnknownMemberType, reportUnknownParameterType]
        """The detections as `supervision.Detections`, with the names in `data["class_name"]`.

        Raises:
            MissingExtraError: The extra `supervision` is not installed.
        """
        try:
            import supervision  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingExtraError("supervision", "supervision", "to_supervision()") from error
        return supervision.Detections(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def to_json(self) -> str:
        """One line of JSON, from which `from_json` restores the same values bit for bit."""
        height, width = self.image_size or (None, None)
        rows = [
            {"box": [_shortest(x) for x in box], "score": _shortest(score), "label": int(label), "name": name}
            for box, score, label, name in zip(self.boxes, self.scores, self.labels, self.names, strict=True)
        ]
        line = {
            "image": self.source,
            "width": width,
            "height": height,
            "vocabulary": self.vocabulary,
            "caption": self.caption,
            "phrase_spans": self.phrase_spans,
            "detections": rows,
            "error": self.error,
        }
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        # A file's name that is no valid text holds lone surrogates, which json can escape but no file can hold.
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    @classmethod
    def from_json(cls, line: str) -> Detections:
        """Read a line of `to_json`.

        Raises:
            DataError: It is no such line.
        """
        try:
            row = json.loads(line)
            detections = row["detections"]
            return cls(
                boxes=np.array([d["box"] for d in detections], np.float32),
                scores=np.array([d["score"] for d in detections], np.float32),
                labels=np.array([d["label"] for d in detections], np.int64),
                vocabulary=tuple(row["vocabulary"]),
                image_size=None if row["height"] is None else (row["height"], row["width"]),
                caption=row["caption"],
                phrase_spans=row["phrase_spans"],
                source=row["image"],
                error=row["error"],
            )
        except DataError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"not a line of detections ({type(error).__name__}: {error}): {line[:80]!r}") from error

    def plot(self, image: ImageSource | None = None) -> Image.Image:
        """Draw the boxes and names on the image, and the caption below it after `ground`.

        Args:
            image: The same image in any form that `detect` takes. None: `source` is opened again.

        Returns:
            The drawing, upright RGB. Small images are enlarged, so that the names can be read.

        Raises:
            ImageError: There is no image to draw on, or it has another size than the one of these detections.
        """
        if image is None and self.source is None:
            raise ImageError("these detections do not know their image's path: plot(image)")
        try:
            pixels = read_image(cast("ImageSource", self.source if image is None else image))
        except ImageError as error:
            if image is None:
                raise type(error)(f"{error}; give the image's pixels: plot(image)") from error
            raise
        if self.image_size not in (None, pixels.shape[:2]):
            height, width = pixels.shape[:2]
            raise ImageError(f"the image is {height} x {width}, these detections are of {self.image_size}")
        return draw(
            pixels,
            self.boxes,
            self.labels,
            self.vocabulary,
            self.scores,
            caption=self.caption,
            phrase_spans=self.phrase_spans,
        )

    def save(self, path: StrPath, image: ImageSource | None = None) -> None:
        """Write `plot(image)` to a file, whole or not at all.

        Args:
            path: The file to write; its ending names the format, for instance .jpg or .png.
            image: As for `plot`.

        Raises:
            ImageError: As `plot`, or the ending names no image format.
        """
        drawing = self.plot(image)
        format = Image.registered_extensions().get(Path(path).suffix.lower())
        if format not in Image.SAVE:
            raise ImageError(f"{path}: the ending names no image format; use .jpg or .png")
        encoded = io.BytesIO()  # Pillow itself does not notice when the disk is full
        drawing.save(encoded, format, quality=92)
        with whole_file(path, "wb") as file:
            file.write(encoded.getbuffer())

    def _repr_png_(self) -> bytes | None:
        try:
            drawing = self.plot()
        except (ImageError, OSError):
            return None  # notebooks then show the text
        drawing.thumbnail((1200, 1200))
        file = io.BytesIO()
        drawing.save(file, "PNG")
        return file.getvalue()


def _shortest(value: np.float32) -> float:
    return float(str(value))  # the shortest digits from which the same float32 is read
