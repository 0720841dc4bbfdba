"""The word zero-shot: refused when the training list meets the benchmark, and the list is named."""

from __future__ import annotations

import pytest

import openglip
from openglip.errors import ConfigError
from openglip.evaluation.leakage import training_overlap
from openglip.weights.records import RECORDS


@pytest.mark.parametrize(
    ("benchmark", "training", "zero_shot"),
    [
        ("coco", ["Objects365 v1"], True),
        ("coco", ["Objects365 v1", "GoldG (Flickr30k Entities, VG captions, GQA)", "CC3M"], True),
        ("coco", ["GoldG without COCO images"], True),
        ("coco", ["GoldG+"], False),
        ("coco", ["COCO 2017 train"], False),
        ("coco", ["coco_mini train"], False),
        ("coco", ["Visual Genome"], False),
        ("coco", ["Visual Genome (COCO images removed)"], True),
        ("coco", ["LVIS v1 train"], False),
        ("coco", ["RefCOCO+"], False),
        ("coco-ov", ["Objects365 v1"], False),
        ("coco-ov", ["CC3M captions"], True),
        ("lvis", ["Objects365 v1", "GoldG"], True),
        ("lvis", ["COCO"], False),
        ("flickr30k", ["GoldG"], False),
        ("flickr30k", ["Flickr30k Entities train"], False),
        ("flickr30k", ["flickr8k_entities train"], False),
        ("flickr30k", ["Objects365 v1"], True),
        ("odinw", ["FourODs (Objects365, OpenImages, Visual Genome, ImageNetBoxes)"], False),
        ("odinw", ["Pascal VOC 2007 test"], False),
        ("odinw", ["Objects365 v1", "GoldG"], True),
        ("refcoco", ["COCO 2014"], False),
        ("custom", ["COCO"], True),
        ("coco", None, None),
        ("coco", [], None),
    ],
)
def test_rules(benchmark: str, training, zero_shot) -> None:
    found = training_overlap(benchmark, training)
    assert found.zero_shot is zero_shot
    assert bool(found.overlaps) == (zero_shot is False)
    if zero_shot is False:
        assert any(found.overlaps[0].startswith(name) for name in training)


def test_released_models_on_coco_and_flickr() -> None:
    assert training_overlap("coco", RECORDS["glip-t"].training_data).zero_shot is True
    assert training_overlap("flickr30k", RECORDS["glip-t"].training_data).zero_shot is False
    assert "on other images" in training_overlap("coco", RECORDS["glip-t"].training_data).notes[0]


def test_image_ids_and_digests_are_compared() -> None:
    found = training_overlap("custom", [{"name": "mine", "image_ids": [1, 2, 3]}], image_ids=[3, 4])
    assert "1 of the images judged were trained on, such as 3" in found.overlaps[0]
    assert training_overlap("custom", [{"name": "mine", "sha256": "ab"}], annotations_sha256="ab").zero_shot is False
    assert training_overlap("custom", [{"name": "mine", "image_ids": [1]}], image_ids=[3, 4]).zero_shot is True


def test_a_title_that_claims_zero_shot_is_refused() -> None:
    truth = {
        "images": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    common = {"predictions": [], "title": "mine, Zero-shot"}
    with pytest.raises(ConfigError, match="claims zero-shot, but COCO train2017: its boxes are COCO's"):
        openglip.evaluate("coco", truth, **common, training_data=["COCO train2017"])
    report = openglip.evaluate("coco", truth, **common, training_data=["Objects365"])
    assert report.protocol["zero_shot"] is True
    trained = openglip.evaluate("coco", truth, predictions=[], training_data=["COCO train2017"])
    assert trained.protocol["zero_shot"] is False
    assert trained.protocol["training_meets_benchmark"] == ["COCO train2017: its boxes are COCO's"]
    own_row = trained.table().splitlines()[3]
    assert "trained on the benchmark's data" in own_row
    assert "zero-shot" not in own_row
