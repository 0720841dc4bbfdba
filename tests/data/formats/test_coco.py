import json
import subprocess
import tarfile

import numpy as np
import pytest
from data.small_sets import encoded, write, write_coco_json
from PIL import Image

from openglip.data.checking import check
from openglip.data.findings import Findings
from openglip.data.formats.coco import read_coco
from openglip.data.reading import open_splits
from openglip.errors import DataError


def instances(path, **parts):
    content = {
        "images": [
            {"id": 5, "file_name": "a.jpg", "width": 100, "height": 80},
            {"id": 9, "file_name": "b.jpg", "width": 50, "height": 40},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 2, "name": "traffic light"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 7, "bbox": [10.5, 20.25, 30, 40], "iscrowd": 0},
            {"id": 2, "image_id": 5, "category_id": 2, "bbox": [90, 70, 30, 30]},
        ],
    }  # fmt: skip
    path.write_text(json.dumps({**content, **parts}))
    return path


def annotation(id, **changes):
    return {"id": id, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4], **changes}


def test_boxes_names_and_images_without_boxes(tmp_path):
    one, two = read_coco(instances(tmp_path / "a.json"), tmp_path)
    np.testing.assert_allclose(one.boxes, [[10.5, 20.25, 40.5, 60.25], [90, 70, 100, 80]])
    assert one.categories == ("traffic light", "dog")
    assert one.names == ("dog", "traffic light")
    assert (one.size, one.image_id, one.exhaustive, one.image) == ((80, 100), 5, True, str(tmp_path / "a.jpg"))
    assert len(two) == 0


def test_what_cannot_be_used_is_left_out_counted_and_named(tmp_path):
    annotations = [
        annotation(1, iscrowd=1),
        annotation(2, bbox=[5, 5, 0, 3]),
        annotation(3, bbox=[float("nan"), 5, 4, 3]),
        annotation(4, category_id=3),
        annotation(5, bbox=[200, 10, 10, 10]),
        annotation(6, bbox=[50, 50, 90, 10]),
        annotation(7, image_id=77),
        annotation(8, bbox="left"),
        annotation(8),
    ]
    findings = Findings()
    one, _ = read_coco(instances(tmp_path / "a.json", annotations=annotations), tmp_path, findings=findings)
    assert len(one) == 2
    assert findings.counts == {
        "crowd": 1, "box_degenerate": 1, "box_not_finite": 1, "unmapped_class": 1, "box_outside": 2,
        "annotation_without_image": 1, "malformed": 1, "duplicate_id": 1,
    }  # fmt: skip
    assert {f.id for f in findings.items if f.kind == "box_outside"} == {5, 6}


def test_findings_are_logged_where_nobody_collects_them(tmp_path, caplog):
    list(read_coco(instances(tmp_path / "a.json", annotations=[annotation(2, bbox=[5, 5, 0, 3])]), tmp_path))
    assert "1 box_degenerate" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1"),
        ("[]", "no object"),
        ('{"images": []}', "annotations"),
    ],
)
def test_files_that_are_no_coco_json(tmp_path, content, message):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        list(read_coco(file))
    assert "a.json" in str(error.value)


def test_merged_sources_know_only_their_own_categories(tmp_path):
    images = [
        {"id": 5, "file_name": "a.jpg", "width": 100, "height": 80, "source": "x"},
        {"id": 9, "file_name": "b.jpg", "width": 50, "height": 40, "source": "y"},
    ]
    info = {"source_categories": {"x": [7, 2], "y": [2]}}
    one, two = read_coco(instances(tmp_path / "a.json", images=images, info=info), tmp_path, exhaustive=["y"])
    assert (one.categories, two.categories) == (("traffic light", "dog"), ("traffic light",))
    assert (one.exhaustive, two.exhaustive) == (False, True)
    assert (one.source, two.source) == ("x", "y")


def test_images_are_found_beside_the_file_and_in_tars(tmp_path):
    (tmp_path / "annotations").mkdir()
    file = instances(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (100, 80)).save(tmp_path / "train2017" / "a.jpg")
    assert next(read_coco(file)).image == str(tmp_path / "train2017" / "a.jpg")
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        tar.add(tmp_path / "train2017" / "a.jpg", "a.jpg")
    assert next(read_coco(file, tmp_path)).image == str(tmp_path / "train2017" / "a.jpg"), "a folder of splits"
    member = next(read_coco(file, tmp_path / "pictures.tar")).image
    assert member.read() == (tmp_path / "train2017" / "a.jpg").read_bytes()


def test_a_missing_image_does_not_hide_the_others(tmp_path):
    file = instances(tmp_path / "train.json")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (50, 40)).save(tmp_path / "images" / "b.jpg")
    assert [s.image for s in read_coco(file)] == [str(tmp_path / "images" / name) for name in ("a.jpg", "b.jpg")]


def test_sizes_are_read_from_images_where_the_file_has_none(tmp_path):
    Image.new("RGB", (33, 22)).save(tmp_path / "a.jpg")
    file = instances(tmp_path / "a.json", images=[{"id": 5, "file_name": "a.jpg"}], annotations=[])
    assert next(read_coco(file)).size == (22, 33)


def test_research_sets(shared):
    def counts(path):
        samples = list(read_coco(shared / "data" / path))
        return len(samples), sum(map(len, samples)), sum(not len(s) for s in samples)

    assert counts("coco_mini/annotations/val.json")[:2] == (400, 3479 - 41)
    assert counts("animals/annotations/train.json")[:2] == (427, 1113)
    household = list(read_coco(shared / "data/household/annotations/train.json"))
    assert sum(map(len, household)) == 3907 - 5
    assert household[0].image.read()[:2] == b"\xff\xd8"


def test_coco_as_it_is_unzipped_is_its_instances(tmp_path):
    write(tmp_path / "train2017" / "1.jpg", encoded(1))
    write_coco_json(tmp_path / "annotations" / "instances_train2017.json", (1, "1.jpg"))
    write_coco_json(tmp_path / "annotations" / "person_keypoints_train2017.json", (1, "1.jpg"))
    captions = [{"id": 1, "image_id": 1, "caption": "a cat"}]
    write_coco_json(tmp_path / "annotations" / "captions_train2017.json", (1, "1.jpg"), annotations=captions)
    assert set(open_splits(tmp_path)) == {"train2017"}
    assert check(tmp_path).findings == []


def test_coco_images_known_by_their_address_only(tmp_path):
    write(tmp_path / "train2017" / "1.jpg", encoded(1))
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/train2017/1.jpg", "width": 100, "height": 80}
    boxes = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": str(i)} for i in (0, 1)]
    source = write_coco_json(tmp_path / "train.json", images=[image], annotations=boxes)
    report = check(source)
    assert report.findings == []
    assert (report.counts["boxes"], report.counts["crowd"]) == (1, 1)


@pytest.mark.parametrize(
    "name", ["https://x/b.jpg?signed=" + "f" * 5000, "data:image/png;base64," + "A" * 5000, "f" * 999]
)
def test_a_name_that_is_no_files_is_a_finding(tmp_path, name):
    write(tmp_path / "a.jpg", encoded(1))
    (finding,) = check(write_coco_json(tmp_path / "train.json", (1, "a.jpg"), (2, name))).findings
    assert (finding.id, finding.kind in ("missing_image", "unreadable_image")) == (2, True)
    write(tmp_path / "list.txt", f"a.jpg\n{name}\n")
    yaml = write(tmp_path / "data.yaml", "train: list.txt\nnames: [cat]\n")
    assert [f.kind for f in check(yaml).findings] == ["missing_image"]


@pytest.mark.parametrize("what", ["-C pics .", "pics"])
def test_tars_made_of_a_folder_hold_its_images(tmp_path, what):
    write(tmp_path / "pics" / "1.jpg", encoded(1))
    subprocess.run(["tar", "cf", "pics.tar", *what.split()], cwd=tmp_path, check=True)
    source = write_coco_json(tmp_path / "train.json", (1, "1.jpg"))
    assert check(source, images=tmp_path / "pics.tar").findings == []
