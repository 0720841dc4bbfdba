"""The embedded model as a teacher: an image and a phrase are encoded once, and no shard depends on another."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from openglip.errors import ConfigError
from openglip.labelling import shards
from openglip.labelling.inputs import Pair, Shard
from openglip.labelling.shards import LabelSettings, label_shard
from openglip.labelling.teacher import Query, Teacher, TeacherSettings
from openglip.predict.detector import Detector, load
from openglip.predict.options import DetectOptions

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


def make_shard(name: str, captions: list[str]) -> Shard:
    """Every caption of the first photo, then of the second."""
    return Shard(
        name, "", tuple(Pair(p.name, str(p), c, f"{p.stem}/{i}") for p in PHOTOS for i, c in enumerate(captions))
    )


def lines(detector: Detector, folder: Path, *labelled: Shard) -> list[bytes]:
    teacher = Teacher(detector, TeacherSettings(DetectOptions(batch_size=1)))
    for shard in labelled:
        label_shard(shard, teacher, LabelSettings(chunker="rules"), folder, {})
    return [(folder / "shards" / f"{shard.name}.jsonl").read_bytes() for shard in labelled]


def test_photos_and_phrases_are_encoded_once(
    detector: Detector, calls: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "WINDOW", 3)  # a window ends amid the captions of a photo
    lines(detector, tmp_path, make_shard("a", CAPTIONS))
    assert calls == {"encode_image": 2, "encode_text": 4}  # "a man", "a dog", "the car", "two people"


def test_boxes_are_those_of_each_caption_by_itself(detector: Detector, tmp_path: Path) -> None:
    (written,) = lines(detector, tmp_path, make_shard("a", CAPTIONS))
    for line, (photo, caption) in zip(
        map(json.loads, written.splitlines()), [(p, c) for p in PHOTOS for c in CAPTIONS], strict=True
    ):
        alone = detector.ground(str(photo), caption, threshold=0.3, top_k=None, phrases=None)
        regions = [r for r in line["grounding"]["regions"] if r["score"] > 0.3001]
        assert [r["score"] for r in regions] == sorted((r["score"] for r in regions), reverse=True)
        for i, ((begin, end),) in enumerate(alone.phrase_spans or ()):
            scores = [r["score"] for r in regions if r["tokens_positive"] == [[begin, end]]]
            expected = alone.scores[(alone.labels == i) & (alone.scores > 0.3001)][:20]
            assert scores == pytest.approx(expected.tolist(), abs=2e-3)


def test_a_shard_has_the_same_bytes_whatever_came_before(detector: Detector, tmp_path: Path) -> None:
    first, second = make_shard("a", CAPTIONS), make_shard("b", ["the car", *CAPTIONS[:2]])
    _, after = lines(detector, tmp_path / "one", first, second)
    (alone,) = lines(detector, tmp_path / "two", second)
    assert after == alone


def test_an_unusable_text_affects_no_other(detector: Detector) -> None:
    content = PHOTOS[0].read_bytes()
    good, bad = Query(content, "a person", ((0, 8),)), Query(content, "\u200b a person", ((0, 1),))
    answers = Teacher(detector, TeacherSettings()).answer([good, bad, good])
    assert (answers[1].error or "").startswith("unusable text: ")
    assert [a.error for a in answers[::2]] == [None, None]
    assert len(answers[0].boxes) == len(answers[2].boxes) > 0


def test_settings_that_do_not_suit_labelling() -> None:
    with pytest.raises(ConfigError, match="one number as threshold"):
        TeacherSettings(DetectOptions(threshold={"dog": 0.5}))
    with pytest.raises(ConfigError, match="threshold must lie within"):
        TeacherSettings(DetectOptions(threshold=2))
    with pytest.raises(ConfigError, match="leave out top_k"):
        TeacherSettings(DetectOptions(top_k=5))


def test_the_manifest_holds_what_changes_the_boxes() -> None:
    settings = TeacherSettings().as_dict()
    assert list(settings) == [
        *("threshold", "nms_iou", "short_side", "max_side", "batch_size"),
        *("precision", "device", "threads", "agreement"),
    ]
    assert settings["threshold"] == 0.1
    assert TeacherSettings(DetectOptions(class_agnostic=True)).as_dict()["class_agnostic"] is True
