"""Captions with pseudo boxes, as the TSV of the official code (`readers.tsv` says what a yaml names).

A label row is key and

    {"img_h", "img_w", "caption", "bboxes", "scores", "tokens_positive", "img_id"?}

v1: one entry per box: bboxes[i] xyxy, scores[i], tokens_positive[i] a list of [begin, end] characters of the caption.
v2: one entry per phrase: bboxes[p][k], scores[p][k], tokens_positive[p]; each box gets all spans of its phrase.
Source: GLIP_SPEC 8.4.7.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from openglip.data.findings import Findings
from openglip.data.readers.annotations import listed, numbers, record, size_of, usable_boxes, usable_spans
from openglip.data.readers.tsv import TsvSet, read_tsv_set
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample


def read_caption_tsv(
    path: StrPath, *, min_score: float = 0.0, source: str = "captions", findings: Findings | None = None
) -> CaptionTsv:
    """A caption TSV set by its yaml. min_score: boxes must score above it (0.5 in the official large recipe)."""
    return CaptionTsv(read_tsv_set(path), min_score, source, findings)


class CaptionTsv(Sequence[Sample]):
    """Samples of a caption TSV, made one by one. Some may have no box left; training passes over them."""

    def __init__(self, files: TsvSet, min_score: float, source: str, findings: Findings | None = None) -> None:
        self.files, self.min_score, self.source = files, min_score, source
        self.findings = findings if findings is not None else Findings(keep=False)
        self.sizes = None if files.sizes is None else files.sizes[files.rows]

    def __len__(self) -> int:
        return len(self.files.rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = int(self.files.rows[index])
        place = f"{self.files.labels.path}, line {row}"
        keys = ("img_h", "img_w", "caption", "bboxes", "scores", "tokens_positive")
        label = flat(record(self.files.labels.parsed(row), keys, place, "the label"), place)
        size, caption = size_of(label["img_h"], label["img_w"]), str(label["caption"])
        if size is None:
            raise DataError(f"{place}: img_h and img_w are {label['img_h']!r} and {label['img_w']!r}")
        boxes, spans, scores = self._phrases(label, caption, size, place, row)
        return Sample(
            image=self.files.images.line(self._image_row(label, row)),
            size=size,
            boxes=boxes,
            caption=caption,
            phrase_spans=spans,
            scores=scores,
            image_id=self.files.labels.key(row),
            source=self.source,
        )

    def _image_row(self, label: dict[str, Any], row: int) -> int:
        rows = self.files.row_of_id
        if rows is None:
            return row
        own = str(label.get("img_id"))
        if own not in rows:
            raise DataError(f"{self.files.labels.path}, line {row}: img_id {own!r} is not in imageid2idx")
        return rows[own]

    def _phrases(
        self, label: dict[str, Any], caption: str, size: tuple[int, int], place: str, row: int
    ) -> tuple[np.ndarray, tuple[tuple[tuple[int, int], ...], ...], np.ndarray]:
        corners, spans, scores = [], [], []
        for bbox, score, item in zip(label["bboxes"], label["scores"], label["tokens_positive"], strict=True):
            box, known = numbers(bbox, 4), numbers([score], 1)
            if box is None or known is None:
                self.findings.add("malformed", place, row, f"no bbox and score: {bbox!r:.60}, {score!r:.20}")
                continue
            if known[0] <= self.min_score:
                continue
            own = usable_spans(item, caption, self.findings, place, row)
            if not own:
                self.findings.add("box_without_phrase", place, row, "no span is left")
                continue
            corners.append(box)
            spans.append(tuple(own))
            scores.append(known[0])
        boxes, kept = usable_boxes(corners, size, self.findings, place, row)
        return boxes, tuple(spans[i] for i in kept), np.array(scores, np.float32)[kept]


def flat(label: dict[str, Any], place: object) -> dict[str, Any]:
    """A label in the v1 form; v2 is flattened, v1 is checked for equal lengths. Raises DataError."""
    boxes, scores, spans = (listed(label[key], place, key) for key in ("bboxes", "scores", "tokens_positive"))
    if not len(boxes) == len(scores) == len(spans):
        raise DataError(f"{place}: {len(boxes)} bboxes, {len(scores)} scores, {len(spans)} tokens_positive")
    if not any(isinstance(score, list) for score in scores):
        return label
    pairs = zip(boxes, scores, strict=True)
    if any(len(listed(b, place, "bboxes")) != len(listed(s, place, "scores")) for b, s in pairs):
        raise DataError(f"{place}: a phrase has not as many scores as bboxes")
    return {
        **label,
        "bboxes": [box for phrase in boxes for box in phrase],
        "scores": [score for phrase in scores for score in phrase],
        "tokens_positive": [own for phrase, own in zip(boxes, spans, strict=True) for _ in phrase],
    }
