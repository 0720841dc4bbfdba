from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from labelling.runs import lines_of, run_stub
from labelling.stub import fast

from openglip.labelling.manifest import verify
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings


def test_lines_failures_and_counts(images: Path, tmp_path: Path) -> None:
    manifest = run_stub(images, tmp_path / "out")
    written, failed = lines_of(tmp_path / "out"), lines_of(tmp_path / "out", "failures")
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


def test_categories(images: Path, tmp_path: Path) -> None:
    run_stub(images, tmp_path / "out", categories=["traffic light", "St. Bernard"])
    written = lines_of(tmp_path / "out")
    assert len(written) == 29  # captions play no part
    assert {r["grounding"]["caption"] for r in written} == {"traffic light. St. Bernard"}
    spans = {r["phrase"]: r["tokens_positive"] for w in written for r in w["grounding"]["regions"]}
    assert spans == {"traffic light": [[0, 13]], "St. Bernard": [[15, 26]]}


def test_filters_are_counted(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "in")
    shutil.copy(tmp_path / "in" / "000.jpg", tmp_path / "in" / "100.jpg")
    (tmp_path / "in" / "100.txt").write_text("a copy of a picture")
    shutil.copytree(images, tmp_path / "excluded", ignore=lambda _, names: [n for n in names if n != "001.jpg"])
    rules = LabelSettings(chunker="rules", min_words=9, boxes_per_phrase=1, max_share=0.5, phrase_nms=0.5)
    manifest = run_stub(
        tmp_path / "in", tmp_path / "out", labels=rules, drop_duplicates=True, exclude=tmp_path / "excluded"
    )
    totals = manifest.totals()
    assert {k: totals["failures"][k] for k in ("empty caption", "near-duplicate", "unreadable picture")} == {
        "empty caption": 6,
        "near-duplicate": 2,
        "unreadable picture": 1,
    }
    assert totals["failures"]["short caption"] > 5
    reasons = {r["filename"]: r["reason"] for r in lines_of(tmp_path / "out", "failures")}
    assert reasons["100.jpg"] == "near-duplicate: of 000.jpg"
    assert reasons["001.jpg"] == "near-duplicate: of 001.jpg"
    assert totals["dropped_boxes"]["covers everything"] > 0
    assert totals["dropped_boxes"]["over the cap of a phrase"] > 0
    assert verify(tmp_path / "out") == []
    tiny = run_stub(images, tmp_path / "tiny", labels=LabelSettings(chunker="rules", min_side=49, max_phrases=1))
    assert tiny.totals()["failures"] == {"empty caption": 6, "tiny picture": 23, "unreadable picture": 1}
    one = run_stub(images, tmp_path / "one", labels=LabelSettings(chunker="rules", max_phrases=2, phrase_nms=0.1))
    assert one.totals()["dropped_phrases"]["over the cap"] > 0
    assert one.totals()["dropped_boxes"]["another phrase has the box"] > 0


@pytest.mark.parametrize("kind", ["flip", "jitter"])
def test_agreement_of_a_second_view(images: Path, tmp_path: Path, kind: Any) -> None:
    totals = run_stub(images, tmp_path / "out", agreement=kind).totals()
    plain = run_stub(images, tmp_path / "plain").totals()
    assert totals["boxes"] + totals["dropped_boxes"]["the second view disagrees"] >= plain["boxes"]
    assert totals["boxes"] < plain["boxes"]


def test_a_damaged_archive(images: Path, tmp_path: Path) -> None:
    """What can be read of it is labelled, the rest is a failure; one in which nothing can be read is named."""
    tars = tmp_path / "tars"
    tars.mkdir()
    for name in ("a", "b", "c"):
        with tarfile.open(tars / f"{name}.tar", "w") as tar:
            for path in sorted(images.glob("01?.*")):
                tar.add(path, path.name)
    content = (tars / "b.tar").read_bytes()
    (tars / "b.tar").write_bytes(content[: len(content) // 2])
    (tars / "c.tar").write_bytes(b"no tar at all" * 100)
    manifest = label(tars, tmp_path / "out", model=fast, workers=0, labels=LabelSettings(chunker="rules"))
    assert list(manifest.failed) == ["c"]
    assert manifest.shards["a"]["counts"]["lines"] == 8
    counts = manifest.shards["b"]["counts"]
    assert 2 <= counts["lines"] <= 5
    assert counts["failures"]["damaged archive"] == 1
    assert (tmp_path / "out/failures/b.jsonl").read_text().count("damaged archive: after byte") == 1
    flipped = bytearray(content)
    flipped[len(content) // 2 // 512 * 512] ^= 0xFF  # a header that tarfile would take for the end
    (tars / "b.tar").write_bytes(flipped)
    redone = label(tars / "b.tar", tmp_path / "again", model=fast, workers=0, labels=LabelSettings(chunker="rules"))
    assert redone.totals()["failures"].get("damaged archive", 0) + redone.totals()["lines"] >= 3
