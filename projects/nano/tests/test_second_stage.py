"""Training of the second stage: its inputs, that it learns, and that the command writes files that load."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import second_stage as training
import torch
from export import export, read_both
from PIL import Image

from openglip.errors import ConfigError, DataError
from openglip.nano.model import Nano
from openglip.nano.second_stage import CANDIDATES, SecondStage
from openglip.weights.load import load_state

ANNOTATION = """<annotation><filename>7.jpg</filename><size><width>120</width><height>90</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>10</xmin><ymin>20</ymin><xmax>60</xmax><ymax>80</ymax></bndbox></object></annotation>"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A Flickr30k Entities folder of one photo."""
    root = tmp_path / "data" / "flickr8k_entities" / "train"
    root.mkdir(parents=True)
    pixels = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(pixels, "JPEG")
    files = {
        "images": ("7.jpg", pixels.getvalue()),
        "Annotations": ("7.xml", ANNOTATION.encode()),
        "Sentences": ("7.txt", b"[/EN#1/people A man] sits .\n[/EN#1/people The man] on [/EN#2/other a chair] .\n"),
    }
    for name, (member, content) in files.items():
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (root / "ids.txt").write_text("7\n")
    return tmp_path / "data"


def one_phrase(right: int) -> training.FirstStage:
    """A phrase with four boxes side by side, of which one is right but for a tenth of its side."""
    boxes, scores = torch.zeros(1, CANDIDATES, 4), torch.zeros(1, CANDIDATES)
    for i in range(4):
        boxes[0, i] = torch.tensor([60.0 * i, 50, 60 * i + 50, 100])
        scores[0, i] = 0.5 - 0.01 * i
    levels = [torch.randn(16, 256 // stride, 256 // stride).half() for stride in (12, 24, 48)]
    wanted = boxes[0, right] + torch.tensor([5.0, 0, 5, 0])
    return training.FirstStage(
        levels, torch.tensor([256.0, 256]), boxes, scores, torch.randn(1, 16), [(0, wanted[None])]
    )


def test_it_learns_which_box_is_right_and_where_it_lies():
    torch.manual_seed(1)
    photos = [one_phrase(right) for right in (1, 2)]
    second = SecondStage(8, width=32)
    second.load_state_dict(training.train(second, photos, [(100, 3e-3, 1.0), (60, 1e-3, 2.0)]))
    second.eval()
    for photo, right in zip(photos, (1, 2), strict=True):
        with torch.no_grad():
            boxes, logits = second(*training.inputs_of(photo, photo.targets))
        assert logits[0, :4].argmax() == right
        before, after = ((x[0, right] - photo.targets[0][1][0]).abs().sum() for x in (photo.boxes, boxes))
        assert after < before / 2


def test_padding_costs_nothing():
    photo = one_phrase(1)
    _, boxes, scores, *_ = training.inputs_of(photo, photo.targets)
    logits = scores.clamp(1e-4).logit()
    true = [own for _, own in photo.targets]
    whole = training.losses(boxes, logits, boxes, scores, true)
    torch.testing.assert_close(whole, training.losses(boxes[:, :4], logits[:, :4], boxes[:, :4], scores[:, :4], true))
    nothing = training.losses(boxes[:, 2:4], logits[:, 2:4], boxes[:, 2:4], scores[:, 2:4], true)
    assert torch.isfinite(nothing)  # no box is near


def test_the_new_scores_count_by_a_share():
    second = SecondStage(8, width=32)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    half = SecondStage(8, width=32)
    half.load_state_dict(training.tempered(second.state_dict(), 0.5))
    photo = one_phrase(1)
    given = training.inputs_of(photo, photo.targets)
    with torch.no_grad():
        (boxes, logits), (same, mixed) = (net.eval()(*given) for net in (second, half))
    torch.testing.assert_close(boxes, same)
    torch.testing.assert_close(mixed[0, :4], (logits + given[2].clamp(1e-4).logit())[0, :4] / 2)


def test_the_command_runs_the_first_stage_once_and_writes_files_that_load(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    first = Nano()
    export(first.state_dict(), tmp_path / "first", {})
    command = ["second_stage", "--data", str(data), "--weights", str(tmp_path / "first"), "--steps", "2"]
    monkeypatch.setattr("sys.argv", [*command, "--output", str(tmp_path / "out")])
    training.main()
    (photo,) = (
        training.FirstStage(**part) for part in torch.load(tmp_path / "out" / "first-stage" / "0.pt", weights_only=True)
    )
    assert [row for row, _ in photo.targets] == [0, 1]  # a chair has no box
    np.testing.assert_allclose(photo.targets[0][1][0], np.array([10, 20, 60, 80]) * 320 / 90, atol=5)
    assert (photo.scores.diff(dim=1) <= 0).all()
    monkeypatch.setattr(training, "run_first_stage", lambda *_: pytest.fail("run again"))
    training.main()
    monkeypatch.setattr("sys.argv", [*command, "--go-on", "--output", str(tmp_path / "out")])
    training.main()
    before, after = read_both(tmp_path / "first"), read_both(tmp_path / "out")
    for key in before:  # two steps from where it was, not from anew
        torch.testing.assert_close(after[key].float(), before[key].float(), atol=5e-3, rtol=5e-3)
    (tmp_path / "held.json").write_text('{"flickr30k": [7], "coco_mini": []}')
    held = [*command, "--held-out", str(tmp_path / "held.json")]
    monkeypatch.setattr("sys.argv", [*held, "--output", str(tmp_path / "out")])
    with pytest.raises(ConfigError, match="other weights or other photos"):
        training.main()
    monkeypatch.setattr("sys.argv", [*held, "--output", str(tmp_path / "none")])
    with pytest.raises(DataError, match="no photo to train on that is not held out"):
        training.main()
    monkeypatch.setattr("sys.argv", [*command, "--output", str(tmp_path / "out")])
    training.main()
    after = read_both(tmp_path / "out")
    load_state(Nano(), after, "out")
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key].float(), after[key].float())}
    assert changed == {"second_stage"}
