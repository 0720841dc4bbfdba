"""Sets with a broken row, odd names and odd places: the rest of them is used, and what is left out is said."""

import base64
import io
import json
import os
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from test_readers import encoded, tsv, write  # same folder

from openglip.data.checking import check
from openglip.data.conversion import convert
from openglip.data.findings import Findings
from openglip.data.formats import FORMATS
from openglip.data.formats.objects365 import read_objects365_tsv
from openglip.data.formats.webdataset import read_webdataset
from openglip.data.mixtures import Mixture, Source
from openglip.data.reading import open_splits, recognise
from openglip.data.rendering import render
from openglip.data.training_prompts import detection_prompt_with_negatives
from openglip.errors import DataError
from openglip.images.prepare import Preparation
from openglip.structures.draw import colour_of, draw
from openglip.structures.sample import Sample
from openglip.training.batches import batch_stream

WRITERS = {format.name: format.write for format in FORMATS if format.write is not None}
SUFFIX = {"coco": "o.json", "odvg": "o.jsonl", "label-studio": "o.json"}
BOX = {"detection": {"instances": [{"bbox": [1, 2, 30, 40], "label": 0, "category": "cat"}]}}


def picture(path):
    Image.new("RGB", (100, 80), "teal").save(path, "JPEG")
    return str(path)


def tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def tsv_set(folder, labels, pictures, hw=True):
    tsv(folder / "img.tsv", [[f"k{i}", own] for i, own in enumerate(pictures)])
    tsv(folder / "label.tsv", [[f"k{i}", own] for i, own in enumerate(labels)])
    tsv(folder / "hw.tsv", [[f"k{i}", "80 100"] for i in range(len(labels))])
    write(folder / "map.json", {"cat": 1})
    sizes = "hw: hw.tsv\n" if hw else ""
    return write(folder / "set.yaml", f"img: img.tsv\nlabel: label.tsv\nlabelmap: map.json\n{sizes}")


@pytest.fixture
def broken_rows(tmp_path):
    """Four rows: k1 has a label that is not json, k2 a picture that is not base64."""
    good, image = json.dumps([{"class": "cat", "rect": [1, 2, 30, 40]}]), base64.b64encode(encoded()).decode()
    return tsv_set(tmp_path, [good, "[oops", good, good], [image, image, "abc", image])


@pytest.mark.parametrize("name", WRITERS)
def test_captions_that_become_exhaustive_names_are_said(name, tmp_path):
    sample = Sample(picture(tmp_path / "a.jpg"), (80, 100), [[1, 2, 30, 40]], "a cat", (((2, 5),),), image_id=1)
    out = tmp_path / "out" / SUFFIX.get(name, "set")
    lost = WRITERS[name]([sample], out)
    ((after,),) = [list(read(Findings())) for read in open_splits(out).values()]
    assert lost["not exhaustive"] == after.exhaustive == (name not in ("odvg", "webdataset"))


def test_a_name_that_comes_twice_in_a_tar_is_two_samples_and_is_said(tmp_path):
    twice = [("x/a.jpg", encoded()), ("x/a.json", json.dumps(BOX).encode())] * 2
    findings = Findings()
    found = list(read_webdataset(tar(tmp_path / "0.tar", twice), findings=findings))
    assert len(found) == 2
    assert found[0].image.offset < found[1].image.offset
    assert [(f.kind, f.id) for f in findings.items] == [("duplicate_id", "x/a")]


def test_hidden_members_of_a_tar_are_no_samples(tmp_path):
    members = [("a.jpg", encoded()), ("a.json", json.dumps(BOX).encode()), (".DS_Store", b"x")]
    hidden = [(f"x/._{name}", b"\0\5\x16\7") for name, _ in members]
    path = tar(tmp_path / "0.tar", [pair for both in zip(hidden, members, strict=True) for pair in both])
    report = check(path)
    assert (report.findings, report.counts) == ([], {"images": 1, "boxes": 1})


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only administrators make links")
@pytest.mark.parametrize("name", SUFFIX)
def test_pictures_are_found_from_a_folder_behind_a_link(name, tmp_path):
    (tmp_path / "real/deep/deeper").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real/deep/deeper")
    (tmp_path / "pictures").symlink_to(tmp_path / "store")
    (tmp_path / "store/a.jpg").symlink_to(picture(tmp_path / "store/0f3e"))
    places = [str(tmp_path / "pictures/a.jpg"), str(tmp_path / "link/../b.jpg")]
    picture(places[1])
    samples = [
        Sample(place, (80, 100), [[1, 2, 30, 40]], categories=("cat",), labels=[0], exhaustive=True, image_id=i)
        for i, place in enumerate(places)
    ]
    out = tmp_path / "link/out" / SUFFIX[name]
    WRITERS[name](samples, out)
    (read,) = open_splits(out).values()
    for before, after in zip(samples, read(Findings()), strict=True):
        assert os.path.samefile(before.image, after.image)
        assert after.file_name == before.file_name


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse file names that are not UTF-8")
@pytest.mark.parametrize("name", WRITERS)
def test_names_that_utf_8_or_xml_cannot_hold(name, tmp_path):
    place = picture(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))  # latin-1
    names = ("cat \ud83d", "a\bb", "寿司")
    boxes = [[1, 2, 30, 40], [5, 5, 50, 50], [9, 9, 20, 20]]
    sample = Sample(place, (80, 100), boxes, categories=names, labels=[0, 1, 2], exhaustive=True, image_id=1)
    out = tmp_path / "out" / SUFFIX.get(name, "set")
    lost = WRITERS[name]([sample], out)
    findings = Findings()
    ((after,),) = [list(read(findings)) for read in open_splits(out).values()]
    assert not findings.items
    assert after.file_name == "caf\udce9.jpg"
    assert after.names == (("cat \ufffd", "a\ufffdb", "寿司") if name == "voc" else names)
    assert lost == ({"characters": 1} if name == "voc" else {})


def test_a_place_that_no_disk_has_is_written_as_it_is(tmp_path):
    sample = Sample("\ud83d\0/a.jpg", (80, 100), [], categories=("cat",), labels=[], exhaustive=True, image_id=1)
    WRITERS["coco"]([sample], tmp_path / "o.json")
    (image,) = json.loads((tmp_path / "o.json").read_text())["images"]
    assert image["file_name"].endswith("\ud83d\0/a.jpg")


@pytest.mark.parametrize("name", WRITERS)
def test_broken_rows_do_not_stop_a_conversion(name, broken_rows, tmp_path):
    out = tmp_path / "out" / SUFFIX.get(name, "set")
    done = convert(broken_rows, out, format=name)
    assert done.samples == 2
    assert [(f.kind, f.id) for f in done.findings] == [("malformed", 1), ("unreadable_image", "k2")]
    assert done.left_out == {"malformed": 1, "unreadable_image": 1}
    report = check(out)
    assert (report.findings, report.counts["images"], report.counts["boxes"]) == ([], 2, 2)


def test_broken_rows_are_said_between_drawn_ones(broken_rows, tmp_path):
    drawn = list(render(broken_rows, tmp_path / "drawn"))
    assert [(d.id, d.file is None) for d in drawn] == [("k0", False), (1, True), ("k2", True), ("k3", False)]
    assert "line 1: not json" in (drawn[1].error or "")
    assert "base64" in (drawn[2].error or "")


@pytest.mark.parametrize("hw", [True, False])
def test_broken_rows_are_replaced_and_counted_in_training(broken_rows, hw, tmp_path):
    if not hw:
        broken_rows.write_text(broken_rows.read_text().replace("hw: hw.tsv\n", ""))
    samples = read_objects365_tsv(broken_rows)
    mixture = Mixture([Source("a", samples, detection_prompt_with_negatives)])
    batch = next(batch_stream(mixture, (), Preparation(), 4))
    assert sorted(batch.image_ids) == ["k0", "k3", "k3", "k3"]
    assert {"not json" in f for f in batch.failures} == {"base64" in f for f in batch.failures} == {True, False}


def test_words_from_right_to_left_are_drawn():
    caption, words = "سيارة. cat, سيارة حمراء", ["سيارة", "cat", "سيارة حمراء"]
    spans = [((0, 5),), ((7, 10),), ((12, 23),)]
    boxes = np.array([[1, 2, 30, 40], [5, 5, 60, 60], [9, 9, 99, 79]], float)
    image = np.zeros((80, 100, 3), np.uint8)
    pixels = np.asarray(draw(image, boxes, [0, 1, 2], words, caption=caption, phrase_spans=spans))
    below = pixels[pixels.shape[1] * 80 // 100 :]
    assert all((below == colour_of(label)).all(-1).any() for label in range(3))


def test_a_set_whose_first_row_is_broken_is_still_known(tmp_path):
    caption = json.dumps({"caption": "a cat", "bboxes": [[1, 2, 30, 40]], "spans": [[[2, 5]]]})
    assert recognise(tsv_set(tmp_path, ["[oops", caption], ["abc", "abc"])).name == "caption-tsv"


def test_a_set_of_several_label_files_is_named(tmp_path):
    path = write(tmp_path / "set.yaml", "img: a.tsv\nlabel: [a.tsv, b.tsv]\n")
    with pytest.raises(DataError, match=r"set\.yaml: label names no file"):
        recognise(path)
