import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openglip.data.training_prompts import caption_prompt
from openglip.data.views import load, make_view, same_aspect, training_boxes
from openglip.errors import DataError
from openglip.structures.sample import Sample

PROMPTS = json.loads((Path(__file__).parents[1] / "goldens/train/prompts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", PROMPTS["boxes"], ids=lambda c: c["path"])
def test_training_boxes_are_the_official_ones(case):
    raw = PROMPTS["boxes"][0]["annotations"]
    plain = [(a["id"], a["bbox"]) for a in raw if not a["iscrowd"] and min(a["bbox"][2:]) > 0]
    width, height = case["image_size_wh"]
    boxes, rows = training_boxes(
        np.array([[x, y, x + w, y + h] for _, (x, y, w, h) in plain], np.float32), (height, width)
    )
    np.testing.assert_allclose(boxes, case["boxes_xyxy"], atol=1e-4)
    assert [plain[i][0] for i in rows] == PROMPTS["boxes"][0]["kept_ids"]


def test_inclusive_corners_are_only_clipped():
    boxes, rows = training_boxes(
        np.array([[10, 20, 30, 40], [90, 5, 110, 99], [5, 5, 5, 9]], np.float32), (80, 100), True
    )
    np.testing.assert_array_equal(boxes, [[10, 20, 30, 40], [90, 5, 99, 79]])
    assert rows.tolist() == [0, 1]


def photo(path, size=(60, 80)):
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_boxes_follow_a_smaller_image_but_not_another_one(tmp_path):
    small = photo(tmp_path / "a.png", (60, 80))
    record = Sample(small, (375, 500), [[50, 75, 250, 375]], "a dog", (((2, 5),),), image_id="a")
    image, loaded = load(record)
    assert loaded.size == image.shape[:2] == (60, 80)
    np.testing.assert_allclose(loaded.boxes, [[8, 12, 40, 60]])
    turned = Sample(small, (500, 375), [[5, 5, 25, 37]], "a dog", (((2, 5),),), image_id="a")
    with pytest.raises(DataError, match=r"a\.png.*80 x 60.*375 x 500"):
        load(turned)
    assert same_aspect((224, 299), (375, 500))
    assert not same_aspect((224, 300), (500, 375))


def test_a_view_has_no_words_of_boxes_that_vanish(tmp_path):
    record = Sample(
        photo(tmp_path / "a.png"), (60, 80), [[5, 5, 5.5, 30], [1, 2, 11, 22]], "a cat, a dog",
        (((2, 5),), ((9, 12),)), image_id=1,
    )  # fmt: skip
    made = make_view(*load(record), caption_prompt, random.Random(0), np.random.RandomState(0))
    np.testing.assert_allclose(made.boxes, [[1, 2, 10, 21]])
    assert made.spans == (((9, 12),),)
