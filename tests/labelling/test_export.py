from __future__ import annotations

import json
from pathlib import Path

import pytest
from labelling.stub import fast
from PIL import Image

from openglip.data.formats.odvg import read_odvg
from openglip.data.formats.parquet import read_parquet
from openglip.errors import ConfigError, DataError
from openglip.labelling.export import lines_of, publish, read_review_tasks, write_review_tasks
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    label(images, folder, model=fast, workers=0, shard_size=16, labels=LabelSettings(chunker="rules"))
    return folder


def regions(lines: list[dict], threshold: float) -> list[tuple]:
    """Everything about each label above a threshold, in order."""
    return [
        (line["filename"], tuple(r["bbox"]), r["phrase"], str(r["tokens_positive"]))
        for line in lines
        for r in line["grounding"]["regions"]
        if r.get("score", 1) > threshold
    ]


def lines(run: Path) -> list[dict]:
    return [line for name in ("000000", "000001") for line in lines_of(run, name)]


def test_published_labels_are_those_above_the_threshold(run: Path, images: Path, tmp_path: Path) -> None:
    counts = publish(run, tmp_path / "odvg", threshold=0.5)
    expected = regions(lines(run), 0.5)
    assert counts["boxes"] == len(expected)
    assert counts["boxes"] + counts["boxes_below_threshold"] == len(regions(lines(run), 0))
    files = sorted((tmp_path / "odvg").iterdir())
    written = [json.loads(x) for f in files for x in f.read_text().splitlines()]
    assert regions(written, 0) == expected
    assert counts["lines"] == len(written)
    samples = [s for f in files for s in read_odvg(f, images)]
    assert sum(len(s) for s in samples) == len(expected)
    with pytest.raises(ConfigError, match="not empty"):
        publish(run, tmp_path / "odvg")


def test_parquet_holds_the_same(run: Path, images: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    publish(run, tmp_path / "odvg")
    publish(run, tmp_path / "parquet", format="parquet")
    one = [s for f in sorted((tmp_path / "odvg").iterdir()) for s in read_odvg(f, images)]
    two = list(read_parquet(tmp_path / "parquet"))
    for a, b in zip(one, two, strict=True):
        assert (a.caption, a.phrase_spans, a.size) == (b.caption, b.phrase_spans, b.size)
        assert a.boxes == pytest.approx(b.boxes, abs=1e-4)
        assert a.scores is not None
        assert a.scores.tolist() == b.scores.tolist()  # type: ignore[union-attr]


def test_review_round_trip(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    count = write_review_tasks(run, path, threshold=0.5, prefix="/photos/")
    tasks = json.loads(path.read_text())
    assert count == len(tasks) == len(lines(run))
    person = next(t for t in tasks if t["data"]["caption"].startswith("person battles"))
    assert {v["value"] for v in person["data"]["labels"]} <= {"person", "person (2)", "the production sedans"}
    for task in tasks[:-1]:  # a person accepts all, and never gets to the last
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    counts = read_review_tasks(_written(tasks, path), tmp_path / "back.jsonl")
    assert counts["not_reviewed"] == 1
    back = [json.loads(x) for x in (tmp_path / "back.jsonl").read_text().splitlines()]
    assert regions(back, 0) == regions(lines(run)[:-1], 0.5)
    assert all(line["provenance"]["reviewed"] for line in back)


def test_new_and_bad_corrections(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    write_review_tasks(run, path, limit=1)
    (task,) = json.loads(path.read_text())
    value = {"x": 10, "y": 50, "width": 50, "height": 25, "rotation": 0, "rectanglelabels": ["red coat"]}
    task["annotations"] = [{"result": [{"type": "rectanglelabels", "value": value}]}]
    read_review_tasks(_written([task], path), tmp_path / "back.jsonl")
    (region,) = json.loads((tmp_path / "back.jsonl").read_text())["grounding"]["regions"]
    assert region == {"bbox": [6.4, 24.0, 38.4, 36.0], "phrase": "red coat", "tokens_positive": [[13, 21]]}
    for change, message in (
        ({"rotation": 9}, "task 1: a rectangle is rotated by 9 degrees"),
        ({"rectanglelabels": ["zebra"]}, "task 1: phrase 0, 'zebra', is not in the caption"),
        ({"x": "left"}, "task 1: TypeError|task 1: ValueError"),
    ):
        task["annotations"][0]["result"][0]["value"] = value | change
        with pytest.raises(DataError, match=message):
            read_review_tasks(_written([task], path), tmp_path / "back.jsonl")


def test_an_unfinished_run_is_not_published(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "shards" / "000001.jsonl").unlink()
    with pytest.raises(DataError, match=r"1 shards are not done or changed \(000001"):
        publish(tmp_path / "run", tmp_path / "out")


def _written(tasks: list, path: Path) -> Path:
    path.write_text(json.dumps(tasks))
    return path


@pytest.mark.parametrize("prefix", ["/photos/", "/data/local-files/?d=", "https://host/"])
def test_names_of_images_are_quoted_in_addresses(prefix: str, tmp_path: Path) -> None:
    name = "a+b #1&2%.jpg"
    Image.new("RGB", (60, 40)).save(tmp_path / name)
    (tmp_path / "a+b #1&2%.txt").write_text("two dogs")
    label(tmp_path, tmp_path / "run", model=fast, workers=0, labels=LabelSettings(chunker="rules"))
    write_review_tasks(tmp_path / "run", tmp_path / "tasks.json", prefix=prefix)
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"]["image"] == prefix + (name if prefix == "/photos/" else "a%2Bb%20%231%262%25.jpg")


def test_one_string_of_categories_is_split(images: Path, tmp_path: Path) -> None:
    label(images, tmp_path, categories="woman; red coat", model=fast, workers=0, shard_size=16)
    names = {region["phrase"] for line in lines(tmp_path) for region in line["grounding"]["regions"]}
    assert names <= {"woman", "red coat"}
