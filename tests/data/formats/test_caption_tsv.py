import base64
import json
from pathlib import Path

import numpy as np
from data.small_sets import (
    encoded,
    format_of,
    tsv_set,
    write,
    write_tsv,
)

from openglip.data.formats.caption_tsv import CaptionTsv, flat
from openglip.data.reading import recognise

GOLDENS = Path(__file__).parents[2] / "goldens" / "train"


def caption_set(tmp_path, label):
    write_tsv(tmp_path / "img.tsv", [["k", "x"], ["9", "http://x", base64.b64encode(encoded()).decode()]])
    write_tsv(tmp_path / "label.tsv", [["row", json.dumps(label)]])
    write(tmp_path / "ids.json", {"9": 1})
    return write(tmp_path / "cc.yaml", "img: img.tsv\nlabel: label.tsv\nimageid2idx: ids.json\n")


def test_caption_tsv_v1_and_v2_are_the_same(tmp_path):
    golden = json.loads((GOLDENS / "data_routines.json").read_text(encoding="utf-8"))["caption_v2_to_v1"]
    flattened = flat(golden["input"], "here")
    assert {key: flattened[key] for key in golden["output"]} == golden["output"]
    head = {"img_h": 80, "img_w": 100, "caption": "two dogs and a ball", "img_id": "9"}
    version_1 = {
        "bboxes": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 20, 30]], "scores": [0.9, 0.4, 0.7],
        "tokens_positive": [[[0, 8]], [[0, 8]], [[4, 8], [13, 19]]],
    }  # fmt: skip
    version_2 = {
        "bboxes": [[[1, 2, 3, 4], [5, 6, 7, 8]], [[9, 10, 20, 30]]], "scores": [[0.9, 0.4], [0.7]],
        "tokens_positive": [[[0, 8]], [[4, 8], [13, 19]]],
    }  # fmt: skip
    found = []
    for i, label in enumerate((version_1, version_2)):
        (tmp_path / str(i)).mkdir()
        path = caption_set(tmp_path / str(i), {**head, **label})
        found.append(CaptionTsv(path, min_score=0.5)[0])
        assert format_of(path) == "caption-tsv"
    for sample in found:
        assert sample.names == ("two dogs", "dogs a ball")
        np.testing.assert_allclose(sample.scores, [0.9, 0.7])
        np.testing.assert_allclose(sample.boxes, [[1, 2, 3, 4], [9, 10, 20, 30]])
        assert sample.image.read() == encoded()


def test_a_lost_box_takes_its_own_span_with_it(tmp_path):
    label = {
        "img_h": 80, "img_w": 100, "caption": "a cat, a dog, an owl", "img_id": "9", "scores": [0.9, 0.8, 0.7],
        "bboxes": [[1, 2, 30, 40], [200, 5, 300, 9], [9, 10, 20, 30]],
        "tokens_positive": [[[2, 5]], [[9, 12]], [[17, 20]]],
    }  # fmt: skip
    (sample,) = CaptionTsv(caption_set(tmp_path, label))
    assert sample.names == ("cat", "owl")
    np.testing.assert_allclose(sample.scores, [0.9, 0.7])


def test_a_set_whose_first_row_is_broken_is_still_known(tmp_path):
    caption = json.dumps({"caption": "a cat", "bboxes": [[1, 2, 30, 40]], "spans": [[[2, 5]]]})
    assert recognise(tsv_set(tmp_path, ["[oops", caption], ["abc", "abc"])).name == "caption-tsv"
