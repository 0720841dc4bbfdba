"""Layouts and accidents of real data sets that the formats' own documents don't show."""

import contextlib
import io
import json
import struct
import subprocess
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image

from openglip.data.checking import check
from openglip.data.conversion import convert
from openglip.data.files import image_content, image_size
from openglip.data.findings import Findings
from openglip.data.reading import open_splits
from openglip.errors import ConfigError, DataError


def encoded(seed, size=(100, 80), **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def coco(path, *images, boxes=True, **more):
    content = {
        "images": [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in images],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": 1, "bbox": [1, 2, 30, 40]} for n, (i, _) in enumerate(images)
        ]
        if boxes
        else [],
    }
    return write(path, content | more)


def read(path, images=None):
    """All samples of a path by split, and what was found."""
    findings = Findings()
    return {name: list(split(findings)) for name, split in open_splits(path, None, images).items()}, findings


def kinds(report):
    return [finding.kind for finding in report.findings]


VOC = "<annotation><filename>{}</filename><size><width>{}</width><height>{}</height></size>{}</annotation>"
OBJECT = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"


@pytest.mark.parametrize("out", ["new/o.json", "new/o.jsonl", "new"])
def test_pictures_of_one_name_in_several_tars_stay_apart(tmp_path, out):
    pictures = {"train": encoded(1), "val": encoded(2)}
    for split, content in pictures.items():
        tar(tmp_path / "in" / split / "0.tar", {"0.jpg": content, "0.txt": b"a cat"})
    write(tmp_path / "new" / "images" / "0.jpg", encoded(3)) if out != "new" else None  # lies there already
    for split, content in pictures.items():
        target = tmp_path / out / f"{split}.json" if out == "new" else tmp_path / out.replace("o.", f"{split}.")
        convert(tmp_path / "in" / split, target)
        if target.suffix == ".json":
            (samples,) = read(target)[0].values()
            assert image_content(samples[0].image) == content
        else:
            place = target.parent / json.loads(target.read_text())["filename"]
            assert place.read_bytes() == content


@pytest.mark.parametrize("name", ["webdataset", "voc", "yolo"])
def test_no_picture_is_lost_where_names_collide(tmp_path, name):
    files = ["x/a.jpg", "y/a.jpg", "x/a-2.jpg", "x/b.c.jpg", "x/b_c.jpg"]
    for seed, file in enumerate(files):
        write(tmp_path / "in" / file, encoded(seed))
    source = coco(tmp_path / "in" / "train.json", *enumerate(files, start=1))
    assert convert(source, tmp_path / "out", format=name).samples == 5
    (samples,) = read(tmp_path / "out")[0].values()
    contents = {image_content(s.image) for s in samples}
    assert contents == {encoded(seed) for seed in range(5)}


def test_ids_that_are_no_numbers_get_free_ones(tmp_path):
    for seed, file in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        write(tmp_path / file, encoded(seed))
    source = coco(tmp_path / "train.json", (2, "a.jpg"), ("x", "b.jpg"), (3, "c.jpg"))
    made = convert(source, tmp_path / "out" / "o.json")
    (samples,) = read(tmp_path / "out" / "o.json")[0].values()
    assert made.samples == len({s.image_id for s in samples}) == 3
    assert samples[0].image_id == 2


@pytest.mark.parametrize(
    ("names", "splits"),
    [(["instances_train2017", "instances_val2017"], {"train", "val"}), (["all"], {"train"}), (["valid"], {"val"})],
)
def test_splits_get_the_names_that_yolo_knows(tmp_path, names, splits):
    for seed, name in enumerate(names):
        write(tmp_path / "images" / f"{name}.jpg", encoded(seed))
        coco(tmp_path / "annotations" / f"{name}.json", (1, f"{name}.jpg"))
    convert(tmp_path, tmp_path / "out", format="yolo")
    found, findings = read(tmp_path / "out")
    assert not findings.items
    assert {split: len(samples) for split, samples in found.items()} == dict.fromkeys(splits, 1)


def test_splits_that_yolo_can_not_hold_are_refused(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / "images" / f"{name}.jpg", encoded(1))
        coco(tmp_path / f"{name}.json", (1, f"{name}.jpg"))
    with pytest.raises(ConfigError, match="first, second"):
        convert(tmp_path, tmp_path / "out", format="yolo")


def test_verified_labels_are_those_of_the_same_split(tmp_path):
    write(tmp_path / "class-descriptions-boxable.csv", "/m/1,Cat\n/m/2,Dog\n/m/3,Bus\n")
    for split, absent in (("train", "/m/2"), ("test", "/m/3")):
        write(tmp_path / f"{split}1.jpg", encoded(1))
        rows = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n"
        write(tmp_path / f"{split}-annotations-bbox.csv", rows + f"{split}1,x,/m/1,1,0.1,0.5,0.1,0.5,0\n")
        labels = f"ImageID,Source,LabelName,Confidence\n{split}1,v,{absent},0\n"
        write(tmp_path / f"{split}-annotations-human-imagelabels-boxable.csv", labels)
    found, _ = read(tmp_path)
    assert {name: samples[0].negatives for name, samples in found.items()} == {
        "train-annotations-bbox": ("Dog",),
        "test-annotations-bbox": ("Bus",),
    }


def odvg_line(**instance):
    item = {"bbox": [1, 2, 30, 40], "label": 0, **instance}
    return {"filename": "a.jpg", "height": 80, "width": 100, "detection": {"instances": [item]}}


def test_the_label_map_is_the_one_that_bears_the_files_name(tmp_path):
    write(tmp_path / "a.jpg", encoded(1))
    write(tmp_path / "coco2017_label_map.json", {"0": "person"})
    write(tmp_path / "lvis_v1_label_map.json", {"0": "aerosol_can"})
    lvis = write(tmp_path / "lvis_v1_train_odvg.jsonl", odvg_line(category="aerosol can"))
    (samples,) = read(lvis)[0].values()
    assert samples[0].names == ("aerosol_can",)
    with pytest.raises(DataError, match=r"label map.*mine_label_map\.json"):
        read(write(tmp_path / "mine.jsonl", odvg_line()))
    wrong = write(tmp_path / "coco2017.jsonl", odvg_line(category="dog"))
    (samples,), findings = read(wrong)[0].values(), read(wrong)[1]
    assert len(samples[0]) == 0
    assert [f.kind for f in findings.items] == ["class_mismatch"]


def test_a_picture_that_a_tag_turns_has_its_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "images" / "train" / "a.jpg", encoded(1, exif=exif))
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.25 1 0.5\n")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    (samples,) = read(tmp_path)[0].values()
    assert samples[0].size == (100, 80)
    assert samples[0].boxes.tolist() == [[0, 0, 80, 50]]
    assert check(tmp_path).findings == []


@pytest.mark.parametrize("what", ["-C pics .", "pics"])
def test_tars_made_of_a_folder_hold_its_pictures(tmp_path, what):
    write(tmp_path / "pics" / "1.jpg", encoded(1))
    subprocess.run(["tar", "cf", "pics.tar", *what.split()], cwd=tmp_path, check=True)
    source = coco(tmp_path / "train.json", (1, "1.jpg"))
    assert check(source, images=tmp_path / "pics.tar").findings == []


def test_yolo_labels_without_a_picture_and_beside_it(tmp_path):
    for name in ("a", "b", "gone"):
        write(tmp_path / "images" / "train" / f"{name}.jpg", encoded(ord(name[0])))
        write(tmp_path / "labels" / "train" / f"{name}.txt", "0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "images" / "train" / "gone.jpg").unlink()
    (tmp_path / "labels" / "train" / "b.txt").rename(tmp_path / "images" / "train" / "b.txt")
    write(tmp_path / "labels" / "train" / "classes.txt", "cat\n")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    (samples,), findings = read(tmp_path)[0].values(), read(tmp_path)[1]
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


def test_yolo_pictures_of_one_name_in_two_folders_are_two(tmp_path):
    for seed, folder in enumerate(("x", "y")):
        write(tmp_path / "images" / "train" / folder / "1.jpg", encoded(seed))
        write(tmp_path / "labels" / "train" / folder / "1.txt", "nan 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n")
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    report = check(tmp_path)
    assert kinds(report) == ["malformed", "malformed"]  # the class that is no number
    assert report.counts["boxes"] == 2


def test_a_yaml_without_a_split_is_said(tmp_path):
    write(tmp_path / "data.yaml", "training: images\nnames: [cat]\n")
    with pytest.raises(DataError, match="names none of train, val, test"):
        check(tmp_path)


def voc(tmp_path, **files):
    for name, tree in files.items():
        write(tmp_path / "Annotations" / f"{name}.xml", tree)
    return tmp_path


def test_voc_trainval_is_read_where_it_is_not_parted(tmp_path):
    for name in ("a", "my b"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", encoded(len(name)))
        voc(tmp_path, **{name: VOC.format(f"{name}.jpg", 100, 80, OBJECT)})
    write(tmp_path / "ImageSets" / "Main" / "trainval.txt", "a\n")
    write(tmp_path / "ImageSets" / "Main" / "test.txt", "my b\n")
    found, findings = read(tmp_path)
    assert {name: [s.image_id for s in samples] for name, samples in found.items()} == {
        "trainval": ["a"],
        "test": ["my b"],
    }
    assert not findings.items


def test_voc_pictures_in_folders_are_told_apart(tmp_path):
    for seed, folder in enumerate(("train", "val")):
        write(tmp_path / "JPEGImages" / folder / "a.jpg", encoded(seed))
    (samples,) = read(voc(tmp_path, a=VOC.format("train/a.jpg", 100, 80, OBJECT)))[0].values()
    assert image_content(samples[0].image) == encoded(0)


def test_one_damaged_voc_file_does_not_end_the_others(tmp_path):
    for name in ("good", "extra"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", encoded(len(name)))
    voc(tmp_path, bad=VOC.format("none.jpg", "inf", 0, OBJECT), good=VOC.format("good.jpg", 100, 80, OBJECT))
    (samples,), findings = read(tmp_path)[0].values(), read(tmp_path)[1]
    assert [s.image_id for s in samples] == ["good"]
    assert {(f.kind, f.id) for f in findings.items} == {("missing_image", "bad"), ("missing_annotation", "extra")}


def test_a_shards_caption_may_stand_beside_its_numbers(tmp_path):
    size = json.dumps({"url": "x", "width": 100, "height": 80}).encode()
    members = {"a.jpg": encoded(1), "a.json": size, "a.txt": b"two cats", "b.jpg": encoded(2), "b.json": size}
    (samples,), findings = (found := read(tar(tmp_path / "0.tar", members)))[0].values(), found[1]
    assert [(s.image_id, s.caption) for s in samples] == [("a", "two cats")]
    assert [(f.kind, f.id) for f in findings.items] == [("malformed", "b")]


def test_a_shards_names_are_its_instances_without_a_label_map(tmp_path):
    line = odvg_line(category="dog", label=4)
    (samples,) = read(tar(tmp_path / "0.tar", {"a.jpg": encoded(1), "a.json": json.dumps(line).encode()}))[0].values()
    assert samples[0].names == ("dog",)


@pytest.fixture
def parquet(tmp_path):
    """Writes rows as a file of two columns or more."""
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow (extra train)")
    pq = pytest.importorskip("pyarrow.parquet")

    def write_rows(name, rows):
        (tmp_path / "pq").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pq" / name)
        return tmp_path / "pq"

    return write_rows


def test_a_bad_parquet_row_does_not_end_the_others(parquet):
    good = {"image": encoded(1), "caption": "a cat", "boxes": [[1.0, 2.0, 30.0, 40.0]], "tokens_positive": [[[2, 5]]]}
    bad = [
        {**good, "image": b"no picture"},
        {**good, "image": None},
        {**good, "caption": None},
        {**good, "boxes": [[1.0, 2.0, 3.0]]},
        {**good, "boxes": [[1.0] * 8]},
        {**good, "scores": []},
        {**good, "scores": [0.5, 0.5]},
    ]
    folder = parquet("a.parquet", [{"scores": [0.5], **row} for row in (good, *bad, good)])
    (samples,), findings = (found := read(folder))[0].values(), found[1]
    assert [s.image_id for s in samples][:1] == [0]
    assert len(samples) == 2 + 1  # no scores are none at all
    assert {f.id for f in findings.items} == {1, 2, 3, 4, 5, 7}
    assert {f.kind for f in findings.items} == {"malformed"}


def test_every_row_of_every_parquet_file_is_opened(parquet, tmp_path):
    for number in range(2):
        folder = parquet(f"part-{number}.parquet", [{"image": encoded(number), "caption": "a cat"}])
    write(tmp_path / "x", b"")
    report = check(folder)
    assert report.counts["images"] == 2
    assert report.findings == []
    made = convert(folder, tmp_path / "out" / "o.json")
    (samples,) = read(tmp_path / "out" / "o.json")[0].values()
    assert made.samples == 2
    assert {image_content(s.image) for s in samples} == {encoded(0), encoded(1)}


def test_parquet_files_named_after_splits_are_splits(parquet):
    for split in ("train", "test"):
        folder = parquet(f"{split}-00000-of-00001.parquet", [{"image": encoded(1), "caption": "a cat"}])
    assert set(open_splits(folder)) == {"train", "test"}
    assert "leak_image" in kinds(check(folder))


def test_coco_as_it_is_unzipped_is_its_instances(tmp_path):
    write(tmp_path / "train2017" / "1.jpg", encoded(1))
    coco(tmp_path / "annotations" / "instances_train2017.json", (1, "1.jpg"))
    coco(tmp_path / "annotations" / "person_keypoints_train2017.json", (1, "1.jpg"))
    captions = [{"id": 1, "image_id": 1, "caption": "a cat"}]
    coco(tmp_path / "annotations" / "captions_train2017.json", (1, "1.jpg"), annotations=captions)
    assert set(open_splits(tmp_path)) == {"train2017"}
    assert check(tmp_path).findings == []


def test_coco_pictures_known_by_their_address_only(tmp_path):
    write(tmp_path / "train2017" / "1.jpg", encoded(1))
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/train2017/1.jpg", "width": 100, "height": 80}
    boxes = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": str(i)} for i in (0, 1)]
    source = coco(tmp_path / "train.json", images=[image], annotations=boxes)
    report = check(source)
    assert report.findings == []
    assert (report.counts["boxes"], report.counts["crowd"]) == (1, 1)


def test_a_field_too_long_for_csv_is_said(tmp_path):
    write(tmp_path / "class-descriptions-boxable.csv", "/m/1,Cat\n")
    rows = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\n" + "x" * 140_000 + "\n"
    report = check(write(tmp_path / "train-annotations-bbox.csv", rows))
    assert kinds(report) == ["unparsable"]


def test_a_split_of_the_same_name_is_checked_beside_it(tmp_path):
    write(tmp_path / "new" / "a.jpg", encoded(1))
    write(tmp_path / "old" / "b.jpg", encoded(2))
    new = coco(tmp_path / "new" / "train.json", (1, "a.jpg"), categories=[{"id": 9, "name": "cat"}])
    old = coco(tmp_path / "old" / "train.json", (1, "b.jpg"))
    report = check(new, against={"train": old})
    assert kinds(report) == ["unmapped_class"]
    assert report.counts["images"] == 2
    write(tmp_path / "old" / "b.jpg", encoded(1))
    assert check(new, against={"train": old}).findings[-1].file == "train, train (against)"


def test_a_name_of_against_is_given_once(tmp_path):
    pytest.importorskip("typer", reason="needs typer (extra cli)")
    from openglip.cli.data import _named_paths

    with pytest.raises(ConfigError, match="val is given twice"):
        _named_paths([f"val={tmp_path}", f"val={tmp_path}"])


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


@pytest.mark.parametrize(
    "name", ["https://x/b.jpg?signed=" + "f" * 5000, "data:image/png;base64," + "A" * 5000, "f" * 999]
)
def test_a_name_that_is_no_files_is_a_finding(tmp_path, name):
    write(tmp_path / "a.jpg", encoded(1))
    (finding,) = check(coco(tmp_path / "train.json", (1, "a.jpg"), (2, name))).findings
    assert (finding.id, finding.kind in ("missing_image", "unreadable_image")) == (2, True)
    write(tmp_path / "list.txt", f"a.jpg\n{name}\n")
    yaml = write(tmp_path / "data.yaml", "train: list.txt\nnames: [cat]\n")
    assert kinds(check(yaml)) == ["missing_image"]


def test_ids_of_other_digits_are_no_count(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"{split}.jpg", encoded(len(split)))
        coco(tmp_path / f"{split}.json", ("①", f"{split}.jpg"))
    assert kinds(check(tmp_path)) == ["leak_id"]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_one_yolo_file_in_another_encoding_does_not_end_the_others(tmp_path, encoding):
    for name in ("a", "b"):
        write(tmp_path / "images" / "train" / f"{name}.jpg", encoded(ord(name)))
        write(tmp_path / "labels" / "train" / f"{name}.txt", "0 0.5 0.5 0.2 0.2\n")
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 0.2 0.2 é\n".encode(encoding))
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\n")
    (samples,), findings = (found := read(tmp_path))[0].values(), found[1]
    assert [(s.image_id, len(s)) for s in samples] == [("b", 1)]  # "a" is no picture without objects
    assert [(f.kind, f.id) for f in findings.items] == [("unparsable", "a")]


@pytest.mark.parametrize("encoding", ["gb2312", "no-such"])
def test_one_voc_file_in_another_encoding_does_not_end_the_others(tmp_path, encoding):
    for name in ("a", "b"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", encoded(ord(name)))
        voc(tmp_path, **{name: VOC.format(f"{name}.jpg", 100, 80, OBJECT)})
    voc(tmp_path, a=f'<?xml version="1.0" encoding="{encoding}"?>' + VOC.format("a.jpg", 100, 80, OBJECT))
    (samples,), findings = (found := read(tmp_path))[0].values(), found[1]
    assert [s.image_id for s in samples] == ["b"]
    assert [(f.kind, f.id) for f in findings.items] == [("unparsable", "a")]


@pytest.mark.parametrize("packed", [False, True])
def test_one_flickr_file_in_another_encoding_does_not_end_the_others(tmp_path, packed):
    box = "<object><name>1</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
    files = {"Annotations": {}, "Sentences": {}}
    for name in ("1", "2", "3"):
        write(tmp_path / "images" / f"{name}.jpg", encoded(int(name)))
        files["Annotations"][f"{name}.xml"] = VOC.format(f"{name}.jpg", 100, 80, box).encode()
        files["Sentences"][f"{name}.txt"] = b"[/EN#1/animals A cat] ."
    files["Annotations"]["2.xml"] = files["Annotations"]["2.xml"].decode().encode("utf-16")
    files["Sentences"]["3.txt"] = "[/EN#1/animals A cat] in a café .".encode("latin-1")
    for folder, members in files.items():
        if packed:
            tar(tmp_path / f"{folder}.tar", members)
        else:
            for name, content in members.items():
                write(tmp_path / folder / name, content)
    (samples,), findings = (found := read(tmp_path))[0].values(), found[1]
    assert [s.image_id for s in samples] == ["1/0"]
    assert [(f.kind, f.id) for f in findings.items] == [("unparsable", "2"), ("unparsable", "3")]


def test_yolo_poses_have_their_box_first(tmp_path):
    write(tmp_path / "images" / "train" / "a.jpg", encoded(1))
    pose, polygon = "0 .5 .5 .2 .2 .45 .45 .55 .45 .55 .55 .45 .55\n", "0 .1 .1 .9 .1 .9 .9\n"
    write(tmp_path / "labels" / "train" / "a.txt", pose + polygon)
    yaml = write(tmp_path / "data.yaml", "train: images/train\nnames: [cat]\nkpt_shape: [4, 2]\n")
    (samples,), findings = (found := read(tmp_path))[0].values(), found[1]
    np.testing.assert_allclose(samples[0].boxes, [[40, 32, 60, 48]], atol=1e-4)
    assert [(f.kind, "line 2" in f.message) for f in findings.items] == [("malformed", True)]
    write(yaml, "train: images/train\nnames: [cat]\nkpt_shape: 17\n")
    assert kinds(check(tmp_path)) == ["unparsable"]


def test_label_studio_tasks_that_are_not_labelled_are_no_negatives(tmp_path):
    base = {"original_width": 100, "original_height": 80}
    place = {"x": 1, "y": 2, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["Car"]}
    car = {**base, "type": "rectanglelabels", "value": place}
    polygon = {**base, "type": "polygonlabels", "value": {"points": [[1, 1], [5, 1], [5, 5]], "polygonlabels": ["Car"]}}
    annotations = {
        "car": [{"result": [car]}],
        "empty": [{"result": []}],
        "rated": [{"result": [{"type": "choices", "value": {"choices": ["night"]}}]}],
        "new": [],
        "skipped": [{"was_cancelled": True, "result": []}],
        "polygon": [{"result": [polygon]}],
        "both": [{"result": [polygon, car]}],
    }
    for seed, name in enumerate(annotations):
        write(tmp_path / f"{name}.jpg", encoded(seed))
    tasks = [{"id": n, "data": {"image": f"{n}.jpg"}, "annotations": items} for n, items in annotations.items()]
    (samples,), findings = (found := read(write(tmp_path / "export.json", tasks)))[0].values(), found[1]
    assert [(s.image_id, len(s)) for s in samples] == [("car", 1), ("empty", 0), ("rated", 0), ("both", 1)]
    assert [(f.kind, f.id) for f in findings.items] == [
        ("missing_annotation", "new"),
        ("missing_annotation", "skipped"),
        ("malformed", "polygon"),
        ("malformed", "both"),
    ]


def test_every_entry_of_a_picture_has_its_size(tmp_path):
    write(tmp_path / "a.jpg", encoded(1))
    images = [{"id": i, "file_name": "a.jpg", "width": 100 * i, "height": 80 * i} for i in (1, 2, 2, 3)]
    images[2]["id"] = 4
    report = check(coco(tmp_path / "train.json", images=images))
    assert [(f.kind, f.id) for f in report.findings] == [("size_mismatch", 2), ("size_mismatch", 3)]  # once a size
    assert report.counts["images"] == 1


def test_voc_pictures_that_were_renamed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "JPEGImages" / f"{name}.jpg", encoded(ord(name)))
        voc(tmp_path, **{name: VOC.format("a.jpg", 100, 80, OBJECT)})
    (samples,), findings = (found := read(tmp_path))[0].values(), found[1]
    assert [image_content(s.image) for s in samples] == [encoded(ord("a")), encoded(ord("b"))]
    assert not findings.items
    voc(tmp_path, **{"0": VOC.format("a.jpg", 100, 80, OBJECT)})  # whose own picture is gone
    (samples,), findings = (found := read(tmp_path))[0].values(), found[1]
    assert [s.image_id for s in samples] == ["a", "b"]
    assert [(f.kind, f.id) for f in findings.items] == [("duplicate_id", "0")]


def test_visual_genome_ids_that_come_back(tmp_path):
    write(tmp_path / "VG_100K" / "1.jpg", encoded(1))
    sizes = [{"image_id": 1, "width": 100, "height": 80}, {"image_id": 1, "width": 500, "height": 400}]
    write(tmp_path / "image_data.json", sizes)
    place = {"object_id": 7, "x": 1, "y": 2, "w": 30, "h": 40}
    objects = [{**place, "names": ["cat"]}, {**place, "names": ["dog"]}]
    write(tmp_path / "objects.json", [{"image_id": 1, "objects": objects}])
    report = check(tmp_path)
    assert [(f.kind, f.id) for f in report.findings] == [("duplicate_id", 1), ("duplicate_id", 7)]
    assert report.counts["boxes"] == 2


@pytest.mark.parametrize("files", [1, 2])
def test_numbers_of_parquet_rows_are_no_ids(parquet, tmp_path, files):
    for seed, split in enumerate(("train", "test")):
        for number in range(files):
            parquet(f"{number:04}.parquet", [{"image": encoded(10 * seed + number), "caption": "a cat"}])
        (tmp_path / "pq").rename(tmp_path / split)
    assert check(tmp_path / "train", against={"test": tmp_path / "test"}).findings == []
    report = check(tmp_path)
    assert report.findings == []
    assert report.counts["images"] == 2 * files


def test_annotation_files_of_one_stem_are_two_splits(tmp_path):
    write(tmp_path / "a.jpg", encoded(1))
    write(tmp_path / "b.jpg", encoded(2))
    coco(tmp_path / "train.json", (1, "a.jpg"), categories=[{"id": 9, "name": "cat"}])
    write(tmp_path / "train_label_map.json", {"0": "cat"})
    write(tmp_path / "train.jsonl", {**odvg_line(), "filename": "b.jpg"})
    coco(tmp_path / "val.json", (1, "c.jpg"))
    assert set(open_splits(tmp_path)) == {"train.json", "train.jsonl", "val"}
    assert kinds(check(tmp_path)) == ["unmapped_class", "missing_image"]
