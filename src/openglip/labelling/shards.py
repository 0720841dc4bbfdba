"""One shard: pairs in, ODVG lines out; its files are whole or not there, and the same whoever writes them."""

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
from openglip.labelling.captions import Phrases, find_phrases
from openglip.labelling.filters import NO_REGIONS, Candidate, PairFilter, RegionFilter, Regions
from openglip.labelling.inputs import Shard
from openglip.labelling.teacher import Answer, Task, Teacher
from openglip.prompts.phrases import Chunker
from openglip.runtime import release_memory
from openglip.structures.sample import ImageReference

WINDOW = 64  # pairs that are in memory at a time, or a few more


@dataclass(frozen=True)
class LabelSettings:
    """What of captions, pictures and boxes is kept; None and 0 switch a rule off."""

    chunker: Chunker = "auto"
    max_phrases: int = 20
    max_words: int = 8
    min_words: int = 0
    min_side: int = 0
    max_share: float | None = None
    boxes_per_phrase: int | None = 20
    phrase_nms: float | None = None

    def pair_filters(self) -> dict[str, PairFilter]:
        rules: dict[str, PairFilter] = {}
        if self.min_words:
            rules["short caption"] = filters.at_least_words(self.min_words)
        if self.min_side:
            rules["tiny picture"] = filters.at_least_side(self.min_side)
        return rules

    def region_filters(self) -> dict[str, RegionFilter]:
        rules: dict[str, RegionFilter] = {}
        if self.max_share is not None:
            rules["covers everything"] = filters.at_most_share(self.max_share)
        if self.phrase_nms is not None:
            rules["another phrase has the box"] = filters.one_phrase_per_box(self.phrase_nms)
        if self.boxes_per_phrase is not None:
            rules["over the cap of a phrase"] = filters.best_per_phrase(self.boxes_per_phrase)
        return rules


@dataclass
class Counts:
    """Totals of a shard or a run; each a plain number or a table by reason. pictures: that could be opened, one that
    several captions in a row belong to counts once."""

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
        return {k: dict(sorted(v.items())) if isinstance(v, Counter) else v for k, v in vars(self).items()}

    def add(self, other: Mapping[str, Any]) -> None:
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
    repeated: Mapping[int, str] | None = None,
    beat: Callable[[int], None] = lambda pairs: None,
) -> dict[str, Any]:
    """Label a shard into folder/shards/NAME.jsonl and folder/failures/NAME.jsonl; returns its row of the manifest.

    Both files depend on the shard's pairs, the teacher and the settings alone. The failures get their name first, the
    lines last: a shard is done when its lines are there. repeated: places of near-duplicates, with what they repeat.
    beat: called with the number of pairs now and then.
    """
    begin, cpu_begin = time.perf_counter(), time.process_time()
    detecting, reading = replace(teacher.detecting), replace(teacher.reading)
    counts, digest = Counts(), hashlib.sha256()
    teacher.begin_shard()
    with (
        whole_file(folder / "shards" / f"{shard.name}.jsonl", "wb") as lines,
        whole_file(folder / "failures" / f"{shard.name}.jsonl", "wb") as failures,
    ):
        out, bad = _Writer(lines), _Writer(failures)
        work = _Work(teacher, settings, provenance, counts, repeated or {})
        for window in _windows(shard.pairs()):
            for result in work.label(window, digest):
                (bad if "reason" in result else out).write(result)
            counts.pairs += len(window)
            beat(counts.pairs)
            release_memory()
        _refuse_if_nothing_could_be_read(shard, counts)
        out.close()
        bad.close()
    return {
        "input_sha256": digest.hexdigest(),
        "sha256": {"shards": out.digest.hexdigest(), "failures": bad.digest.hexdigest()},
        "counts": counts.as_dict(),
        "host": socket.gethostname(),
        "seconds": round(time.perf_counter() - begin, 3),
        "seconds_model": round(teacher.detecting.wall - detecting.wall, 3),
        "cpu_seconds": {
            "model": round(model := teacher.detecting.cpu - detecting.cpu, 3),
            "reading": round(pixels := teacher.reading.cpu - reading.cpu, 3),
            "outside": round(time.process_time() - cpu_begin - model - pixels, 3),
        },
    }


def _windows(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Runs of pairs that are in memory at a time; captions of one picture in a row stay together."""
    window: list[Pair] = []
    for pair in pairs:
        full = len(window) >= WINDOW and (pair.image is None or pair.image != window[-1].image)
        if full or len(window) == 2 * WINDOW:
            yield window
            window = []
        window.append(pair)
    if window:
        yield window


class _Work:
    """Labels windows of pairs of one shard and keeps its counts."""

    def __init__(
        self,
        teacher: Teacher,
        settings: LabelSettings,
        provenance: Mapping[str, Any],
        counts: Counts,
        repeated: Mapping[int, str],
    ) -> None:
        self.teacher, self.settings, self.provenance, self.counts = teacher, settings, provenance, counts
        self.repeated = repeated
        self._last: tuple[ImageReference | None, bytes] = None, b""
        self.pair_filters, self.region_filters = settings.pair_filters(), settings.region_filters()

    def label(self, pairs: Sequence[Pair], digest: Any) -> Iterator[dict[str, Any]]:
        """A line per pair, or a failure (it has a reason), in order."""
        contents = [self._content(pair, self.counts.pairs + i) for i, pair in enumerate(pairs)]
        for pair, content in zip(pairs, contents, strict=True):
            digest.update(f"{pair.filename}\n{pair.caption}\n".encode())
            digest.update(content if isinstance(content, bytes) else b"")
        usable = [i for i, content in enumerate(contents) if isinstance(content, bytes)]
        phrases = dict(zip(usable, self._phrases([pairs[i].caption or "" for i in usable]), strict=True))
        parts = [(i, part) for i in usable for part in self._parts(phrases[i])]
        answers = self.teacher.answer([_task(contents[i], phrases[i], part) for i, part in parts])
        by_pair: dict[int, list[Answer]] = {i: [] for i in usable}
        for (i, _), answer in zip(parts, answers, strict=True):
            by_pair[i].append(answer)
        for i, pair in enumerate(pairs):
            content = contents[i]
            if isinstance(content, str):
                yield self._failure(pair, content)
            else:
                yield self._result(pair, content, phrases[i], by_pair[i])

    def _content(self, pair: Pair, place: int) -> bytes | str:
        """The encoded picture, or why this pair is left out."""
        if pair.error is not None or pair.image is None:
            return pair.error or "no picture"
        if self.teacher.prompt is None and not (pair.caption or "").strip():
            return "empty caption" if pair.caption is not None else "no caption"
        if place in self.repeated:
            return f"near-duplicate: of {self.repeated[place]}"
        try:
            content = self._open(pair.image)
            if self.pair_filters:
                candidate = Candidate(pair.caption or "", image_size(content))
                for name, rule in self.pair_filters.items():
                    if not rule(candidate):
                        return name
        except DataError as error:
            return f"unreadable picture: {error}"
        return content

    def _open(self, image: ImageReference) -> bytes:
        """The encoded picture, read once for captions of it in a row."""
        if image != self._last[0]:
            self._last = image, image_content(image)
            self.counts.pictures += 1
        return self._last[1]

    def _phrases(self, captions: list[str]) -> list[Phrases]:
        if (prompt := self.teacher.prompt) is not None:
            spans = tuple(span for (span,) in prompt.spans)
            return [Phrases(prompt.caption, spans, ((0, len(prompt.caption)),))] * len(captions)
        s = self.settings
        return find_phrases(captions, chunker=s.chunker, max_phrases=s.max_phrases, max_words=s.max_words)

    def _parts(self, phrases: Phrases) -> list[tuple[int, int]]:
        return [p for p in phrases.parts if any(p[0] <= b and e <= p[1] for b, e in phrases.spans)]

    def _result(self, pair: Pair, content: bytes, phrases: Phrases, answers: list[Answer]) -> dict[str, Any]:
        error = next((a.error for a in answers if a.error is not None), None)
        size = answers[0].size if answers else None
        if not answers:
            try:
                size = self.teacher.size_of(content)
            except ImageError as problem:
                error = f"unreadable picture: {problem}"
        if error is not None or size is None:
            return self._failure(pair, error or "no size")
        self.counts.lines += 1
        self.counts.phrases += len(phrases.spans)
        self.counts.dropped_phrases.update(phrases.dropped)
        self.counts.dropped_boxes["the second view disagrees"] += sum(a.disagreed for a in answers)
        regions = self._kept(_joined(phrases, self._parts(phrases), answers), size)
        self.counts.boxes += len(regions)
        for tenth in (regions.scores * 10).astype(int).tolist():
            self.counts.scores[f"{tenth / 10:.1f}"] += 1
        return {
            "filename": pair.filename,
            **({} if pair.id is None else {"id": pair.id}),
            "height": size[0],
            "width": size[1],
            "grounding": {"caption": phrases.caption, "regions": self._listed(regions, phrases)},
            "provenance": self.provenance,
        }

    def _kept(self, regions: Regions, size: tuple[int, int]) -> Regions:
        for name, rule in self.region_filters.items():
            kept = rule(regions, size)
            self.counts.dropped_boxes[name] += len(regions) - int(kept.sum())
            regions = regions.take(kept)
        return regions

    def _listed(self, regions: Regions, phrases: Phrases) -> list[dict[str, Any]]:
        names = self.teacher.names or [phrases.caption[b:e] for b, e in phrases.spans]
        return [
            {"bbox": box, "phrase": names[i], "tokens_positive": [list(phrases.spans[i])], "score": score}
            for box, i, score in zip(
                regions.boxes.tolist(), regions.phrases.tolist(), regions.scores.tolist(), strict=True
            )
        ]

    def _failure(self, pair: Pair, reason: str) -> dict[str, Any]:
        self.counts.failures[reason.partition(":")[0]] += 1
        return {"filename": pair.filename, **({} if pair.id is None else {"id": pair.id}), "reason": reason}


class _Writer:
    """JSON lines with the digest of what was written; on the disk before they get their name."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, line: Mapping[str, Any]) -> None:
        content = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self.digest.update(content)
        self.file.write(content)

    def close(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


def _task(content: bytes | str, phrases: Phrases, part: tuple[int, int]) -> Task:
    assert isinstance(content, bytes)
    begin, end = part
    spans = tuple((b - begin, e - begin) for b, e in phrases.spans if begin <= b and e <= end)
    return Task(content, phrases.caption[begin:end], spans)


def _joined(phrases: Phrases, parts: Sequence[tuple[int, int]], answers: Sequence[Answer]) -> Regions:
    """The regions of all parts of a caption, best first, with their phrases' places in the caption's."""
    if len(answers) < 2:
        return answers[0].regions if answers else NO_REGIONS
    own = [np.array([i for i, (b, e) in enumerate(phrases.spans) if p[0] <= b and e <= p[1]]) for p in parts]
    columns = [(a.regions.boxes, a.regions.scores, o[a.regions.phrases]) for o, a in zip(own, answers, strict=True)]
    together = Regions(*(np.concatenate(c) for c in zip(*columns, strict=True)))
    return together.take(np.argsort(-together.scores, kind="stable"))


def _refuse_if_nothing_could_be_read(shard: Shard, counts: Counts) -> None:
    if counts.pairs == counts.failures[DAMAGED] > 0:
        raise DataError(f"{shard.path}: nothing in it can be read")


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of the counts of several shards."""
    counts = Counts()
    for row in rows:
        counts.add(row["counts"])
    return counts.as_dict()
