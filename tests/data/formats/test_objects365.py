import base64
import json

import pytest
from data.small_sets import (
    encoded,
    format_of,
    write,
    write_tsv,
)

from openglip.data.findings import Findings
from openglip.data.formats.objects365 import DetectionTsv, read_objects365
from openglip.data.reading import recognise
from openglip.errors import DataError


def test_objects365_json(tmp_path):
    write(tmp_path / "patch0" / "objects365_v1_00000000.jpg", encoded())
    name = "images/v1/patch0/objects365_v1_00000000.jpg"
    file = write(
        tmp_path / "zhiyuan_objv2_train.json",
        {
            "images": [{"id": 0, "file_name": name, "width": 100, "height": 80, "license": 5, "url": ""}],
            "categories": [{"id": 1, "name": "Person"}, {"id": 13, "name": "Street Lights"}],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 0,
                    "category_id": 13,
                    "bbox": [1.5, 2, 3, 4],
                    "iscrowd": 0,
                    "isfake": 0,
                    "area": 12,
                }
            ],
        },
    )
    (sample,) = read_objects365(file, tmp_path)
    assert sample.image.endswith("patch0/objects365_v1_00000000.jpg")
    assert sample.names == ("Street Lights",)


@pytest.fixture
def objects365(tmp_path):
    image = base64.b64encode(encoded()).decode()
    write_tsv(tmp_path / "train.tsv", [["a", image], ["b", image]])
    objects = [{"class": "Wild Bird", "rect": [1, 2, 30, 40], "conf": 1.0}, {"class": "nothing", "rect": [1, 2, 3, 4]}]
    write_tsv(tmp_path / "label.tsv", [["a", json.dumps({"objects": objects})], ["b", "[]"]])
    write_tsv(tmp_path / "hw.tsv", [["a", '[{"height": 80, "width": 100}]'], ["b", "80 100"]])
    write(tmp_path / "linelist.tsv", "1\n0\n0\n")
    write(tmp_path / "map.json", {"label_to_idx": {"Wild Bird": 2, "Person": 1}})
    names = {
        "img": "train.tsv",
        "label": "label.tsv",
        "hw": "hw.tsv",
        "linelist": "linelist.tsv",
        "labelmap": "map.json",
    }
    return write(tmp_path / "train.yaml", "".join(f"{key}: {name}\n" for key, name in names.items()))


def test_objects365_tsv(objects365):
    findings = Findings()
    samples = DetectionTsv(objects365, findings=findings)
    assert len(samples) == 3
    assert samples.sizes.tolist() == [[80, 100]] * 3
    assert [s.image_id for s in samples] == ["b", "a", "a"]
    assert samples[1].names == ("Wild Bird",)
    assert samples[1].categories == ("Person", "Wild Bird")
    assert samples[1].image.read() == encoded()
    assert [len(s) for s in samples[:2]] == [0, 1]
    assert findings.counts["unmapped_class"] > 0
    assert format_of(objects365) == "objects365-tsv"


def test_tsv_sets_that_do_not_fit_together_are_refused(objects365):
    write_tsv(objects365.parent / "label.tsv", [["a", "[]"]])
    (objects365.parent / "linelist.tsv").write_text("0\n")
    with pytest.raises(DataError, match="2 image rows, but 1 label"):
        DetectionTsv(objects365)
    (objects365.parent / "linelist.tsv").write_text("7\n")
    with pytest.raises(DataError, match=r"linelist\.tsv"):
        DetectionTsv(objects365)


def test_a_set_of_several_label_files_is_named(tmp_path):
    path = write(tmp_path / "set.yaml", "img: a.tsv\nlabel: [a.tsv, b.tsv]\n")
    with pytest.raises(DataError, match=r"set\.yaml: label names no file"):
        recognise(path)
