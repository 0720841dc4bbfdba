"""The files that `openglip detect` and `ground` write."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from openglip.structures.detections import Detections

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "examples" / "photos"
CAT = PHOTOS / "chelsea.jpg"


def detect(run: Any, weights: Path, form: str) -> list[dict[str, Any]]:
    """Write two good images and a broken one; gives the json lines to compare with."""
    Path("broken.jpg").write_bytes(b"nothing")
    arguments = ("--prompt", "cat. remote control", "--model", weights, "--threshold", 0, "--no-pictures", "--json")
    result = run("detect", CAT, "broken.jpg", PHOTOS / "coffee.jpg", *arguments, "--format", form)
    assert result.exit_code == 1
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_coco_output(run: Any, weights: Path) -> None:
    expected = detect(run, weights, "coco")
    document = json.loads(Path("openglip-output/detections.coco.json").read_text(encoding="utf-8"))
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "remote control"}]
    assert [image["file_name"] for image in document["images"]] == [expected[0]["image"], expected[2]["image"]]
    flat = [(line["image"], detection) for line in expected for detection in line["detections"]]
    files = {image["id"]: image["file_name"] for image in document["images"]}
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert len(flat) == len(document["annotations"]) > 0
    for (image, detection), annotation in zip(flat, document["annotations"], strict=True):
        x, y, width, height = annotation["bbox"]
        assert files[annotation["image_id"]] == image
        assert names[annotation["category_id"]] == detection["name"]
        assert annotation["score"] == detection["score"]
        assert [x, y, x + width, y + height] == pytest.approx(detection["box"])


def test_csv_output(run: Any, weights: Path) -> None:
    expected = detect(run, weights, "csv")
    with Path("openglip-output/detections.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    good = [row for row in rows if not row["error"]]
    flat = [detection for line in expected for detection in line["detections"]]
    assert [row["image"] for row in rows if row["error"]] == ["broken.jpg"]
    assert [row["name"] for row in good] == [detection["name"] for detection in flat]
    assert [[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in good] == [f["box"] for f in flat]


def test_label_studio_output(run: Any, weights: Path) -> None:
    expected = detect(run, weights, "label-studio")
    tasks = json.loads(Path("openglip-output/label-studio.json").read_text(encoding="utf-8"))
    assert len(tasks) == 2
    for task, line in zip(tasks, (expected[0], expected[2]), strict=True):
        assert task["data"]["image"].endswith(line["image"])
        results = task["predictions"][0]["result"]
        assert len(results) == len(line["detections"]) > 0
        for result, detection in zip(results, line["detections"], strict=True):
            value = result["value"]
            left, top = value["x"] / 100 * line["width"], value["y"] / 100 * line["height"]
            right = left + value["width"] / 100 * line["width"]
            assert [left, top, right] == pytest.approx(detection["box"][:3])
            assert value["rectanglelabels"] == [detection["name"]]


def test_a_picture_that_cannot_be_written_does_not_stop_the_rest(run: Any, weights: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1, 70_000)).save(tmp_path / "tall.png")  # JPEG ends at 65,500
    shutil.copy(CAT, tmp_path / ("n" * 251 + ".jpg"))
    shutil.copy(CAT, tmp_path / os.fsdecode(b"caf\xe9.jpg"))  # a name that is no UTF-8
    result = run("detect", ".", "x" * 300, "--prompt", "cat", "--model", weights, "--format", "coco", "--json")
    assert result.exit_code == 1
    assert len([Detections.from_json(line) for line in result.stdout.splitlines()]) == 4
    assert "error: tall.png: no picture was written" in result.stderr
    assert "4 images" in result.stderr
    assert "2 failed" in result.stderr
    out = tmp_path / "openglip-output"
    document = json.loads((out / "detections.coco.json").read_text(encoding="utf-8"))
    assert os.fsdecode(b"caf\xe9.jpg") in {image["file_name"] for image in document["images"]}
    assert len(list(out.glob("*.boxes.jpg"))) == 2


def test_an_output_folder_that_cannot_be_made_is_named(run: Any, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    result = run("detect", CAT, "--prompt", "cat", "--model", weights, "--output", "taken")
    assert result.exit_code == 2
    assert "--output taken" in result.stderr
    assert "another folder" in result.stderr
