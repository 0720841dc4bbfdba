"""What a detector gets for each benchmark. The model is `debug`, whose boxes mean nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.sets import coco_set, run_command, write_entities
from PIL import Image
from torch import nn

import openglip
from openglip.errors import ConfigError, DataError
from openglip.evaluation import inference
from openglip.evaluation.inference import EvaluatedImage, predict_chunks
from openglip.model.glip import GLIP
from openglip.model.head import Head
from openglip.predict.detector import Detector
from openglip.predict.options import DetectOptions

NAMES = [f"{colour} {thing}" for colour in ("red", "blue", "green", "old") for thing in ("car", "cup", "dog")]


PICTURE = np.random.default_rng(3).integers(0, 255, (64, 96, 3), np.uint8)


def with_raised_scores(model: nn.Module) -> Detector:
    with torch.no_grad():
        model.get_parameter("rpn.head.bias0").add_(4.6)
    return Detector(model, device="cpu")


@pytest.fixture(scope="module")
def fused() -> Detector:
    return with_raised_scores(openglip.load("debug", device="cpu").model)


@pytest.fixture(scope="module")
def apart() -> Detector:
    """GLIP without fusion, as GLIP-T (A), in miniature."""
    model = openglip.load("debug", device="cpu").model
    assert isinstance(model, GLIP)
    torch.manual_seed(0)
    model.rpn.head = Head(64, blocks=2, levels=5, classes=80, text_dim=64, early_fusion=False)
    return with_raised_scores(model)


def scores_by_name(detector: Detector, names, chunk_size: int) -> dict[str, list[float]]:
    found = detector.detect(PICTURE, names, threshold=0, top_k=None, chunk_size=chunk_size)
    return {name: found.scores[found.labels == k].tolist() for k, name in enumerate(names)}


def largest_difference(a: dict[str, list[float]], b: dict[str, list[float]]) -> float:
    """Between the best scores of the same names."""
    return max(abs(max(a[name]) - max(b[name])) for name in a)


@pytest.mark.parametrize("kind", ["fused", "apart"])
def test_names_encoded_one_by_one_are_independent(kind: str, request: pytest.FixtureRequest) -> None:
    detector = request.getfixturevalue(kind)
    whole = scores_by_name(detector, NAMES, 1)
    for names in (NAMES[:5], NAMES[5:8], NAMES[::-1]):
        some = scores_by_name(detector, names, 1)
        for name in names:
            assert some[name] == pytest.approx(whole[name], abs=1e-5)


def test_names_of_one_caption_interact_through_the_text_encoder(apart: Detector) -> None:
    difference = largest_difference(scores_by_name(apart, NAMES, 4), scores_by_name(apart, NAMES, 12))
    assert 1e-6 < difference < 0.2


def test_with_fusion_names_interact_through_the_image(fused: Detector) -> None:
    difference = largest_difference(scores_by_name(fused, NAMES, 4), scores_by_name(fused, NAMES, 12))
    assert 1e-6 < difference < 0.2


def test_limits_per_prompt_and_per_image(fused: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    joint = fused.detect(PICTURE, NAMES, threshold=0, top_k=5, chunk_size=4)
    assert len(joint) == 5
    monkeypatch.setattr(inference, "PER_PROMPT", 5)
    predict = predict_chunks(NAMES, list(range(12)), DetectOptions(), chunk_size=4)
    (rows,) = predict(fused, [EvaluatedImage(1, encoded(PICTURE))])
    per_prompt = np.bincount([row["category_id"] // 4 for row in rows], minlength=3)
    assert per_prompt.tolist() == [5, 5, 5]


def encoded(pixels: np.ndarray) -> bytes:

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_predictions_are_the_official_set_of_the_detector(tmp_path: Path, detector: Detector) -> None:
    truth = coco_set(tmp_path)
    report = openglip.evaluate("coco", truth, images=tmp_path, model=detector, output=tmp_path / "o")
    rows = json.loads((tmp_path / "o/predictions.json").read_text())
    assert {r["image_id"] for r in rows} <= set(range(10, 20))
    names = ["cat", "dog", "a red ball"]
    found = detector.detect(str(tmp_path / "val2017/3.png"), names, threshold=0, top_k=100)
    image_rows = [r for r in rows if r["image_id"] == 13]
    assert len(image_rows) == len(found) > 0
    assert [r["score"] for r in image_rows] == pytest.approx(found.scores.tolist(), abs=1e-6)
    assert [r["category_id"] for r in image_rows] == [5 * label for label in found.labels.tolist()]
    corners = np.array([r["bbox"] for r in image_rows])
    corners[:, 2:] += corners[:, :2]
    np.testing.assert_allclose(corners, found.boxes, atol=1e-4)
    again = openglip.evaluate("coco", truth, predictions=tmp_path / "o/predictions.json")
    assert again.figures == report.figures
    protocol = report.protocol
    assert protocol["names"] == names
    assert protocol["batch_size"] == 1
    assert len(str(protocol["weights_sha256"])) == 64
    assert protocol["model"] == "debug"


def test_missing_images_and_folders(tmp_path: Path, detector: Detector) -> None:
    truth = coco_set(tmp_path, images=2)
    with pytest.raises(ConfigError, match="needs images"):
        openglip.evaluate("coco", truth, model=detector)
    (tmp_path / "val2017/1.png").unlink()
    with pytest.raises(DataError, match=r"no val2017/1\.png, the file of image 11"):
        openglip.evaluate("coco", truth, images=tmp_path, model=detector)


def test_lvis_prompts_in_chunks_with_the_image_encoded_once(
    tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = {"coco_url": "http://x/val2017/0.png", "neg_category_ids": [], "not_exhaustive_category_ids": []}
    truth = coco_set(tmp_path, images=2, names=[f"thing {i}" for i in range(7)], **url)
    calls: list[str] = []
    for name in ("encode", "detect"):
        method = getattr(Detector, name)
        monkeypatch.setattr(Detector, name, lambda *a, m=method, n=name, **k: calls.append(n) or m(*a, **k))
    report = openglip.evaluate("lvis", truth, images=tmp_path, model=detector, chunk_size=3)
    assert calls == (["encode"] + ["detect"] * 3) * 2
    assert report.protocol["chunk_size"] == 3
    assert openglip.evaluate("lvis", truth, images=tmp_path, model=detector, ids=["10"]).protocol["chunk_size"] == 40


def test_flickr_in_pixels_of_the_annotated_size(tmp_path: Path, detector: Detector) -> None:
    write_entities(tmp_path)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (100, 75), (200, 30, 30)).save(tmp_path / "images/1000.webp")  # a fifth of the annotated size
    arguments = {"images": tmp_path / "images", "model": detector, "ids": ["1000"]}
    report = openglip.evaluate("flickr30k", tmp_path, **arguments, output=tmp_path / "o")
    rows = json.loads((tmp_path / "o/predictions.json").read_text())
    assert [(r["image_id"], r["sentence_id"], len(r["boxes"])) for r in rows] == [(1000, 0, 3), (1000, 1, 2)]
    boxes = np.array([b for r in rows for boxes in r["boxes"] for b in boxes])
    assert boxes[:, 2].max() > 100
    assert boxes.max(0)[2] <= 500
    assert boxes.max(0)[3] <= 375
    assert openglip.evaluate("flickr30k", tmp_path, predictions=rows, ids=["1000"]).figures == report.figures


def test_odinw_prompts_of_a_table(tmp_path: Path, detector: Detector) -> None:
    folder = tmp_path / "pothole/valid"
    coco_set(folder, images=2, names=["pothole"]).rename(folder / "annotations_without_background.json")
    arguments = {"model": detector, "sets": "pothole"}
    report = openglip.evaluate("odinw", tmp_path, **arguments, prompts="repo-35", output=tmp_path / "o")
    assert report.protocol["prompt"] == ["there are some holes on the road"]
    plain = openglip.evaluate("odinw", tmp_path, **arguments)
    assert plain.protocol["names"] == ["pothole"]
    assert {r["category_id"] for r in json.loads((tmp_path / "o/pothole.json").read_text())} == {0}
    assert plain.figures.keys() == report.figures.keys()


def test_refcoco_grounds_the_whole_expression(tmp_path: Path, detector: Detector) -> None:
    coco_set(tmp_path, images=1)
    images = [{"id": 3, "file_name": "val2017/0.png", "caption": "the left one"}]
    path = tmp_path / "refs.json"
    path.write_text(json.dumps({"images": images, "annotations": [{"image_id": 3, "bbox": [0, 0, 48, 64]}]}))
    openglip.evaluate("refcoco", path, images=tmp_path, model=detector, output=tmp_path / "o")
    rows = json.loads((tmp_path / "o/predictions.json").read_text())
    assert rows
    assert all(set(row) == {"ref_id", "bbox", "score"} and row["ref_id"] == 3 for row in rows)


@pytest.mark.parametrize("benchmark", ["coco", "coco-ov", "lvis", "flickr30k", "odinw", "refcoco", "custom"])
def test_the_command_line_takes_every_benchmark(benchmark: str, tmp_path: Path, weights: Path) -> None:
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": [], "coco_url": "http://x/val2017/0.png"}
    source = coco_set(tmp_path, images=1, names=("cat",), **lists)
    if benchmark in ("flickr30k", "refcoco"):
        content = json.loads(source.read_text())
        content["images"][0] |= {"caption": "the cat", "sentence_id": 0, "tokens_positive_eval": [[[4, 7]]]}
        content["annotations"][0]["tokens_positive"] = [[4, 7]]
        source.write_text(json.dumps(content))
    images = tmp_path / "val2017" if benchmark == "flickr30k" else tmp_path
    done = run_command(benchmark, "--annotations", source, "--images", images, "--model", weights, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["benchmark"] == benchmark
