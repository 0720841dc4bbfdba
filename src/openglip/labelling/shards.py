"""One shard: pairs in, ODVG lines out. Its files are complete or absent, and the same whoever writes them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from openglip.data.files import DAMAGED, image_content, image_size
from openglip.data.format import Pair
from openglip.errors import DataError, ImageError
from openglip.files import whole_file
from openglip.labelling import filters
from openglip.labelling.captions import CaptionPhrases, find_phrases
from openglip.labelling.filters import NO_BOXES, BoxFilter, PairFilter, PhraseBoxes, Size
from openglip.labelling.inputs import Shard
from openglip.labelling.teacher import Answer, Query, Teacher
from openglip.prompts.phrases import Chunker
from openglip.runtime import Progress, release_memory
from openglip.structures.sample import ImageReference

WINDOW = 64  # pairs in memory at a time; a few more where they share an image


@dataclass(frozen=True)
class LabelSettings:
    """Which captions, images, phrases and boxes are kept.

    Attributes:
        chunker: What finds noun phrases: "rules", "spacy", "grammar" or "auto".
        max_phrases: Phrases per caption.
        max_words: Words per phrase.
        min_words: Words of a caption; 0 keeps all.
        min_side: Pixels of an image's short side; 0 keeps all.
        max_share: Share of the image that a box may cover; None keeps all.
        boxes_per_phrase: Boxes per phrase, best first; None keeps all.
        phrase_nms: IoU above which only the best of several boxes is kept, whatever their phrases; None keeps all.
    """

    chunker: Chunker = "auto"
    max_phrases: int = 20
    max_words: int = 8
    min_words: int = 0
    min_side: int = 0
    max_share: float | None = None
    boxes_per_phrase: int | None = 20
    phrase_nms: float | None = None

    def pair_filters(self) -> dict[str, PairFilter]:
        """The filters of pairs, by the reason that a failure gets."""
        rules = {
            "short caption": (filters.at_least_words, self.min_words),
            "tiny picture": (filters.at_least_side, self.min_side),
        }
        return {name: make(value) for name, (make, value) in rules.items() if value}

    def box_filters(self) -> dict[str, BoxFilter]:
        """The filters of boxes in their order, by the reason under which dropped boxes are counted."""
        rules: dict[str, tuple[Callable[[Any], BoxFilter], Any]] = {
            "covers everything": (filters.at_most_share, self.max_share),
            "another phrase has the box": (filters.one_phrase_per_box, self.phrase_nms),
            "over the cap of a phrase": (filters.best_per_phrase, self.boxes_per_phrase),
        }
        return {name: make(value) for name, (make, value) in rules.items() if value is not None}


@dataclass
class Counts:
    """Totals of a shard or a run: plain numbers, and numbers by reason or by score.

    `pictures` counts the images that could be opened; one with several captions in a row counts once.
    """

    pairs: int = 0
    pictures: int = 0
    lines: int = 0
    phrases: int = 0
    boxes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    dropped_phrases: Counter[str] = field(default_factory=Counter)
    dropped_boxes: Counter[str] = field(default_factory=Counter)
    scores: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """The counts as the manifest holds them."""
        return {k: dict(sorted(v.items())) if isinstance(v, Counter) else v for k, v in vars(self).items()}

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the counts of another shard."""
        for key, value in other.items():
            if isinstance(value, dict):
                getattr(self, key).update(value)
            else:
                setattr(self, key, getattr(self, key) + value)


def label_shard(
    shard: Shard,
    teacher: Teacher,
    settings: LabelSettings,
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    duplicates: Mapping[int, str] | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, Any]:
    """Label a shard into `folder/shards/NAME.jsonl` and `folder/failures/NAME.jsonl`.

    Both files depend on the pairs of the shard, the teacher and the settings alone. The failures get their name first
    and the lines last, so a shard is done when its lines exist.

    Args:
        shard: The pairs.
        teacher: Finds the boxes.
        settings: What is kept.
        folder: The output folder.
        provenance: What each line says of its origin.
        duplicates: By the index of a pair, the name of the image that it repeats.
        progress: Called with the number of pairs that are done.

    Returns:
        The row of the shard in the manifest.
    """
    begin, cpu_begin = time.perf_counter(), time.process_time()
    detecting, reading = replace(teacher.detecting), replace(teacher.reading)
    input_digest = hashlib.sha256()
    labeller = _Labeller(teacher, settings, provenance, duplicates or {})
    counts = labeller.counts
    teacher.begin_shard()
    with (
        whole_file(folder / "shards" / f"{shard.name}.jsonl", "wb") as lines_file,
        whole_file(folder / "failures" / f"{shard.name}.jsonl", "wb") as failures_file,
    ):
        lines, failures = _LineWriter(lines_file), _LineWriter(failures_file)
        for window in _windows(shard.pairs()):
            for result in labeller.label(window, input_digest):
                (failures if "reason" in result else lines).write(result)
            counts.pairs += len(window)
            progress(Progress(counts.pairs, None, "pairs", shard.name))
            release_memory()
        if counts.pairs == counts.failures[DAMAGED] > 0:
            raise DataError(f"{shard.path}: nothing in it can be read")
        lines.close()
        failures.close()
    return {
        "input_sha256": input_digest.hexdigest(),
        "sha256": {"shards": lines.digest.hexdigest(), "failures": failures.digest.hexdigest()},
        "counts": counts.as_dict(),
        "host": socket.gethostname(),
        "seconds": round(time.perf_counter() - begin, 3),
        "seconds_model": round(teacher.detecting.wall - detecting.wall, 3),
        "cpu_seconds": {
            "model": round(model_seconds := teacher.detecting.cpu - detecting.cpu, 3),
            "reading": round(reading_seconds := teacher.reading.cpu - reading.cpu, 3),
            "outside": round(time.process_time() - cpu_begin - model_seconds - reading_seconds, 3),
        },
    }


def _windows(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Runs of pairs that are in memory at a time; captions of one image in a row stay together."""
    window: list[Pair] = []
    for pair in pairs:
        full = len(window) >= WINDOW and (pair.image is None or pair.image != window[-1].image)
        if full or len(window) == 2 * WINDOW:
            yield window
            window = []
        window.append(pair)
    if window:
        yield window


@dataclass
class _Labeller:
    """Labels windows of pairs of one shard and counts what it does."""

    teacher: Teacher
    settings: LabelSettings
    provenance: Mapping[str, Any]
    duplicates: Mapping[int, str]
    counts: Counts = field(default_factory=Counts)
    last_image: tuple[ImageReference | None, bytes] = None, b""

    def label(self, pairs: Sequence[Pair], input_digest: Any) -> Iterator[dict[str, Any]]:
        """A line per pair, or a failure (it has a reason), in order."""
        contents: list[Any] = [self._content(pair, self.counts.pairs + i) for i, pair in enumerate(pairs)]
        for pair, content in zip(pairs, contents, strict=True):
            input_digest.update(f"{pair.filename}\n{pair.caption}\n".encode())
            input_digest.update(content if isinstance(content, bytes) else b"")
        usable = [i for i, content in enumerate(contents) if isinstance(content, bytes)]
        phrases = dict(zip(usable, self._phrases([pairs[i].caption or "" for i in usable]), strict=True))
        chunks = [(i, chunk) for i in usable for chunk in phrases[i].used_chunks()]
        queries = []
        for i, (begin, end) in chunks:
            spans = tuple((b - begin, e - begin) for b, e in phrases[i].spans if begin <= b and e <= end)
            queries.append(Query(contents[i], phrases[i].caption[begin:end], spans))
        answers: dict[int, list[Answer]] = {i: [] for i in usable}
        for (i, _), answer in zip(chunks, self.teacher.answer(queries), strict=True):
            answers[i].append(answer)
        for i, (pair, content) in enumerate(zip(pairs, contents, strict=True)):
            if isinstance(content, str):
                yield self._failure(pair, content)
            else:
                yield self._line(pair, content, phrases[i], answers[i])

    def _content(self, pair: Pair, index: int) -> bytes | str:
        """The encoded image, or why this pair is left out."""
        if pair.error is not None or pair.image is None:
            return pair.error or "no picture"
        if self.teacher.prompt is None and not (pair.caption or "").strip():
            return "empty caption" if pair.caption is not None else "no caption"
        if index in self.duplicates:
            return f"near-duplicate: of {self.duplicates[index]}"
        try:
            content = self._read(pair.image)
            if pair_filters := self.settings.pair_filters():
                caption, size = pair.caption or "", image_size(content)
                for name, keep in pair_filters.items():
                    if not keep(caption, size):
                        return name
        except DataError as error:
            return f"unreadable picture: {error}"
        return content

    def _read(self, image: ImageReference) -> bytes:
        """The encoded image, read once for several captions in a row."""
        if image != self.last_image[0]:
            self.last_image = image, image_content(image)
            self.counts.pictures += 1
        return self.last_image[1]

    def _phrases(self, captions: list[str]) -> list[CaptionPhrases]:
        if (prompt := self.teacher.prompt) is not None:
            spans = tuple(span for (span,) in prompt.spans)
            return [CaptionPhrases(prompt.caption, spans, ((0, len(prompt.caption)),))] * len(captions)
        s = self.settings
        return find_phrases(captions, chunker=s.chunker, max_phrases=s.max_phrases, max_words=s.max_words)

    def _line(self, pair: Pair, content: bytes, phrases: CaptionPhrases, answers: list[Answer]) -> dict[str, Any]:
        error = next((answer.error for answer in answers if answer.error is not None), None)
        size = answers[0].size if answers else None
        if not answers:
            try:
                size = self.teacher.size_of(content)
            except ImageError as image_error:
                error = f"unreadable picture: {image_error}"
        if error is not None or size is None:
            return self._failure(pair, error or "no size")
        self.counts.lines += 1
        self.counts.phrases += len(phrases.spans)
        self.counts.dropped_phrases.update(phrases.dropped)
        self.counts.dropped_boxes["the second view disagrees"] += sum(answer.unconfirmed for answer in answers)
        boxes = self._filtered(_join(phrases, answers), size)
        self.counts.boxes += len(boxes)
        for tenth in (boxes.scores * 10).astype(int).tolist():
            self.counts.scores[f"{tenth / 10:.1f}"] += 1
        return {
            "filename": pair.filename,
            **({} if pair.id is None else {"id": pair.id}),
            "height": size[0],
            "width": size[1],
            "grounding": {"caption": phrases.caption, "regions": self._regions(boxes, phrases)},
            "provenance": self.provenance,
        }

    def _filtered(self, boxes: PhraseBoxes, size: Size) -> PhraseBoxes:
        for name, keep in self.settings.box_filters().items():
            mask = keep(boxes, size)
            self.counts.dropped_boxes[name] += len(boxes) - int(mask.sum())
            boxes = boxes.take(mask)
        return boxes

    def _regions(self, boxes: PhraseBoxes, phrases: CaptionPhrases) -> list[dict[str, Any]]:
        names = self.teacher.names or [phrases.caption[begin:end] for begin, end in phrases.spans]
        rows = zip(boxes.boxes.tolist(), boxes.phrases.tolist(), boxes.scores.tolist(), strict=True)
        return [
            {"bbox": box, "phrase": names[i], "tokens_positive": [list(phrases.spans[i])], "score": score}
            for box, i, score in rows
        ]

    def _failure(self, pair: Pair, reason: str) -> dict[str, Any]:
        self.counts.failures[reason.partition(":")[0]] += 1
        return {"filename": pair.filename, **({} if pair.id is None else {"id": pair.id}), "reason": reason}


class _LineWriter:
    """Writes JSON lines, with a digest of them; `close` puts them on the disk."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, line: Mapping[str, Any]) -> None:
        content = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self.digest.update(content)
        self.file.write(content)

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


def _join(phrases: CaptionPhrases, answers: Sequence[Answer]) -> PhraseBoxes:
    """The boxes of all chunks of a caption, best first, with phrases as indices of the caption's spans."""
    if len(answers) < 2:
        return answers[0].boxes if answers else NO_BOXES
    columns = []
    for (begin, end), answer in zip(phrases.used_chunks(), answers, strict=True):
        indices = np.array([i for i, (b, e) in enumerate(phrases.spans) if begin <= b and e <= end])
        columns.append((answer.boxes.boxes, answer.boxes.scores, indices[answer.boxes.phrases]))
    joined = PhraseBoxes(*(np.concatenate(column) for column in zip(*columns, strict=True)))
    return joined.take(np.argsort(-joined.scores, kind="stable"))
