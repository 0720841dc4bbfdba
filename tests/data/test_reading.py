from pathlib import Path

import pytest
from data.small_sets import broken_rows, encoded, odvg_line, write, write_coco_json, write_tar

from openglip.data.checking import check
from openglip.data.formats import BY_NAME, FORMATS
from openglip.data.reading import open_splits, read, recognise
from openglip.errors import ConfigError, DataError


def test_annotation_files_of_one_stem_are_two_splits(tmp_path):
    write(tmp_path / "a.jpg", encoded(1))
    write(tmp_path / "b.jpg", encoded(2))
    write_coco_json(tmp_path / "train.json", (1, "a.jpg"), categories=[{"id": 9, "name": "cat"}])
    write(tmp_path / "train_label_map.json", {"0": "cat"})
    write(tmp_path / "train.jsonl", {**odvg_line(), "filename": "b.jpg"})
    write_coco_json(tmp_path / "val.json", (1, "c.jpg"))
    assert set(open_splits(tmp_path)) == {"train.json", "train.jsonl", "val"}
    assert [f.kind for f in check(tmp_path).findings] == ["unmapped_class", "missing_image"]


def test_read_names_its_splits(tmp_path):
    for seed, split in enumerate(("train", "val")):
        write(tmp_path / f"{split}.jpg", encoded(seed))
        write_coco_json(tmp_path / f"{split}.json", (seed, f"{split}.jpg"))
    assert [s.image_id for s in read(tmp_path, split="val")] == [1]
    assert [s.image_id for s in read(tmp_path / "train.json")] == [0]
    with pytest.raises(ConfigError, match="holds train, val: name one with split"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="no split 'test'; it holds train, val"):
        read(tmp_path, split="test")
    with pytest.raises(ConfigError, match="no format 'cocoa'; known are mdetr, lvis, coco"):
        read(tmp_path, format="cocoa")
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "none")


def test_read_leaves_broken_rows_out(tmp_path, caplog):
    assert [s.image_id for s in read(broken_rows(tmp_path))] == ["k0", "k2", "k3"]
    assert "1 malformed" in caplog.text


def test_tars_as_img2dataset_writes_them_are_recognised(tmp_path):
    write_tar(tmp_path / "00000.tar", {"a.jpg": encoded(), "a.txt": b"a cat"})
    write(tmp_path / "00000.parquet", b"a table of addresses")
    write(tmp_path / "00000_stats.json", {})
    assert recognise(tmp_path).name == "webdataset"
    write(tmp_path / "train.json", {})
    assert recognise(tmp_path) is None


def test_formats_have_one_name_each_and_stand_in_the_documents():
    assert len(BY_NAME) == len(FORMATS)
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    for format in FORMATS:
        assert f"| `{format.name}` |" in text, f"docs/formats.md has no row for {format.name}"
