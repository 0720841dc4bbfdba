import contextlib
import struct
import zlib

import numpy as np
import pytest
from data.small_sets import encoded, format_of, read_all, read_only, write, write_coco_json
from PIL import Image

from openglip.data.checking import check
from openglip.data.conversion import convert
from openglip.data.files import image_size
from openglip.data.findings import Findings
from openglip.data.formats.yolo import read_yolo
from openglip.errors import ConfigError, DataError


@pytest.mark.parametrize("names", ["[cat, dog]", "\n  0: cat\n  1: dog"])
def test_yolo(tmp_path, names):
    write(tmp_path / "images" / "train" / "a.jpg", encoded())
    write(tmp_path / "images" / "train" / "b.png", encoded())
    write(tmp_path / "images" / "val" / "c.png", encoded())
    write(tmp_path / "labels/train/a.txt", "1 0.5 0.5 0.2 0.1\n0 0.1 0.1 0.3 0.1 0.3 0.4\n5 0.5 0.5 0.2 0.1\nx\n")
    write(tmp_path / "data.yaml", f"path: /somewhere/else\ntrain: images/train\nval: ../images/val\nnames: {names}\n")
    findings = Findings()
    one, two = read_yolo(tmp_path, findings=findings)
    np.testing.assert_allclose(one.boxes, [[40, 36, 60, 44], [10, 8, 30, 32]], atol=1e-4)
    assert (one.names, len(two), two.exhaustive) == (("dog", "cat"), 0, True)
    assert findings.counts == {"unmapped_class": 1, "malformed": 1}
    splits, _ = read_all(tmp_path)
    assert format_of(tmp_path) == "yolo"
    assert {name: len(samples) for name, samples in splits.items()} == {"train": 2, "val": 1}
    with pytest.raises(DataError, match="no split 'test'"):
        list(read_yolo(tmp_path, "test"))


def test_yolo_labels_without_a_image_and_beside_it(tmp_path):
    for name in ("a", "b", "gone"):
        write(tmp_path / "images" / "train" / f"{name}.jpg", encoded(ord(name[0])))
        write(tmp_path / "labels" / "train" / f"{name}.txt", "0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "images" / "train" / "gone.jpg").unlink()
    (tmp_path / "labels" / "train" / "b.txt").rename(tmp_path / "images" / "train" / "b.txt")
    write(tmp_path / "labels" / "train" / "classes.txt", "cat\n")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    samples, findings = read_only(tmp_path)
    assert [(s.image_id, len(s)) for s in samples] == [("a", 1), ("b", 1)]
    assert [(f.kind, f.id) for f in findings.items] == [("annotation_without_image", "gone")]


def test_yolo_lists_that_share_a_folder_have_no_strays(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "images" / f"{name}.jpg", encoded(ord(name)))
        write(tmp_path / "labels" / f"{name}.txt", "0 0.5 0.5 0.2 0.2\n")
    write(tmp_path / "train.txt", "images/a.jpg\n")
    write(tmp_path / "val.txt", "images/b.jpg\n")
    write(tmp_path / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat]\n")
    assert check(tmp_path).findings == []


def test_yolo_images_of_one_name_in_two_folders_are_two(tmp_path):
    for seed, folder in enumerate(("x", "y")):
        write(tmp_path / "images" / "train" / folder / "1.jpg", encoded(seed))
        write(tmp_path / "labels" / "train" / folder / "1.txt", "nan 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    report = check(tmp_path)
    assert [f.kind for f in report.findings] == ["malformed", "malformed"]  # the class that is no number
    assert report.counts["boxes"] == 2


def test_a_yaml_without_a_split_is_reported(tmp_path):
    write(tmp_path / "data.yaml", "training: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="names none of train, val, test"):
        check(tmp_path)


def test_a_image_that_a_tag_turns_has_its_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "images" / "train" / "a.jpg", encoded(1, exif=exif))
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.25 1 0.5\n")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    samples, _ = read_only(tmp_path)
    assert samples[0].size == (100, 80)
    assert samples[0].boxes.tolist() == [[0, 0, 80, 50]]
    assert check(tmp_path).findings == []


def header(width, height):
    """A PNG that says its size and holds no pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def test_damaged_headers_do_not_end_the_others(tmp_path):
    damaged = encoded(1)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        content = bytearray(damaged)
        for place in rng.integers(2, 300, 4):
            content[place] = rng.integers(256)
        with contextlib.suppress(DataError):
            image_size(bytes(content))
    for name, content in (("a", encoded(1)), ("bomb", header(20_000, 20_000)), ("cut", b"\x89PNG\r\n\x1a\n\0\0")):
        write(tmp_path / "images" / "train" / f"{name}.png", content)
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    report = check(tmp_path)
    assert [(f.kind, f.id) for f in report.findings] == [
        ("unreadable_image", "bomb.png"),
        ("unreadable_image", "cut.png"),
    ]
    assert report.counts["images"] == 1


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_one_yolo_file_in_another_encoding_does_not_end_the_others(tmp_path, encoding):
    for name in ("a", "b"):
        write(tmp_path / "images" / "train" / f"{name}.jpg", encoded(ord(name)))
        write(tmp_path / "labels" / "train" / f"{name}.txt", "0 0.5 0.5 0.2 0.2\n")
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.2 é\n".encode(encoding))
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    samples, findings = read_only(tmp_path)
    assert [(s.image_id, len(s)) for s in samples] == [("b", 1)]  # "a" is no picture without objects
    assert [(f.kind, f.id) for f in findings.items] == [("unparsable", "a")]


def test_yolo_poses_have_their_box_first(tmp_path):
    write(tmp_path / "images" / "train" / "a.jpg", encoded(1))
    pose, polygon = "0 .5 .5 .2 .2 .45 .45 .55 .45 .55 .55 .45 .55\n", "0 .1 .1 .9 .1 .9 .9\n"
    write(tmp_path / "labels" / "train" / "a.txt", pose + polygon)
    yaml = write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\nkpt_shape: [4, 2]\n")
    samples, findings = read_only(tmp_path)
    np.testing.assert_allclose(samples[0].boxes, [[40, 32, 60, 48]], atol=1e-4)
    assert [(f.kind, "line 2" in f.message) for f in findings.items] == [("malformed", True)]
    write(yaml, "train: images/train\nnames: [cat]\nkpt_shape: 17\n")
    assert [f.kind for f in check(tmp_path).findings] == ["unparsable"]


@pytest.mark.parametrize(
    ("names", "splits"),
    [(["instances_train2017", "instances_val2017"], {"train", "val"}), (["all"], {"train"}), (["valid"], {"val"})],
)
def test_splits_get_the_names_that_yolo_knows(tmp_path, names, splits):
    for seed, name in enumerate(names):
        write(tmp_path / "images" / f"{name}.jpg", encoded(seed))
        write_coco_json(tmp_path / "annotations" / f"{name}.json", (1, f"{name}.jpg"))
    convert(tmp_path, tmp_path / "out", format="yolo")
    found, findings = read_all(tmp_path / "out")
    assert not findings.items
    assert {split: len(samples) for split, samples in found.items()} == dict.fromkeys(splits, 1)


def test_splits_that_yolo_can_not_hold_are_refused(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / "images" / f"{name}.jpg", encoded(1))
        write_coco_json(tmp_path / f"{name}.json", (1, f"{name}.jpg"))
    with pytest.raises(ConfigError, match="first, second"):
        convert(tmp_path, tmp_path / "out", format="yolo")
