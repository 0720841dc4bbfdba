from __future__ import annotations

from pathlib import Path

import pytest
from evaluation.sets import coco_file, hit, square, write
from PIL import Image

import openglip
from openglip.errors import ConfigError


def test_yolo_folder(tmp_path: Path) -> None:

    for i in range(3):
        for folder in ("images", "labels"):
            (tmp_path / folder / "val").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(tmp_path / f"images/val/{i}.jpg")
        (tmp_path / f"labels/val/{i}.txt").write_text("1 0.5 0.5 0.2 0.25\n" if i < 2 else "")
    (tmp_path / "data.yaml").write_text("path: .\nval: images/val\nnames: [dog, cat]\n")
    found = [{"image_id": str(i), "category_id": 0, "bbox": [40, 30, 20, 20], "score": 0.9} for i in range(2)]
    report = openglip.evaluate("custom", tmp_path, predictions=found)
    assert report.protocol["category_ids"] == {"cat": 0, "dog": 1}
    assert report.figures["AP"] == pytest.approx(1.0)
    assert report.per_category["dog"]["AP"] == -1.0


def test_a_split_is_named_where_there_are_several(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write(tmp_path / f"annotations/{part}.json", coco_file([square(1, 0)]))
    with pytest.raises(ConfigError, match="holds train, val: name one with split"):
        openglip.evaluate("custom", tmp_path, predictions=[])
    with pytest.raises(ConfigError, match="has no split 'test'; it holds train, val"):
        openglip.evaluate("custom", tmp_path, predictions=[], split="test")
    with pytest.raises(ConfigError, match="one file without splits"):
        openglip.evaluate("custom", tmp_path / "annotations/val.json", predictions=[], split="val")
    assert openglip.evaluate("custom", tmp_path, predictions=[], split="val").figures["AP"] == 0.0


def test_classes_that_a_source_does_not_label_are_not_judged() -> None:
    truth = coco_file([square(1, 0, 1), square(2, 1, 2)], names=("cat", "dog"), images=2)
    found = [hit(0, 0.8, 1), hit(1, 0.8, 2), hit(0, 0.9, 2), hit(1, 0.9, 1)]
    assert openglip.evaluate("custom", truth, predictions=found).figures["AP"] == pytest.approx(0.5)
    truth["info"] = {"source_categories": {"a": [1], "b": [2]}}
    for image, source in zip(truth["images"], "ab", strict=True):
        image["source"] = source
    report = openglip.evaluate("custom", truth, predictions=found)
    assert report.figures["AP"] == pytest.approx(1.0)
    assert report.figures["false_alarm_rate"] == -1.0
    assert "not judged" in str(report.protocol["labelled"])
