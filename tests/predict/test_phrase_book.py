"""Nano as the teacher: a photo is encoded once, a phrase once, and no shard depends on another."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglip.data.format import Pair
from openglip.errors import PromptError
from openglip.labelling import shards
from openglip.labelling.inputs import Shard
from openglip.labelling.shards import LabelSettings, label_shard
from openglip.labelling.teacher import Task, Teacher, TeacherSettings
from openglip.predict.detector import Detector, load
from openglip.predict.phrase_book import PhraseBook

PHOTOS = sorted((Path(__file__).parents[2] / "examples" / "photos").glob("*.jpg"))[:2]
CAPTIONS = ["A man and a dog", "A dog beside the car", "two people", "a dog"]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load("nano", device="cpu")


@pytest.fixture
def calls(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many photos and texts passed through the encoders."""
    counted: Counter[str] = Counter()
    for name in ("encode_image", "encode_text"):
        inner = getattr(detector.model, name)

        def count(rows: Any, *rest: Any, inner: Any = inner, name: str = name) -> Any:
            counted[name] += len(rows)
            return inner(rows, *rest)

        monkeypatch.setattr(detector.model, name, count)
    return counted


def shard(name: str, captions: list[str]) -> Shard:
    """Every caption of the first photo, then of the second."""
    return Shard(
        name, "", tuple(Pair(p.name, str(p), c, f"{p.stem}/{i}") for p in PHOTOS for i, c in enumerate(captions))
    )


def lines(detector: Detector, folder: Path, *asked: Shard) -> list[bytes]:
    teacher = Teacher(detector, TeacherSettings(batch_size=1))
    for one in asked:
        label_shard(one, teacher, LabelSettings(chunker="rules"), folder, {})
    return [(folder / "shards" / f"{one.name}.jsonl").read_bytes() for one in asked]


def test_photos_and_phrases_are_encoded_once(
    detector: Detector, calls: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "WINDOW", 3)  # a window ends amid the captions of a photo
    lines(detector, tmp_path, shard("a", CAPTIONS))
    assert calls == {"encode_image": 2, "encode_text": 4}  # "a man", "a dog", "the car", "two people"


def test_boxes_are_those_of_each_caption_by_itself(detector: Detector, tmp_path: Path) -> None:
    (written,) = lines(detector, tmp_path, shard("a", CAPTIONS))
    for line, (photo, caption) in zip(
        map(json.loads, written.splitlines()), [(p, c) for p in PHOTOS for c in CAPTIONS], strict=True
    ):
        alone = detector.ground(str(photo), caption, threshold=0.3, top_k=None, phrases=None)
        regions = [r for r in line["grounding"]["regions"] if r["score"] > 0.3001]
        assert [r["score"] for r in regions] == sorted((r["score"] for r in regions), reverse=True)
        for i, ((begin, end),) in enumerate(alone.phrase_spans or ()):
            own = [r for r in regions if r["tokens_positive"] == [[begin, end]]]
            expected = alone.scores[(alone.labels == i) & (alone.scores > 0.3001)][:20]
            assert [r["score"] for r in own] == pytest.approx(expected.tolist(), abs=2e-3)


def test_a_shard_has_the_same_bytes_whatever_came_before(detector: Detector, tmp_path: Path) -> None:
    first, second = shard("a", CAPTIONS), shard("b", ["the car", *CAPTIONS[:2]])
    _, after = lines(detector, tmp_path / "one", first, second)
    (alone,) = lines(detector, tmp_path / "two", second)
    assert after == alone


def test_what_was_learned_is_bounded_and_long_lists_are_parted(
    detector: Detector, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openglip.predict.phrase_book.MAX_PHRASES", 100)
    book = PhraseBook(detector.backend, detector.id)
    words = [f"a thing {i}" for i in range(90)]
    for _ in range(2):
        book.learn(words)
    assert calls["encode_text"] == 90
    text = book.text(words)
    assert [len(p.tokens.mask) <= 256 for p in text.prompts if p.tokens] == [True, True]
    assert np.concatenate([p.labels for p in text.prompts]).tolist() == list(range(90))
    book.learn([f"another {i}" for i in range(20)])
    with pytest.raises(KeyError):
        book.text(words)
    with pytest.raises(PromptError, match="no letter"):
        book.learn(["a cat", " "])


def test_an_unusable_text_spoils_no_other(detector: Detector) -> None:
    content = PHOTOS[0].read_bytes()
    good, bad = Task(content, "a person", ((0, 8),)), Task(content, "\u200b a person", ((0, 1),))
    answers = Teacher(detector, TeacherSettings()).answer([good, bad, good])
    assert (answers[1].error or "").startswith("unusable text: ")
    assert [a.error for a in answers[::2]] == [None, None]
    assert len(answers[0].regions) == len(answers[2].regions) > 0
