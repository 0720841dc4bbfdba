"""A run: resumed, refused, shared by several processes. The model is `debug`, whose boxes mean nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from evaluation.sets import coco_set

import openglip
from openglip.errors import ConfigError
from openglip.evaluation import inference
from openglip.predict.detector import Detector
from openglip.predict.options import DetectOptions

SRC = Path(__file__).resolve().parents[2] / "src"


COMMAND = (sys.executable, "-m", "openglip.cli.main", "evaluate", "coco", "--quiet", "--json")


def test_a_stopped_run_continues(tmp_path: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "IMAGES_PER_FILE", 3)
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
    joined = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(joined))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *a, **k: joined.append(True))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", joined.clear)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    with pytest.raises(ConfigError, match="several processes need an output folder"):
        openglip.evaluate("coco", truth, images=tmp_path, model=detector)


def test_training_data_comes_from_the_weights(tmp_path: Path, weights: Path) -> None:
    truth = coco_set(tmp_path, images=1)
    report = openglip.evaluate("coco", truth, images=tmp_path, model=str(weights), device="cpu")
    assert report.protocol["training_data"] == ["COCO train2017"]
    assert report.protocol["zero_shot"] is False
    assert report.protocol["weights_file_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match="claims zero-shot"):
        openglip.evaluate("coco", truth, images=tmp_path, model=str(weights), device="cpu", title="zero-shot")


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
    for file_count in (1, 2):
        process = subprocess.Popen(
            [*COMMAND, *arguments_of(weights, truth, output)], env=environment(), stdout=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(output.glob("parts/predictions-*.json"))) < file_count:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [*COMMAND, *arguments_of(weights, truth, output)], env=environment(), capture_output=True, check=True
    )
    assert json.loads(done.stdout)["figures"] == json.loads(whole.stdout)["figures"]
    assert (output / "predictions.json").read_bytes() == (tmp_path / "whole/predictions.json").read_bytes()


@pytest.mark.slow
def test_two_processes_give_equal_predictions(tmp_path: Path, weights: Path) -> None:
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


def test_the_embedded_model_is_the_default(tmp_path: Path) -> None:
    truth = coco_set(tmp_path, images=1)
    calls = []
    report = openglip.evaluate("coco", truth, images=tmp_path, device="cpu", progress=calls.append)
    assert report.protocol["model"] == "nano"
    assert [(p.done, p.total, p.unit) for p in calls] == [(1, 1, "images")]
    with pytest.raises(ConfigError, match="either a model or predictions"):
        openglip.evaluate("coco", truth, model="nano", predictions=[])


def test_options_of_detection_are_part_of_the_protocol(tmp_path: Path, detector: Detector) -> None:
    truth = coco_set(tmp_path, images=2)
    plain = openglip.evaluate("coco", truth, images=tmp_path, model=detector)
    report = openglip.evaluate(
        "coco", truth, images=tmp_path, model=detector, nms_iou=0.3, options=DetectOptions(short_side=32)
    )
    changed = {key for key in report.protocol if report.protocol[key] != plain.protocol.get(key)}
    assert {"nms_iou", "short_side"} <= changed
    assert report.protocol["nms_iou"] == 0.3
    with pytest.raises(ConfigError, match="top_k is fixed by the protocol of coco"):
        openglip.evaluate("coco", truth, images=tmp_path, model=detector, top_k=5)
    with pytest.raises(ConfigError, match="plus_one is an option of coco, not of lvis"):
        openglip.evaluate("lvis", truth, images=tmp_path, model=detector, plus_one=True)
    with pytest.raises(TypeError, match="did you mean 'chunk_size'"):
        openglip.evaluate("coco", truth, images=tmp_path, model=detector, chunk_sizes=5)
