import dataclasses

import numpy as np
import pytest

from openglip.errors import DataError
from openglip.structures.sample import Sample


def sample(**changes):
    fields = {
        "image": "a/cat.jpg",
        "size": (80, 100),
        "boxes": [[1, 2, 30, 40], [5, 5, 10, 10]],
        "categories": ("cat", "dog"),
        "labels": [1, 0],
        "image_id": 7,
        "source": "set",
    }
    return Sample(**{**fields, **changes})


def test_arrays_are_converted_copied_and_read_only():
    boxes = np.array([[1, 2, 30, 40], [5, 5, 10, 10]], np.float32)
    record = sample(boxes=boxes)
    boxes[:] = 0
    assert record.boxes[0, 2] == 30
    assert record.labels.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        record.boxes[0] = 0
    assert record.names == ("dog", "cat")
    assert record.file_name == "cat.jpg"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (0, 10)}, "size"),
        ({"boxes": [[1, 2, 1, 40], [5, 5, 10, 10]]}, "box"),
        ({"boxes": [[1, 2, float("nan"), 40], [5, 5, 10, 10]]}, "finite"),
        ({"labels": [0]}, "labels"),
        ({"labels": [0, 2]}, "label"),
        ({"categories": None}, "categories"),
        ({"scores": [0.1]}, "scores"),
        ({"phrase_spans": ((), ())}, "caption"),
        ({"caption": "a cat", "phrase_spans": (((0, 5),),)}, "phrases"),
        ({"caption": "a cat", "phrase_spans": (((0, 6),), ())}, "span"),
    ],
)
def test_wrong_records_are_refused_with_source_and_id(changes, message):
    with pytest.raises(DataError, match=message) as error:
        sample(**changes)
    assert "set" in str(error.value)
    assert "7" in str(error.value)


def test_a_sample_without_boxes_is_fine():
    assert len(sample(boxes=[], labels=[])) == 0


def test_phrases_and_selection_stay_together():
    record = sample(
        labels=None, categories=None, caption="two dogs, a ball", phrase_spans=(((0, 8),), ((0, 3), (10, 16)))
    )
    assert record.names == ("two dogs", "two a ball")
    kept = dataclasses.replace(record, **record.select(np.array([False, True])))
    assert kept.names == ("two a ball",)
    np.testing.assert_array_equal(kept.boxes, record.boxes[1:])
