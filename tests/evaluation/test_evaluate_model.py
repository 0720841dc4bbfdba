"""Running a model: what it is asked, resuming, several processes. The model is `debug`, whose boxes mean nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.test_evaluate_goldens import write_entities
from PIL import Image

import openglip
from openglip.errors import ConfigError, DataError
from openglip.evaluation import predict as predict_module
from openglip.predict.detector import Detector
from openglip.weights.files import write_safetensors

SRC = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`debug` with a higher bias, so that its scores pass the cut."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    state = openglip.load("debug", device="cpu").model.state_dict()
    state["rpn.head.bias0"] += 4.6
    write_safetensors(path, state, {"model": "debug", "training_data": [{"name": "COCO train2017"}]})
    return path


@pytest.fixture(scope="module")
def detector(weights: Path) -> Detector:
    return openglip.load(str(weights), device="cpu")


def coco_set(root: Path, images: int = 10, names=("cat", "dog", "a red ball"), **extra) -> Path:
    """Noise pictures of two shapes, one object each."""
    rng = np.random.default_rng(0)
    (root / "val2017").mkdir(parents=True)
    records, rows = [], []
    for i in range(images):
        width, height = (64, 48) if i % 3 else (48, 64)
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(root / f"val2017/{i}.png")
        records.append({"id": 10 + i, "file_name": f"val2017/{i}.png", "width": width, "height": height} | extra)
        box = [8, 8, 24, 24]
        rows.append({"id": i, "image_id": 10 + i, "category_id": 5 * (i % len(names)), "bbox": box, "iscrowd": 0})
    categories = [{"id": 5 * k, "name": name, "frequency": "f"} for k, name in enumerate(names)]
    path = root / "truth.json"
    path.write_text(json.dumps({"images": records, "annotations": rows, "categories": categories}))
    return path


def test_predictions_are_the_official_set_of_the_detector(tmp_path: Path, detector: Detector) -> None:
    truth = coco_set(tmp_path)
    report = openglip.evaluate("coco", truth, images=tmp_path, model=detector, output=tmp_path / "o")
    rows = json.loads((tmp_path / "o/predictions.json").read_text())
    assert {r["image_id"] for r in rows} <= set(range(10, 20))
    names = ["cat", "dog", "a red ball"]
    found = detector.detect(str(tmp_path / "val2017/3.png"), names, threshold=0, top_k=100)
    own = [r for r in rows if r["image_id"] == 13]
    assert len(own) == len(found) > 0
    assert [r["score"] for r in own] == pytest.approx(found.scores.tolist(), abs=1e-6)
    assert [r["category_id"] for r in own] == [5 * label for label in found.labels.tolist()]
    corners = np.array([r["bbox"] for r in own])
    corners[:, 2:] += corners[:, :2]
    np.testing.assert_allclose(corners, found.boxes, atol=1e-4)
    again = openglip.evaluate("coco", truth, predictions=tmp_path / "o/predictions.json")
    assert again.figures == report.figures
    protocol = report.protocol
    assert protocol["names"] == names
    assert protocol["batch_size"] == 1
    assert len(str(protocol["weights_sha256"])) == 64
    assert protocol["model"] == "debug"


def test_a_stopped_run_goes_on(tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module, "PART", 3)
    truth = coco_set(tmp_path)
    whole = openglip.evaluate("coco", truth, images=tmp_path, model=detector, output=tmp_path / "whole")
    stop = {"after": 2}
    stream = Detector.stream

    def stopping(self, *arguments, **options):
        stop["after"] -= 1
        if stop["after"] < 0:
            raise KeyboardInterrupt
        return stream(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Detector, "stream", stopping)
        with pytest.raises(KeyboardInterrupt):
            openglip.evaluate("coco", truth, images=tmp_path, model=detector, output=tmp_path / "o")
    parts = sorted((tmp_path / "o/parts").iterdir())
    assert [p.name for p in parts] == ["predictions-00000.json", "predictions-00001.json"]
    assert not (tmp_path / "o/report.json").exists()
    times = [p.stat().st_mtime_ns for p in parts]
    report = openglip.evaluate("coco", truth, images=tmp_path, model=detector, output=tmp_path / "o")
    assert [p.stat().st_mtime_ns for p in parts] == times
    assert report.figures == whole.figures
    assert (tmp_path / "o/predictions.json").read_bytes() == (tmp_path / "whole/predictions.json").read_bytes()


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path, detector: Detector) -> None:
    truth = coco_set(tmp_path, images=2)
    openglip.evaluate("coco", truth, images=tmp_path, model=detector, output=tmp_path / "o")
    with pytest.raises(ConfigError, match="another chunk_size"):
        openglip.evaluate("coco", truth, images=tmp_path, model=detector, output=tmp_path / "o", chunk_size=1)
    with pytest.raises(ConfigError, match="another pictures"):
        openglip.evaluate("coco", truth, images=tmp_path, model=detector, output=tmp_path / "o", ids=["10"])


def test_one_process_of_a_training_evaluates_alone(
    tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = coco_set(tmp_path, images=2)
    alone = openglip.evaluate("coco", truth, images=tmp_path, model=openglip.Detector(detector.model, device="cpu"))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert openglip.evaluate("coco", truth, images=tmp_path, model=detector).figures == alone.figures
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *a, **k: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with pytest.raises(ConfigError, match="several processes need an output folder"):
        openglip.evaluate("coco", truth, images=tmp_path, model=detector)


def test_missing_pictures_and_folders(tmp_path: Path, detector: Detector) -> None:
    truth = coco_set(tmp_path, images=2)
    with pytest.raises(ConfigError, match="needs images"):
        openglip.evaluate("coco", truth, model=detector)
    (tmp_path / "val2017/1.png").unlink()
    with pytest.raises(DataError, match=r"no val2017/1\.png, the picture of image 11"):
        openglip.evaluate("coco", truth, images=tmp_path, model=detector)


def test_lvis_prompts_in_chunks_with_the_picture_encoded_once(
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
    boxes = np.array([b for r in rows for own in r["boxes"] for b in own])
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


def test_weights_say_what_they_were_trained_on(tmp_path: Path, weights: Path) -> None:
    truth = coco_set(tmp_path, images=1)
    report = openglip.evaluate("coco", truth, images=tmp_path, model=str(weights), device="cpu")
    assert report.protocol["training_data"] == ["COCO train2017"]
    assert report.protocol["zero_shot"] is False
    assert report.protocol["weights_file_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match="claims zero-shot"):
        openglip.evaluate("coco", truth, images=tmp_path, model=str(weights), device="cpu", title="zero-shot")


def test_refcoco_grounds_the_whole_expression(tmp_path: Path, detector: Detector) -> None:
    coco_set(tmp_path, images=1)
    images = [{"id": 3, "file_name": "val2017/0.png", "caption": "the left one"}]
    path = tmp_path / "refs.json"
    path.write_text(json.dumps({"images": images, "annotations": [{"image_id": 3, "bbox": [0, 0, 48, 64]}]}))
    openglip.evaluate("refcoco", path, images=tmp_path, model=detector, output=tmp_path / "o")
    rows = json.loads((tmp_path / "o/predictions.json").read_text())
    assert rows
    assert all(set(row) == {"ref_id", "bbox", "score"} and row["ref_id"] == 3 for row in rows)


COMMAND = (sys.executable, "-m", "openglip.cli.main", "evaluate", "coco", "--quiet", "--json")


def arguments_of(weights: Path, truth: Path, output: Path) -> list[str]:
    paths = {"model": weights, "annotations": truth, "images": truth.parent, "output": output}
    return [part for name, path in paths.items() for part in (f"--{name}", str(path))]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path, weights: Path) -> None:
    truth = coco_set(tmp_path, images=70)
    whole = subprocess.run(
        [*COMMAND, *arguments_of(weights, truth, tmp_path / "whole")], env=environment(), capture_output=True
    )
    output = tmp_path / "o"
    for wanted in (1, 2):
        process = subprocess.Popen(
            [*COMMAND, *arguments_of(weights, truth, output)], env=environment(), stdout=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(output.glob("parts/predictions-*.json"))) < wanted:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [*COMMAND, *arguments_of(weights, truth, output)], env=environment(), capture_output=True, check=True
    )
    assert json.loads(done.stdout)["figures"] == json.loads(whole.stdout)["figures"]
    assert (output / "predictions.json").read_bytes() == (tmp_path / "whole/predictions.json").read_bytes()


@pytest.mark.slow
def test_two_processes_give_the_same(tmp_path: Path, weights: Path) -> None:
    truth = coco_set(tmp_path, images=70)
    subprocess.run(
        [*COMMAND, *arguments_of(weights, truth, tmp_path / "one")], env=environment(), capture_output=True, check=True
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", *COMMAND[1:]]
    done = subprocess.run(
        [*torchrun, *arguments_of(weights, truth, tmp_path / "two")], env=environment(), capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")]
    assert reports[0]["figures"] == reports[1]["figures"]
    assert reports[0]["per_category"] == reports[1]["per_category"]
    assert json.loads(done.stdout) == reports[1]  # printed once
    assert (tmp_path / "one/predictions.json").read_bytes() == (tmp_path / "two/predictions.json").read_bytes()
