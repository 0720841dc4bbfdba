from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from labelling.runs import files_of, run_stub
from labelling.stub import deadly, fast

from openglip.errors import ConfigError, DataError
from openglip.labelling.manifest import verify
from openglip.runtime import Progress


def test_the_same_bytes_from_any_number_of_workers(images: Path, tmp_path: Path) -> None:
    run_stub(images, tmp_path / "one")
    run_stub(images, tmp_path / "two", workers=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    run_stub(images, tmp_path / "two", workers=3)  # again: nothing to do
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_finished_shards_are_skipped_and_damaged_ones_redone(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_stub(images, out)
    whole = files_of(out)
    times = {p: p.stat().st_mtime_ns for p in (out / "shards").iterdir()}
    (out / "shards" / "000001.jsonl").write_bytes(b"cut")
    (out / "shards" / ".000002.jsonl.99.tmp").write_bytes(b"left by a killed run")
    assert verify(out) == [
        "shards/000001.jsonl: changed since it was written",
        "000001: 8 pairs of the input, but 3 lines and failures",
        "shards/.000002.jsonl.99.tmp: not a file of this run",
    ]
    run_stub(images, out)
    assert files_of(out) == whole
    assert [p.name for p, t in times.items() if p.stat().st_mtime_ns != t] == ["000001.jsonl"]


def test_other_settings_are_refused(images: Path, tmp_path: Path) -> None:
    run_stub(images, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"a run with threshold = 0\.1, not 0\.3"):
        run_stub(images, tmp_path / "out", threshold=0.3)
    with pytest.raises(ConfigError, match="a run with input_sha256"):
        run_stub(images, tmp_path / "out", shard_size=5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no labelling run"):
        run_stub(images, tmp_path / "full")
    with pytest.raises(ConfigError, match="no engine 'spark': use local or ray"):
        run_stub(images, tmp_path / "x", engine="spark")
    with pytest.raises(DataError, match="no images"):
        run_stub(tmp_path / "full", tmp_path / "x")


def test_a_shard_that_kills_its_workers_does_not_stop_the_others(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openglip.labelling.engine.MAX_DEATHS", 2)
    (tmp_path / "few").mkdir()
    for i in range(2):
        shutil.copy(images / f"00{i}.jpg", tmp_path / "few")
        shutil.copy(images / f"00{i}.txt", tmp_path / "few")
    (tmp_path / "few" / "001.txt").write_text("")  # a shard of this image alone never reaches the teacher
    manifest = run_stub(tmp_path / "few", tmp_path / "out", model=deadly, workers=1, shard_size=1)
    assert list(manifest.shards) == ["000001"]
    assert "its worker died 2 times, last with exit status 3" in manifest.failed["000000"]
    assert verify(tmp_path / "out") == [f"000000: not done: {manifest.failed['000000']}"]


def test_a_detector_labels_in_this_process(images: Path, tmp_path: Path) -> None:
    run_stub(images, tmp_path / "named")
    run_stub(images, tmp_path / "given", model=fast(), workers=None)
    assert files_of(tmp_path / "named") == files_of(tmp_path / "given")
    for options in ({"workers": 2}, {"workers": None, "engine": "ray"}):
        with pytest.raises(ConfigError, match=r"this process only: .*a model's name, .* or a function of a module"):
            run_stub(images, tmp_path / "refused", model=fast(), **options)


def test_progress_and_figures(images: Path, tmp_path: Path) -> None:
    calls: list[Progress] = []
    manifest = run_stub(images, tmp_path / "out", progress=calls.append)
    assert [(p.done, p.total, p.unit) for p in calls] == [(n, 4, "shards") for n in (1, 2, 3, 4)]
    assert calls[-1].figures["pairs"] == manifest.figures["pairs"] == 30
    assert calls[-1].figures["seconds_left"] == 0
    assert manifest.folder == tmp_path / "out"
    assert set(manifest.figures) == {"pairs", "pictures", "lines", "phrases", "boxes"}


def test_options_of_detection_are_settings_of_the_run(images: Path, tmp_path: Path) -> None:
    options = {"categories": ["dog"], "distractors": ("cat",), "class_agnostic": True}
    run_stub(images, tmp_path / "out", **options)
    assert run_stub(images, tmp_path / "out", **options).settings["distractors"] == ["cat"]
    with pytest.raises(ConfigError, match="a run with class_agnostic = true, not null"):
        run_stub(images, tmp_path / "out", **options | {"class_agnostic": False})
    with pytest.raises(ConfigError, match="distractors and chunk_size are for categories"):
        run_stub(images, tmp_path / "captions", chunk_size=3)
