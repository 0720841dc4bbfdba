import numpy as np
import pytest
from data.small_sets import encoded, format_of, odvg_line, read_all, read_only, write, write_lines

from openglip.data.findings import Findings
from openglip.data.formats.odvg import read_odvg
from openglip.errors import DataError


def test_odvg_detection(tmp_path):
    instances = [{"bbox": [1, 2, 30, 40], "label": 1, "category": "dog"}, {"bbox": [1, 2, 30, 40], "label": 9}]
    item = {"filename": "a.jpg", "height": 80, "width": 100, "detection": {"instances": instances}}
    file = write_lines(tmp_path / "a.jsonl", item, {"filename": "b.jpg", "height": 8})
    (sample,) = read_odvg(file)
    assert (sample.names, sample.categories) == (("dog",), ("dog",))
    write(tmp_path / "coco_label_map.json", {"0": "cat", "1": "dog"})
    findings = Findings()
    (sample,) = read_odvg(file, findings=findings)
    assert (sample.names, sample.categories) == (("dog",), ("cat", "dog"))
    assert findings.counts == {"unmapped_class": 1, "malformed": 1}
    assert format_of(file) == "odvg"


def test_odvg_grounding(tmp_path):
    regions = [
        {"bbox": [1, 2, 30, 40], "phrase": "a dog", "tokens_positive": [[6, 11]], "score": 0.5},
        {"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]], "phrase": ["a cat", "a dog"], "score": 0.25},
        {"bbox": [1, 2, 3, 4], "phrase": "an owl"},
    ]
    item = {
        "filename": "a.jpg",
        "height": 80,
        "width": 100,
        "grounding": {"caption": "a cat a dog", "regions": regions},
    }
    findings = Findings()
    (sample,) = read_odvg(write_lines(tmp_path / "a.jsonl", item), findings=findings)
    assert sample.phrase_spans == (((6, 11),), ((0, 5), (6, 11)), ((0, 5), (6, 11)))
    np.testing.assert_allclose(sample.scores, [0.5, 0.25, 0.25])
    assert findings.counts == {"phrase_not_in_caption": 1}
    (tmp_path / "a.jsonl").write_text('{"filename": ')
    with pytest.raises(DataError, match="line 1"):
        list(read_odvg(tmp_path / "a.jsonl"))


def test_the_label_map_is_the_one_that_bears_the_files_name(tmp_path):
    write(tmp_path / "a.jpg", encoded(1))
    write(tmp_path / "coco2017_label_map.json", {"0": "person"})
    write(tmp_path / "lvis_v1_label_map.json", {"0": "aerosol_can"})
    lvis = write(tmp_path / "lvis_v1_train_odvg.jsonl", odvg_line(category="aerosol can"))
    samples, _ = read_only(lvis)
    assert samples[0].names == ("aerosol_can",)
    with pytest.raises(DataError, match=r"label map.*mine_label_map\.json"):
        read_all(write(tmp_path / "mine.jsonl", odvg_line()))
    wrong = write(tmp_path / "coco2017.jsonl", odvg_line(category="dog"))
    samples, findings = read_only(wrong)
    assert len(samples[0]) == 0
    assert [f.kind for f in findings.items] == ["class_mismatch"]
