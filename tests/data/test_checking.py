import copy
import json
import shutil

import pytest
from data.small_sets import encoded, write, write_coco_json
from PIL import Image

from openglip.data.checking import check
from openglip.errors import ConfigError, DataError

CLEAN = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in (11, 12, 13)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "traffic_light"}],
    "annotations": [
        {"id": 1, "image_id": 11, "category_id": 1, "bbox": [1, 2, 30, 40]},
        {"id": 2, "image_id": 12, "category_id": 2, "bbox": [0, 0, 100, 80]},
        {"id": 3, "image_id": 12, "category_id": 1, "bbox": [5, 5, 20, 20]},
    ],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in (11, 12, 13, 21, 22):
        write(tmp_path / "images" / f"{i}.jpg", encoded(i))
    (tmp_path / "train.json").write_text(json.dumps(CLEAN))
    return tmp_path


def kinds(report):
    return {(finding.kind, finding.id) for finding in report.findings}


def test_nothing_is_found_where_nothing_is_wrong(folder):
    report = check(folder / "train.json")
    assert report.findings == []
    assert report.counts == {"images": 3, "boxes": 3}


def bbox(content, value):
    content["annotations"][0]["bbox"] = value


def category(content, number, name):
    content["categories"].append({"id": number, "name": name})


PLANTED = {
    "box beyond the border": (lambda c: bbox(c, [50, 2, 90, 40]), ("box_outside", 1)),
    "box elsewhere": (lambda c: bbox(c, [500, 2, 9, 40]), ("box_outside", 1)),
    "box without width": (lambda c: bbox(c, [5, 5, 0, 9]), ("box_degenerate", 1)),
    "box turned inside out": (lambda c: bbox(c, [5, 5, -3, 9]), ("box_degenerate", 1)),
    "box with NaN": (lambda c: bbox(c, [5, float("nan"), 3, 9]), ("box_not_finite", 1)),
    "box with infinity": (lambda c: bbox(c, [5, 5, float("inf"), 9]), ("box_not_finite", 1)),
    "box of three numbers": (lambda c: bbox(c, [5, 5, 3]), ("malformed", 1)),
    "unknown category": (lambda c: c["annotations"][0].update(category_id=9), ("unmapped_class", 1)),
    "annotation of no image": (lambda c: c["annotations"][0].update(image_id=9), ("annotation_without_image", 1)),
    "annotation id twice": (lambda c: c["annotations"][1].update(id=1), ("duplicate_id", 1)),
    "image id twice": (lambda c: c["images"].append(c["images"][0]), ("duplicate_id", 11)),
    "category id twice": (lambda c: category(c, 1, "dog"), ("duplicate_id", 1)),
    "names equal after cleaning": (lambda c: category(c, 3, "cat (tabby)"), ("colliding_names", "cat")),
    "names equal but for case": (lambda c: category(c, 3, "Traffic light"), ("colliding_names", "traffic_light")),
    "name empty after cleaning": (lambda c: category(c, 3, "(all)"), ("empty_name", "(all)")),
    "missing image": (lambda c: c["images"][0].update(file_name="none.jpg"), ("missing_image", 11)),
    "other size": (lambda c: c["images"][0].update(width=90), ("size_mismatch", 11)),
    "size of zero": (lambda c: c["images"][0].update(width=0), ("malformed", 11)),
    "image without a file name": (lambda c: c["images"][2].pop("file_name"), ("malformed", None)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_faults_of_a_coco_file(folder, name):
    content = copy.deepcopy(CLEAN)
    plant, expected = PLANTED[name]
    plant(content)
    (folder / "train.json").write_text(json.dumps(content))
    report = check(folder / "train.json")
    assert expected in kinds(report)
    assert report.counts[expected[0]] >= 1
    finding = next(f for f in report.findings if (f.kind, f.id) == expected)
    assert finding.message
    assert finding.file


def test_a_file_that_does_not_parse(folder):
    (folder / "train.json").write_text(json.dumps(CLEAN)[:-30])
    assert [f.kind for f in check(folder / "train.json").findings] == ["unparsable"]
    assert str(folder / "train.json") in check(folder).findings[0].file


def test_unreadable_and_turned_images(folder):
    (folder / "images" / "11.jpg").write_bytes((folder / "images" / "11.jpg").read_bytes()[:300])
    (folder / "images" / "12.jpg").write_bytes(b"")
    turned = Image.open(folder / "images" / "13.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "images" / "13.jpg", exif=exif)
    report = check(folder / "train.json")
    assert kinds(report) == {("unreadable_image", 11), ("unreadable_image", 12), ("size_mismatch", 13)}
    assert "turned" in report.findings[-1].message


def val(folder, *images):
    content = {**CLEAN, "images": [{"width": 100, "height": 80, **i} for i in images], "annotations": []}
    (folder / "val.json").write_text(json.dumps(content))


def test_leakage_by_id(folder):
    val(folder, {"id": 12, "file_name": "21.jpg"}, {"id": 22, "file_name": "22.jpg"})
    assert kinds(check(folder)) == {("leak_id", 12)}


def test_ids_that_only_count_are_no_leak(folder):
    content = copy.deepcopy(CLEAN)
    for number, image in enumerate(content["images"], start=1):
        image["id"] = number
    content["annotations"] = []
    (folder / "train.json").write_text(json.dumps(content))
    val(folder, {"id": 1, "file_name": "21.jpg"}, {"id": 2, "file_name": "22.jpg"})
    assert check(folder).findings == []


def test_leakage_by_content(folder):
    shutil.copy(folder / "images" / "11.jpg", folder / "images" / "21.jpg")
    Image.open(folder / "images" / "13.jpg").resize((50, 40)).save(folder / "images" / "22.jpg", quality=60)
    val(folder, {"id": 21, "file_name": "21.jpg"}, {"id": 22, "file_name": "22.jpg", "width": 50, "height": 40})
    report = check(folder)
    assert [f.kind for f in report.findings] == ["leak_image", "leak_image"]
    assert "equal pixels" in report.findings[0].message
    assert "look alike" in report.findings[1].message


def test_a_further_split_elsewhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(folder / "images" / "12.jpg", elsewhere / "x.jpg")
    (elsewhere / "test.json").write_text(json.dumps({"images": [{"id": 5, "file_name": "x.jpg"}], "annotations": []}))
    report = check(folder / "train.json", against={"test": elsewhere / "test.json"})
    assert [f.kind for f in report.findings] == ["leak_image"]


def test_planted_faults_of_captions(folder):
    regions = [
        {"bbox": [1, 2, 30, 40], "phrase": "a cat", "tokens_positive": [[0, 5], [3, 99]]},
        {"bbox": [1, 2, 30, 40], "phrase": "an owl"},
        {"bbox": [1, 2], "phrase": "a cat"},
    ]
    good = {
        "filename": "images/11.jpg",
        "height": 80,
        "width": 100,
        "grounding": {"caption": "a cat", "regions": regions},
    }
    (folder / "train.json").unlink()
    (folder / "a.jsonl").write_text(f'{json.dumps(good)}\n{{"filename": "x.jpg"}}\n')
    assert {kind for kind, _ in kinds(check(folder))} == {"span_outside", "phrase_not_in_caption", "malformed"}


def test_planted_faults_of_a_yolo_folder(folder):
    (folder / "train.json").unlink()
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    (folder / "labels" / "11.txt").write_text("7 0.5 0.5 0.1 0.1\n0 0.5 0.5 1.5 0.1\n0 0.5 0.5 0 0.1\ncat\n")
    write(folder / "images" / "12.png", encoded(12))
    (folder / "images" / "13.jpg").write_bytes(b"nothing")
    found = {kind for kind, _ in kinds(check(folder))}
    assert found == {"unmapped_class", "box_outside", "box_degenerate", "malformed", "duplicate_id", "unreadable_image"}


def test_wrong_use_is_an_error_and_no_finding(folder):
    with pytest.raises(DataError, match="no such file"):
        check(folder / "nothing.json")
    with pytest.raises(ConfigError, match="can't tell the format"):
        check(folder / "images")
    with pytest.raises(ConfigError, match="no format 'cocoa'"):
        check(folder / "train.json", format="cocoa")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["animals", "kangaroo", "playing_cards", "household", "coco_mini"])
def test_the_research_sets_are_clean(shared, name):
    assert check(shared / "data" / name).findings == []


def test_a_split_of_the_same_name_is_checked_beside_it(tmp_path):
    write(tmp_path / "new" / "a.jpg", encoded(1))
    write(tmp_path / "old" / "b.jpg", encoded(2))
    new = write_coco_json(tmp_path / "new" / "train.json", (1, "a.jpg"), categories=[{"id": 9, "name": "cat"}])
    old = write_coco_json(tmp_path / "old" / "train.json", (1, "b.jpg"))
    report = check(new, against={"train": old})
    assert [f.kind for f in report.findings] == ["unmapped_class"]
    assert report.counts["images"] == 2
    write(tmp_path / "old" / "b.jpg", encoded(1))
    assert check(new, against={"train": old}).findings[-1].file == "train, train (against)"


def test_ids_of_other_digits_are_no_count(tmp_path):
    for split in ("train", "val"):
        write(tmp_path / f"{split}.jpg", encoded(len(split)))
        write_coco_json(tmp_path / f"{split}.json", ("①", f"{split}.jpg"))
    assert [f.kind for f in check(tmp_path).findings] == ["leak_id"]


def test_every_entry_of_a_image_has_its_size(tmp_path):
    write(tmp_path / "a.jpg", encoded(1))
    images = [{"id": i, "file_name": "a.jpg", "width": 100 * i, "height": 80 * i} for i in (1, 2, 2, 3)]
    images[2]["id"] = 4
    report = check(write_coco_json(tmp_path / "train.json", images=images))
    assert [(f.kind, f.id) for f in report.findings] == [("size_mismatch", 2), ("size_mismatch", 3)]  # once a size
    assert report.counts["images"] == 1
