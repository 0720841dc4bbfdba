"""`data`, `label` and `evaluate` see the same pairs of image and caption in the same files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from data.small_sets import encoded, voc_xml, write, write_parquet, write_tar

from openglip.data import read
from openglip.data.files import image_content
from openglip.data.formats import FORMATS
from openglip.evaluation.flickr import read_sentences
from openglip.evaluation.refcoco import read_expressions
from openglip.labelling.inputs import plan

CAPTIONS = {"a": "A cat on a mat .", "b": "Two dogs .", "c": "An owl ."}
Pairs = list[tuple[bytes, str]]


def images(folder: Path) -> Path:
    for seed, name in enumerate(CAPTIONS):
        write(folder / f"{name}.jpg", encoded(seed))
    return folder


def webdataset(folder: Path) -> Path:
    """Captions as text, as JSON under the keys that are in use, and in an ODVG record."""
    region = {"bbox": [1, 2, 30, 40], "phrase": "owl"}
    texts = {
        "a.txt": CAPTIONS["a"].encode(),
        "b.json": {"TEXT": CAPTIONS["b"]},
        "c.json": {"grounding": {"caption": CAPTIONS["c"], "regions": [region]}},
    }
    members = {}
    for (name, text), seed in zip(texts.items(), range(3), strict=True):
        members |= {f"{name[0]}.jpg": encoded(seed), name: text}
    members["._c.jpg"] = b"macOS"
    return write_tar(folder / "pairs.tar", members)


def parquet(folder: Path) -> Path:
    pytest.importorskip("pyarrow")
    rows = [{"jpg": encoded(seed), "TEXT": f" {text} "} for seed, text in enumerate(CAPTIONS.values())]
    return write_parquet(folder / "pairs.parquet", rows)


def table(folder: Path) -> Path:
    images(folder / "images")
    return write(folder / "captions.json", {f"{name}.jpg": text for name, text in CAPTIONS.items()})


def folder_of_images(folder: Path) -> Path:
    for name, text in CAPTIONS.items():
        write(folder / f"{name}.txt", text)
    return images(folder)


def mdetr(folder: Path) -> Path:
    images(folder)
    boxes = [[1, 2, 30, 40]] * 3
    spans = [[[2, 5]], [[4, 8]], [[3, 6]]]
    size = {"width": 100, "height": 80, "sentence_id": 0}
    content = {
        "images": [
            {"id": i, "file_name": f"{name}.jpg", "caption": text, "tokens_positive_eval": [spans[i]], **size}
            for i, (name, text) in enumerate(CAPTIONS.items())
        ],
        "annotations": [{"id": i, "image_id": i, "bbox": boxes[i], "tokens_positive": spans[i]} for i in range(3)],
    }
    return write(folder / "mdetr.json", content)


def entities(folder: Path) -> Path:
    images(folder / "images")
    marked = {
        "a": "A [/EN#1/animals cat] on a mat .",
        "b": "Two [/EN#1/animals dogs] .",
        "c": "An [/EN#1/animals owl] .",
    }
    box = "<object><name>1</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
    for name, text in marked.items():
        write(folder / "Annotations" / f"{name}.xml", voc_xml(f"{name}.jpg", objects=box))
        write(folder / "Sentences" / f"{name}.txt", text + "\n")
    return folder


MADE = {
    "webdataset": webdataset,
    "parquet": parquet,
    "captions": table,
    "captions of a folder": folder_of_images,
    "flickr30k": entities,
    "mdetr": mdetr,
}


def of_data(path: Path, format: str) -> Pairs:
    return [(image_content(s.image), (s.caption or "").strip()) for s in read(path, format=format)]


def of_label(path: Path) -> Pairs:
    pairs = [pair for shard in plan(path) for pair in shard.pairs()]
    assert all(pair.error is None for pair in pairs)
    return [(image_content(pair.image or b""), pair.caption or "") for pair in pairs]


def of_evaluate(path: Path) -> Pairs:
    folder = path / "images" if path.is_dir() else path.parent
    names = {f.stem: f for f in folder.glob("*.jpg")}
    if path.is_dir():
        sentences, _ = read_sentences(path)
        return [(names[str(s.image_id)].read_bytes(), s.caption) for s in sentences]
    file_names: Iterable[tuple[str, str]] = ((e.file_name, e.text) for e in read_expressions(path))
    sentences, _ = read_sentences(path)
    assert [s.caption for s in sentences] == [e.text for e in read_expressions(path)]
    return [((folder / name).read_bytes(), text) for name, text in file_names]


@pytest.mark.parametrize("name", MADE)
def test_the_same_pairs(name: str, tmp_path: Path) -> None:
    path = MADE[name](tmp_path)
    expected = [(encoded(seed), text) for seed, text in enumerate(CAPTIONS.values())]
    assert of_data(path, name.partition(" ")[0]) == expected
    assert of_label(path) == expected
    if name in ("flickr30k", "mdetr"):
        assert of_evaluate(path) == expected


def test_every_format_that_labelling_reads_by_itself_is_compared() -> None:
    assert {format.name for format in FORMATS if format.pairs is not None} <= {name.partition(" ")[0] for name in MADE}


def test_sentences_without_a_box_are_labelled_only(tmp_path: Path) -> None:
    root = entities(tmp_path)
    write(root / "Sentences" / "b.txt", "It is dark .\n[/EN#1/animals Two dogs] .\n")
    assert of_label(root)[1] == (encoded(1), "It is dark .")
    assert len(of_label(root)) == 4
    assert of_data(root, "flickr30k") == of_evaluate(root)


def test_what_a_reader_leaves_out_is_a_failure_of_labelling(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", {"a.jpg": encoded(), "a.json": b"{", "b.txt": b"a cat"})
    assert of_data(path, "webdataset") == []
    errors = [pair.error for shard in plan(path) for pair in shard.pairs()]
    assert errors == [
        f"unreadable caption: {path}:a.json: not json at line 1: Expecting property name enclosed in double quotes",
        "no picture of this name in the archive",
    ]
    assert json.loads(json.dumps(errors)) == errors
