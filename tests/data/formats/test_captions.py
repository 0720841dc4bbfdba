"""Captions without boxes, as samples; tests/labelling/test_inputs.py has them as pairs to label."""

import json

import pytest
from data.small_sets import encoded, write

from openglip.data import check, convert, read
from openglip.data.findings import Findings
from openglip.data.formats.captions import caption_in, read_captions
from openglip.data.formats.webdataset import WEBDATASET
from openglip.errors import ConfigError, DataError

CAPTIONS = {"a.jpg": "a cat", "b.jpg": "two dogs"}


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(CAPTIONS):
        write(tmp_path / "images" / name, encoded(seed))
    return tmp_path


def test_captions_next_to_the_images(folder):
    write(folder / "images" / "a.txt", " a cat\n")
    write(folder / "images" / "b.json", {"text": "two dogs"})
    one, two = read_captions(folder / "images")
    assert (one.caption, one.image_id, one.size, len(one)) == ("a cat", "a.jpg", (80, 100), 0)
    assert (two.caption, two.source) == ("two dogs", "images")


def test_what_can_not_be_used_is_a_finding(folder):
    write(folder / "images" / "a.json", "{")
    write(folder / "list.csv", "filename,caption\ngone.jpg,a bus\n")
    findings = Findings()
    assert list(read_captions(folder / "images", findings=findings)) == []
    assert list(read_captions(folder / "list.csv", findings=findings)) == []
    assert [(f.kind, f.id) for f in findings.items] == [
        ("malformed", "a.jpg"),
        ("missing_annotation", "b.jpg"),
        ("missing_image", "gone.jpg"),
    ]


def test_the_format_has_to_be_named(folder):
    file = write(folder / "captions.json", CAPTIONS)
    with pytest.raises(ConfigError, match=r"can't tell the format, give one of .*captions"):
        read(file)
    assert [s.caption for s in read(file, format="captions")] == list(CAPTIONS.values())
    assert check(file, format="captions").counts["images"] == 2
    assert convert(file, folder / "out", format="webdataset", source_format="captions").samples == 2
    assert [pair.caption for pair in WEBDATASET.pairs(folder / "out" / "000000.tar", None)] == list(CAPTIONS.values())


def test_the_first_key_with_text_holds_the_caption():
    assert caption_in({"TEXT": "c", "text": " b ", "caption": None}) == "b"
    assert caption_in({"caption": 5}) is None


def test_coco_captions_keep_their_order_and_are_strict(folder):
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(CAPTIONS)],
        "annotations": [{"id": 7, "image_id": 1, "caption": "b"}, {"id": 5, "image_id": 0, "caption": "a"}],
    }
    file = write(folder / "captions_val.json", content)
    assert [(s.image_id, s.caption) for s in read_captions(file)] == [(7, "b"), (5, "a")]
    content["images"].pop()
    write(file, content)
    with pytest.raises(DataError, match=r"captions_val\.json, id 7: there is no image 1"):
        list(read_captions(file))
    write(file, json.dumps("a cat"))
    with pytest.raises(DataError, match="neither COCO captions nor a list of captions"):
        list(read_captions(file))
