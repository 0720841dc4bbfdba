"""`openglip detect` and `ground`: inputs, words, statuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli.interrupts import hear_interrupts
from PIL import Image

from openglip.structures.detections import Detections

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = ROOT / "examples" / "photos"
CAT = PHOTOS / "chelsea.jpg"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_photo_becomes_a_table_a_line_and_a_picture(run: Any, weights: Path, tmp_path: Path) -> None:
    result = run("detect", CAT, "--prompt", "cat. remote control", "--model", weights, "--threshold", 0)
    assert result.exit_code == 0, result.output
    assert "451 x 300" in result.stdout
    assert "1 images" in result.stderr
    out = tmp_path / "openglip-output"
    assert sorted(path.name for path in out.iterdir()) == ["chelsea.boxes.jpg", "detections.jsonl"]
    (line,) = lines(out / "detections.jsonl")
    assert line["image"] == str(CAT)
    assert (line["width"], line["height"]) == (451, 300)
    assert line["vocabulary"] == ["cat", "remote control"]
    assert line["error"] is None
    assert line["detections"]
    assert {"box", "score", "label", "name"} == set(line["detections"][0])
    for detection in line["detections"]:
        assert f"{detection['score']:.3f}" in result.stdout
    with Image.open(out / "chelsea.boxes.jpg") as picture:
        assert picture.width >= 451


def test_json_prints_one_compact_line_per_image_and_nothing_else(run: Any, weights: Path, tmp_path: Path) -> None:
    result = run(
        "detect", CAT, PHOTOS / "coffee.jpg", "--prompt", "cup", "--model", weights, "--threshold", 0, "--json"
    )
    assert result.exit_code == 0
    printed = result.stdout.splitlines()
    assert printed == (tmp_path / "openglip-output" / "detections.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(printed) == 2
    assert ": " not in printed[0].replace(str(PHOTOS), "")
    assert Detections.from_json(printed[0]).to_json() == printed[0]


def test_quiet_silences_messages_but_not_results(run: Any, weights: Path) -> None:
    result = run("detect", CAT, "--prompt", "cat", "--model", weights, "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "451 x 300" in result.stdout


def test_no_pictures(run: Any, weights: Path, tmp_path: Path) -> None:
    assert run("detect", CAT, "--prompt", "cat", "--model", weights, "--no-pictures", "--output", "o").exit_code == 0
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["detections.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--prompt", "cat. St. Bernard's bowl, U.S. flag."], ["cat", "St", "Bernard's bowl", "U.S", "flag"]),
        (["--category", "St. Bernard", "--category", "cat, asleep"], ["St. Bernard", "cat, asleep"]),
        (["--categories", "names.txt"], ["St. Bernard", "Katze (groß)", "traffic_light"]),
    ],
)
def test_three_ways_to_name(run: Any, weights: Path, tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
    (tmp_path / "names.txt").write_text("\ufeffSt. Bernard\r\nKatze (groß)\r\n\r\ntraffic_light\r\n", encoding="utf-8")
    result = run("detect", CAT, *arguments, "--model", weights, "--json", "--no-pictures")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["vocabulary"] == expected


def test_files_folders_and_globs(run: Any, weights: Path, tmp_path: Path) -> None:
    for place in ("in/a.jpg", "in/deep/a.PNG", "in/notes.txt", "more/b.jpg", "more/c.jpg", "more/[1].jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CAT, tmp_path / place)
    result = run("detect", "in", "more/?.jpg", "more/[1].jpg", "--prompt", "cat", "--model", weights, "--json")
    assert result.exit_code == 0, result.output
    images = [json.loads(line)["image"] for line in result.stdout.splitlines()]
    expected = ["in/a.jpg", "in/deep/a.PNG", "more/b.jpg", "more/c.jpg", "more/[1].jpg"]
    assert [Path(image) for image in images] == [Path(path) for path in expected]
    pictures = sorted(path.name for path in (tmp_path / "openglip-output").glob("*.jpg"))
    assert pictures == ["[1].boxes.jpg", "a-2.boxes.jpg", "a.boxes.jpg", "b.boxes.jpg", "c.boxes.jpg"]


def test_a_broken_file_is_reported_in_its_place_and_the_rest_is_done(run: Any, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(CAT.read_bytes()[:100])
    images = (CAT, "broken.jpg", "absent.jpg", PHOTOS / "coffee.jpg")
    alone = run("detect", CAT, PHOTOS / "coffee.jpg", "--prompt", "cat", "--model", weights, "--json", "--threshold", 0)
    result = run("detect", *images, "--prompt", "cat", "--model", weights, "--json", "--threshold", 0)
    assert result.exit_code == 1
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["image"] for line in printed] == [str(image) for image in images]
    assert "broken.jpg" in printed[1]["error"]
    assert "absent.jpg" in printed[2]["error"]
    assert result.stderr.count("error: ") == 2
    assert [printed[0], printed[3]] == [json.loads(line) for line in alone.stdout.splitlines()]
    assert not (tmp_path / "openglip-output" / "broken.boxes.jpg").exists()


def test_pictures_of_an_earlier_run_are_no_input(run: Any, weights: Path, tmp_path: Path) -> None:
    shutil.copy(CAT, tmp_path / "cat.jpg")
    for images in (".", ".", "**/*.jpg"):
        result = run("detect", images, "--prompt", "cat", "--model", weights)
        assert "1 images" in result.stderr
    assert "1 images" in run("detect", "openglip-output/cat.boxes.jpg", "--prompt", "cat", "--model", weights).stderr


def test_a_threshold_per_name_from_a_file(run: Any, weights: Path, tmp_path: Path) -> None:
    both = run("detect", CAT, "--prompt", "cat. cup", "--model", weights, "--threshold", 0, "--json")
    assert {detection["name"] for detection in json.loads(both.stdout)["detections"]} == {"cat", "cup"}
    (tmp_path / "t.json").write_text('{"cat": 1.0, "cup": 0}')
    result = run("detect", CAT, "--prompt", "cat. cup", "--model", weights, "--threshold", "t.json", "--json")
    assert result.exit_code == 0, result.output
    assert {detection["name"] for detection in json.loads(result.stdout)["detections"]} == {"cup"}


def test_options_of_a_detection(run: Any, weights: Path) -> None:
    arguments = ("detect", CAT, "--prompt", "cat", "--model", weights, "--threshold", 0, "--json", "--no-pictures")
    every = json.loads(run(*arguments).stdout)
    few = json.loads(run(*arguments, "--top-k", 2, "--distractor", "dog").stdout)
    assert len(every["detections"]) > 2
    assert len(few["detections"]) == 2
    assert few["vocabulary"] == ["cat"]
    assert "nms_iou" in run(*arguments, "--nms-iou", 7).stderr


def test_ground_keeps_the_caption_and_the_spans(run: Any, weights: Path) -> None:
    caption = "a cat beside a cup and a cup"
    result = run(
        "ground", CAT, "--caption", caption, "--phrase", "a cat", "--model", weights, "--threshold", 0, "--json"
    )
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)
    assert line["caption"] == caption
    assert line["vocabulary"] == ["a cat"]
    assert line["phrase_spans"] == [[[0, 5]]]


def test_ground_finds_noun_phrases_by_itself(run: Any, weights: Path) -> None:
    result = run("ground", CAT, "--caption", "a cat beside a cup", "--model", weights, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["vocabulary"] == ["a cat", "a cup"]


def test_ctrl_c_ends_with_130_and_whole_files_only(weights: Path, tmp_path: Path) -> None:
    for i in range(400):
        os.link(CAT, tmp_path / f"{i:03}.jpg") if os.name == "posix" else shutil.copy(CAT, tmp_path / f"{i:03}.jpg")
    command = [sys.executable, "-m", "openglip.cli.main", "detect", str(tmp_path), "--prompt", "cat"]
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*command, "--model", str(weights), "--output", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=hear_interrupts,
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.boxes.jpg"))) < 3:  # past the late imports, where an interrupt ends Python as a signal
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert b"interrupted" in err
    left = list(out.iterdir())
    assert 0 < len(left) < 400
    for path in left:
        assert path.name.endswith(".boxes.jpg")
        with Image.open(path) as picture:
            picture.load()
