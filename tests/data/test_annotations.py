import numpy as np
import pytest

from openglip.data.annotations import Boxes, listed, numbers, record, size_of, usable_spans
from openglip.data.findings import Findings
from openglip.errors import DataError


def test_boxes_keep_what_belongs_to_them():
    findings = Findings()
    boxes = Boxes("a.json", 7, findings)
    boxes.add([10, 5, 5, 9], "cat", id=1)
    boxes.add([90, 70, 130, 100], "dog", score=0.5, id=2)
    boxes.add([1, 2, float("nan"), 4], "dog")
    boxes.add([1, 2, 3, 4], "cat", score=0.25)
    sample = boxes.sample("a.jpg", (80, 100), {"cat": 0, "dog": 1}, categories=("cat", "dog"), source="set")
    assert sample.boxes.tolist() == [[90, 70, 100, 80], [1, 2, 3, 4]]
    assert (sample.names, sample.image_id, sample.source) == (("dog", "cat"), 7, "set")
    np.testing.assert_array_equal(sample.scores, [0.5, 0.25])
    assert [(f.kind, f.id) for f in findings.items] == [
        ("box_degenerate", 1),
        ("box_outside", 2),
        ("box_not_finite", 7),
    ]
    assert findings.items[0].message == "box 0: (10, 5, 5, 9) in an image of 100 x 80"


def test_boxes_of_a_caption_have_spans_and_scores_only_when_all_have_one():
    boxes = Boxes("a.json", "x", Findings())
    boxes.add([1, 2, 3, 4], spans=[(2, 5)], score=0.5)
    boxes.add([1, 2, 3, 4], spans=[(0, 1), (2, 5)])
    sample = boxes.sample("a.jpg", (80, 100), caption="a cat")
    assert sample.phrase_spans == (((2, 5),), ((0, 1), (2, 5)))
    assert (sample.labels, sample.scores) == (None, None)
    assert len(Boxes("a.json", None, Findings()).sample("a.jpg", (80, 100), categories=("cat",))) == 0


def test_spans_outside_the_caption_are_left_out():
    findings = Findings()
    assert usable_spans([[0, 1], [2, 9], [3, 3], "x", [1.5, 2]], "a cat", findings, "a.json", 3) == [(0, 1)]
    assert findings.counts == {"span_outside": 4}


def test_raw_values():
    assert numbers([1, "2"], 2) == [1.0, 2.0]
    assert numbers([1, None], 2) is None
    assert size_of("80", 100.0) == (80, 100)
    assert size_of(0, 100) is None
    assert size_of(80.5, 100) is None
    with pytest.raises(DataError, match=r"a\.json: image 2 has no 'id'"):
        record({"name": "x"}, ("id",), "a.json", "image 2")
    with pytest.raises(DataError, match=r"a\.json: images is no list"):
        listed({}, "a.json", "images")
