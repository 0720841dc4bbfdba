from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from labelling.stub import deadly, fast

from openglip.errors import ConfigError, DataError
from openglip.labelling.manifest import Manifest, verify
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings
from openglip.labelling.teacher import TeacherSettings

RULES = LabelSettings(chunker="rules")


def run(source: Any, output: Path, **options: Any) -> Manifest:
    return label(source, output, **({"model": fast, "workers": 0, "shard_size": 8, "labels": RULES} | options))


def tree(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, in which times stand."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def lines(folder: Path, kind: str = "shards") -> list[dict]:
    return [json.loads(line) for p in sorted((folder / kind).iterdir()) for line in p.read_text().splitlines()]


def test_lines_failures_and_counts(pictures: Path, tmp_path: Path) -> None:
    manifest = run(pictures, tmp_path / "out")
    written, failed = lines(tmp_path / "out"), lines(tmp_path / "out", "failures")
    assert sorted(r["filename"] for r in [*written, *failed]) == [f"{i:03d}.jpg" for i in range(30)]
    assert [r["filename"] for r in written] == sorted(r["filename"] for r in written)
    assert {r["filename"]: r["reason"].partition(":")[0] for r in failed} == {
        "007.jpg": "unreadable picture",
        **{f"{i:03d}.jpg": "empty caption" for i in range(4, 30, 5)},
    }
    line = written[0]
    caption = line["grounding"]["caption"]
    assert (line["height"], line["width"], caption) == (48, 64, "a woman in a red coat crosses the road")
    for region in line["grounding"]["regions"]:
        ((begin, end),) = region["tokens_positive"]
        assert caption[begin:end] == region["phrase"]
        assert region["score"] > 0.1
    assert line["provenance"]["teacher"] == "stub"
    assert len(line["provenance"]["weights_sha256"]) == 64
    assert next(r for r in written if r["filename"] == "003.jpg")["grounding"]["regions"] == []
    people = next(r for r in written if r["filename"] == "002.jpg")["grounding"]["regions"]
    assert {tuple(r["tokens_positive"][0]) for r in people if r["phrase"] == "person"} <= {(0, 6), (20, 26)}
    totals = manifest.totals()
    assert (totals["pairs"], totals["lines"], sum(totals["failures"].values())) == (30, 23, 7)
    assert totals["boxes"] == sum(len(r["grounding"]["regions"]) for r in written) == sum(totals["scores"].values())
    assert totals["dropped_phrases"]["nothing to see"] > 0
    assert verify(tmp_path / "out") == []


def test_the_same_bytes_from_any_number_of_workers(pictures: Path, tmp_path: Path) -> None:
    run(pictures, tmp_path / "one")
    run(pictures, tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    run(pictures, tmp_path / "two", workers=3)  # again: nothing to do
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_finished_shards_are_skipped_and_damaged_ones_redone(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(pictures, out)
    whole = tree(out)
    times = {p: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    (out / "shards" / "000001.jsonl").write_bytes(b"cut")
    (out / "shards" / ".000002.jsonl.99.tmp").write_bytes(b"left by a killed run")
    assert verify(out) == [
        "shards/000001.jsonl: changed since it was written",
        "000001: 8 pairs of the input, but 3 lines and failures",
        "shards/.000002.jsonl.99.tmp: not a file of this run",
    ]
    run(pictures, out)
    assert tree(out) == whole
    assert [p.name for p, t in times.items() if p.stat().st_mtime_ns != t] == ["000001.jsonl"]


def test_other_settings_are_refused(pictures: Path, tmp_path: Path) -> None:
    run(pictures, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"a run with threshold = 0\.1, not 0\.3"):
        run(pictures, tmp_path / "out", teacher=TeacherSettings(threshold=0.3))
    with pytest.raises(ConfigError, match="a run with input_sha256"):
        run(pictures, tmp_path / "out", shard_size=5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no labelling run"):
        run(pictures, tmp_path / "full")
    with pytest.raises(ConfigError, match="no engine 'spark': use local or ray"):
        run(pictures, tmp_path / "x", engine="spark")
    with pytest.raises(DataError, match="no pictures"):
        run(tmp_path / "full", tmp_path / "x")


@pytest.mark.parametrize("file", ["manifest.json", "shards/000000.jsonl", "failures/000000.jsonl"])
def test_verify_sees_any_changed_byte(pictures: Path, tmp_path: Path, file: str) -> None:
    run(pictures, tmp_path / "out")
    path = tmp_path / "out" / file
    content = path.read_bytes()
    for place in (0, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert problems(tmp_path / "out")
    path.write_bytes(content)
    assert not problems(tmp_path / "out")
    path.unlink()
    assert problems(tmp_path / "out")


def problems(folder: Path) -> list[str]:
    try:
        return verify(folder)
    except DataError as error:
        return [str(error)]


def test_a_shard_that_kills_its_workers_does_not_stop_the_others(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openglip.labelling.engine.DEATHS", 2)
    (tmp_path / "few").mkdir()
    for i in range(2):
        shutil.copy(pictures / f"00{i}.jpg", tmp_path / "few")
        shutil.copy(pictures / f"00{i}.txt", tmp_path / "few")
    (tmp_path / "few" / "001.txt").write_text("")  # a shard of this picture alone never reaches the teacher
    manifest = run(tmp_path / "few", tmp_path / "out", model=deadly, workers=1, shard_size=1)
    assert list(manifest.shards) == ["000001"]
    assert "its worker died 2 times, last with exit status 3" in manifest.failed["000000"]
    assert verify(tmp_path / "out") == [f"000000: not done: {manifest.failed['000000']}"]


def test_categories(pictures: Path, tmp_path: Path) -> None:
    run(pictures, tmp_path / "out", categories=["traffic light", "St. Bernard"])
    written = lines(tmp_path / "out")
    assert len(written) == 29  # captions play no part
    assert {r["grounding"]["caption"] for r in written} == {"traffic light. St. Bernard"}
    spans = {r["phrase"]: r["tokens_positive"] for w in written for r in w["grounding"]["regions"]}
    assert spans == {"traffic light": [[0, 13]], "St. Bernard": [[15, 26]]}


def test_filters_are_counted(pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "in")
    shutil.copy(tmp_path / "in" / "000.jpg", tmp_path / "in" / "100.jpg")
    (tmp_path / "in" / "100.txt").write_text("a copy of a picture")
    shutil.copytree(pictures, tmp_path / "known", ignore=lambda _, names: [n for n in names if n != "001.jpg"])
    rules = LabelSettings(chunker="rules", min_words=9, boxes_per_phrase=1, max_share=0.5, phrase_nms=0.5)
    manifest = run(tmp_path / "in", tmp_path / "out", labels=rules, drop_duplicates=True, exclude=tmp_path / "known")
    totals = manifest.totals()
    assert {k: totals["failures"][k] for k in ("empty caption", "near-duplicate", "unreadable picture")} == {
        "empty caption": 6,
        "near-duplicate": 2,
        "unreadable picture": 1,
    }
    assert totals["failures"]["short caption"] > 5
    reasons = {r["filename"]: r["reason"] for r in lines(tmp_path / "out", "failures")}
    assert reasons["100.jpg"] == "near-duplicate: of 000.jpg"
    assert reasons["001.jpg"] == "near-duplicate: of 001.jpg"
    assert totals["dropped_boxes"]["covers everything"] > 0
    assert totals["dropped_boxes"]["over the cap of a phrase"] > 0
    assert verify(tmp_path / "out") == []
    tiny = run(pictures, tmp_path / "tiny", labels=LabelSettings(chunker="rules", min_side=49, max_phrases=1))
    assert tiny.totals()["failures"] == {"empty caption": 6, "tiny picture": 23, "unreadable picture": 1}
    one = run(pictures, tmp_path / "one", labels=LabelSettings(chunker="rules", max_phrases=2, phrase_nms=0.1))
    assert one.totals()["dropped_phrases"]["over the cap"] > 0
    assert one.totals()["dropped_boxes"]["another phrase has the box"] > 0


@pytest.mark.parametrize("kind", ["flip", "jitter"])
def test_agreement_of_a_second_view(pictures: Path, tmp_path: Path, kind: Any) -> None:
    totals = run(pictures, tmp_path / "out", teacher=TeacherSettings(agreement=kind)).totals()
    plain = run(pictures, tmp_path / "plain").totals()
    assert totals["boxes"] + totals["dropped_boxes"]["the second view disagrees"] >= plain["boxes"]
    assert totals["boxes"] < plain["boxes"]
