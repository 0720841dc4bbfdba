import pytest
from data.small_sets import format_of, write

from openglip.data.findings import Findings
from openglip.data.formats.mdetr import read_mdetr
from openglip.errors import DataError


def mdetr(tmp_path, **changes):
    image = {
        "id": 3, "file_name": "7.jpg", "width": 100, "height": 80, "caption": "a cat and a dog",
        "dataset_name": "mixed",
        "original_img_id": 7, "sentence_id": 0, "tokens_negative": [[0, 15]], "data_source": "vg", **changes,
    }  # fmt: skip
    annotations = [
        {"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 2, 30, 40], "iscrowd": 0, "tokens_positive": [[2, 5]]},
        {"id": 2, "image_id": 3, "category_id": 1, "bbox": [5, 6, 7, 8], "iscrowd": 0, "tokens_positive": []},
        {"id": 3, "image_id": 3, "category_id": 1, "bbox": [5, 6, 7, 8], "tokens_positive": [[12, 15], [40, 44]]},
    ]
    top = {
        "images": [image],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "object"}],
        "info": [],
        "licenses": [],
    }
    return write(tmp_path / "final_mixed_train.json", top)


def test_mdetr(tmp_path):
    findings = Findings()
    (sample,) = read_mdetr(mdetr(tmp_path), {"vg": tmp_path}, findings=findings)
    assert sample.names == ("cat", "dog")
    assert findings.counts == {"box_without_phrase": 1, "span_outside": 1}
    assert list(read_mdetr(mdetr(tmp_path), tmp_path, leave_out=["vg"])) == []
    with pytest.raises(DataError, match="from 'vg'"):
        list(read_mdetr(mdetr(tmp_path), {"coco": tmp_path}))
    assert format_of(mdetr(tmp_path)) == "mdetr"
