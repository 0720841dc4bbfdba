"""Captions with pseudo boxes, as the TSV of the official code (`data/tsv.py` explains its YAML).

A label row is key and

    {"img_h", "img_w", "caption", "bboxes", "scores", "tokens_positive", "img_id"?}

v1: one entry per box: bboxes[i] xyxy, scores[i], tokens_positive[i] a list of [begin, end] characters of the caption.
v2: one entry per phrase: bboxes[p][k], scores[p][k], tokens_positive[p]; each box gets all spans of its phrase.
Source: docs/spec.md 8.4.7.
"""

from __future__ import annotations

from typing import Any

from openglip.data.annotations import Boxes, listed, numbers, record, size_of, usable_spans
from openglip.data.findings import Findings
from openglip.data.format import Candidate, Format
from openglip.data.tsv import TsvSamples, first_label, is_tsv_set
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample

_KEYS = ("img_h", "img_w", "caption", "bboxes", "scores", "tokens_positive")


class CaptionTsv(TsvSamples):
    """Samples of a caption TSV by its YAML, each made when it is read.

    Some may have no box left; training passes over them.

    Args:
        path: The YAML file.
        findings: Collects what is left out; None logs it.
        min_score: Boxes must score above it (0.5 in the official large recipe).
        source: Name given to the samples.

    Raises:
        DataError: A file is missing.
    """

    def __init__(
        self, path: StrPath, findings: Findings | None = None, *, min_score: float = 0.0, source: str = "captions"
    ) -> None:
        super().__init__(path, findings, source)
        self.min_score = min_score

    def sample(self, index: int, row: int) -> Sample:
        """The sample whose label is on line `row`. Raises DataError when it can't be read."""
        where = f"{self.files.labels.path}, line {row}"
        label = flat(record(self.files.labels.parsed(row), _KEYS, where, "the label"), where)
        size, caption = size_of(label["img_h"], label["img_w"]), str(label["caption"])
        if size is None:
            raise DataError(f"{where}: img_h and img_w are {label['img_h']!r} and {label['img_w']!r}")
        boxes = Boxes(where, row, self.findings)
        for bbox, score, item in zip(label["bboxes"], label["scores"], label["tokens_positive"], strict=True):
            box, number = numbers(bbox, 4), numbers([score], 1)
            if box is None or number is None:
                boxes.report("malformed", f"no bbox and score: {bbox!r:.60}, {score!r:.20}")
            elif number[0] > self.min_score:
                if spans := usable_spans(item, caption, self.findings, where, row):
                    boxes.add(box, spans=spans, score=number[0])
                else:
                    boxes.report("box_without_phrase", "no span is left")
        image, image_id = self.files.images.line(self._image_row(label, row)), self.files.labels.key(row)
        return boxes.sample(image, size, caption=caption, image_id=image_id, source=self.source)

    def _image_row(self, label: dict[str, Any], row: int) -> int:
        rows = self.files.row_of_id
        if rows is None:
            return row
        image_id = str(label.get("img_id"))
        if image_id not in rows:
            raise DataError(f"{self.files.labels.path}, line {row}: img_id {image_id!r} is not in imageid2idx")
        return rows[image_id]


def flat(label: dict[str, Any], where: object) -> dict[str, Any]:
    """A label in the v1 form; v2 is flattened, v1 is checked for equal lengths. Raises DataError."""
    boxes, scores, spans = (listed(label[key], where, key) for key in ("bboxes", "scores", "tokens_positive"))
    if not len(boxes) == len(scores) == len(spans):
        raise DataError(f"{where}: {len(boxes)} bboxes, {len(scores)} scores, {len(spans)} tokens_positive")
    if not any(isinstance(score, list) for score in scores):
        return label
    pairs = zip(boxes, scores, strict=True)
    if any(len(listed(b, where, "bboxes")) != len(listed(s, where, "scores")) for b, s in pairs):
        raise DataError(f"{where}: a phrase has not as many scores as bboxes")
    return {
        **label,
        "bboxes": [box for phrase in boxes for box in phrase],
        "scores": [score for phrase in scores for score in phrase],
        "tokens_positive": [item for phrase, item in zip(boxes, spans, strict=True) for _ in phrase],
    }


def _is_caption_tsv(candidate: Candidate) -> bool:
    label = first_label(candidate) if is_tsv_set(candidate) else None
    return isinstance(label, dict) and "caption" in label


CAPTION_TSV = Format(
    "caption-tsv",
    lambda path, _, findings: CaptionTsv(path, findings),
    _is_caption_tsv,
    scaled=True,
    repeated=True,
)
