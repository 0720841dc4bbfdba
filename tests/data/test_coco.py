import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from openglip.data.findings import Findings
from openglip.data.formats.coco import read_coco
from openglip.errors import DataError


def write(path, **parts):
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


def test_boxes_names_and_pictures_without_boxes(tmp_path):
    one, two = read_coco(write(tmp_path / "a.json"), tmp_path)
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
    one, _ = read_coco(write(tmp_path / "a.json", annotations=annotations), tmp_path, findings=findings)
    assert len(one) == 2
    assert findings.counts == {
        "crowd": 1, "box_degenerate": 1, "box_not_finite": 1, "unmapped_class": 1, "box_outside": 2,
        "annotation_without_image": 1, "malformed": 1, "duplicate_id": 1,
    }  # fmt: skip
    assert {f.id for f in findings.items if f.kind == "box_outside"} == {5, 6}


def test_findings_are_logged_where_nobody_collects_them(tmp_path, caplog):
    list(read_coco(write(tmp_path / "a.json", annotations=[annotation(2, bbox=[5, 5, 0, 3])]), tmp_path))
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
    one, two = read_coco(write(tmp_path / "a.json", images=images, info=info), tmp_path, exhaustive=["y"])
    assert (one.categories, two.categories) == (("traffic light", "dog"), ("traffic light",))
    assert (one.exhaustive, two.exhaustive) == (False, True)
    assert (one.source, two.source) == ("x", "y")


def test_pictures_are_found_beside_the_file_and_in_tars(tmp_path):
    (tmp_path / "annotations").mkdir()
    file = write(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (100, 80)).save(tmp_path / "train2017" / "a.jpg")
    assert next(read_coco(file)).image == str(tmp_path / "train2017" / "a.jpg")
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        tar.add(tmp_path / "train2017" / "a.jpg", "a.jpg")
    assert next(read_coco(file, tmp_path)).image == str(tmp_path / "train2017" / "a.jpg"), "a folder of splits"
    member = next(read_coco(file, tmp_path / "pictures.tar")).image
    assert member.read() == (tmp_path / "train2017" / "a.jpg").read_bytes()


def test_a_missing_picture_does_not_hide_the_others(tmp_path):
    file = write(tmp_path / "train.json")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (50, 40)).save(tmp_path / "images" / "b.jpg")
    assert [s.image for s in read_coco(file)] == [str(tmp_path / "images" / name) for name in ("a.jpg", "b.jpg")]


def test_sizes_are_read_from_pictures_where_the_file_has_none(tmp_path):
    Image.new("RGB", (33, 22)).save(tmp_path / "a.jpg")
    file = write(tmp_path / "a.json", images=[{"id": 5, "file_name": "a.jpg"}], annotations=[])
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
