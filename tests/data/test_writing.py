import json
import os
import sys

import pytest
from data.small_sets import WRITABLE, encoded, read_only, write, write_coco_json, write_tar, written_path
from PIL import Image

from openglip.data.conversion import convert
from openglip.data.files import image_content
from openglip.data.findings import Findings
from openglip.data.reading import open_splits
from openglip.structures.sample import Sample


def photo_at(path):
    Image.new("RGB", (100, 80), "teal").save(path, "JPEG")
    return str(path)


@pytest.mark.parametrize("name", WRITABLE)
def test_captions_that_become_exhaustive_names_are_reported(name, tmp_path):
    sample = Sample(photo_at(tmp_path / "a.jpg"), (80, 100), [[1, 2, 30, 40]], "a cat", (((2, 5),),), image_id=1)
    out = written_path(tmp_path / "out", name)
    lost = WRITABLE[name].write([sample], out)
    ((after,),) = [list(split.read(Findings())) for split in open_splits(out).values()]
    assert lost["not exhaustive"] == after.exhaustive == (name not in ("odvg", "webdataset"))


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only administrators make links")
@pytest.mark.parametrize("name", [name for name, format in WRITABLE.items() if format.suffixes])
def test_images_are_found_from_a_folder_behind_a_link(name, tmp_path):
    (tmp_path / "real/deep/deeper").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real/deep/deeper")
    (tmp_path / "pictures").symlink_to(tmp_path / "store")
    (tmp_path / "store/a.jpg").symlink_to(photo_at(tmp_path / "store/0f3e"))
    places = [str(tmp_path / "pictures/a.jpg"), str(tmp_path / "link/../b.jpg")]
    photo_at(places[1])
    samples = [
        Sample(place, (80, 100), [[1, 2, 30, 40]], categories=("cat",), labels=[0], exhaustive=True, image_id=i)
        for i, place in enumerate(places)
    ]
    out = written_path(tmp_path / "link/out", name)
    WRITABLE[name].write(samples, out)
    (split,) = open_splits(out).values()
    for before, after in zip(samples, split.read(Findings()), strict=True):
        assert os.path.samefile(before.image, after.image)
        assert after.file_name == before.file_name


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse file names that are not UTF-8")
@pytest.mark.parametrize("name", WRITABLE)
def test_names_that_utf_8_or_xml_cannot_hold(name, tmp_path):
    place = photo_at(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg"))  # latin-1
    names = ("cat \ud83d", "a\bb", "寿司")
    boxes = [[1, 2, 30, 40], [5, 5, 50, 50], [9, 9, 20, 20]]
    sample = Sample(place, (80, 100), boxes, categories=names, labels=[0, 1, 2], exhaustive=True, image_id=1)
    out = written_path(tmp_path / "out", name)
    lost = WRITABLE[name].write([sample], out)
    findings = Findings()
    ((after,),) = [list(split.read(findings)) for split in open_splits(out).values()]
    assert not findings.items
    assert after.file_name == "caf\udce9.jpg"
    assert after.names == (("cat \ufffd", "a\ufffdb", "寿司") if name == "voc" else names)
    assert lost == ({"characters": 1} if name == "voc" else {})


def test_a_place_that_no_disk_has_is_written_as_it_is(tmp_path):
    sample = Sample("\ud83d\0/a.jpg", (80, 100), [], categories=("cat",), labels=[], exhaustive=True, image_id=1)
    WRITABLE["coco"].write([sample], tmp_path / "o.json")
    (image,) = json.loads((tmp_path / "o.json").read_text())["images"]
    assert image["file_name"].endswith("\ud83d\0/a.jpg")


@pytest.mark.parametrize("out", ["new/o.json", "new/o.jsonl", "new"])
def test_images_of_one_name_in_several_tars_stay_apart(tmp_path, out):
    pictures = {"train": encoded(1), "val": encoded(2)}
    for split, content in pictures.items():
        write_tar(tmp_path / "in" / split / "0.tar", {"0.jpg": content, "0.txt": b"a cat"})
    write(tmp_path / "new" / "images" / "0.jpg", encoded(3)) if out != "new" else None  # lies there already
    for split, content in pictures.items():
        target = tmp_path / out / f"{split}.json" if out == "new" else tmp_path / out.replace("o.", f"{split}.")
        convert(tmp_path / "in" / split, target)
        if target.suffix == ".json":
            samples, _ = read_only(target)
            assert image_content(samples[0].image) == content
        else:
            place = target.parent / json.loads(target.read_text())["filename"]
            assert place.read_bytes() == content


@pytest.mark.parametrize("name", ["webdataset", "voc", "yolo"])
def test_no_image_is_lost_where_names_collide(tmp_path, name):
    files = ["x/a.jpg", "y/a.jpg", "x/a-2.jpg", "x/b.c.jpg", "x/b_c.jpg"]
    for seed, file in enumerate(files):
        write(tmp_path / "in" / file, encoded(seed))
    source = write_coco_json(tmp_path / "in" / "train.json", *enumerate(files, start=1))
    assert convert(source, tmp_path / "out", format=name).samples == 5
    samples, _ = read_only(tmp_path / "out")
    contents = {image_content(s.image) for s in samples}
    assert contents == {encoded(seed) for seed in range(5)}
