from __future__ import annotations

import copy
import io
import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openglip.errors import DataError, ImageError, ImageNotFoundError, MissingExtraError
from openglip.images.read import read_image
from openglip.structures.detections import Detections
from openglip.structures.draw import draw


def some(**changes: Any) -> Detections:
    parts: dict = {
        "boxes": np.array([[1, 2, 30, 40], [0, 0, 5, 5], [10, 10, 60, 38]], np.float32),
        "scores": np.array([0.9, 0.5, 0.3], np.float32),
        "labels": np.array([1, 0, 1]),
        "vocabulary": ("cat", "remote control"),
        "image_size": (40, 60),
    }
    return Detections(**(parts | changes))


def test_fields_and_names() -> None:
    detections = some()
    assert detections.names == ("remote control", "cat", "remote control")
    assert [f.dtype for f in (detections.boxes, detections.scores, detections.labels)] == [
        np.float32,
        np.float32,
        np.int64,
    ]
    assert [d.name for d in detections] == list(detections.names)
    assert (detections[0].label, round(detections[-1].score, 2)) == (1, 0.3)
    assert repr(detections) == "Detections(3: remote control 0.90, cat 0.50, remote control 0.30)"


def test_they_are_immutable() -> None:
    scores = np.array([0.9, 0.5, 0.3], np.float32)
    for detections in (some(scores=scores), pickle.loads(pickle.dumps(some())), copy.deepcopy(some()), some()[:2]):
        with pytest.raises(ValueError, match="read-only"):
            detections.boxes[0, 0] = 1
        with pytest.raises(AttributeError):
            detections.scores = scores  # type: ignore[misc]
    scores[0] = 0.1  # the caller's array is not shared
    assert some() == pickle.loads(pickle.dumps(some()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.9, 0.5]}, "N x 4, N and N"),
        ({"boxes": np.zeros((3, 5))}, "N x 4, N and N"),
        ({"labels": [0, 1, 2]}, r"0\.\.1"),
        ({"labels": [0, -1, 0]}, r"0\.\.1"),
        ({"scores": [0.5, 0.6, 0.1]}, "descending"),
        ({"scores": [np.nan, 0.6, 0.1]}, "finite"),
        ({"phrase_spans": [[(0, 3)]]}, "1 phrase spans for 2"),
    ],
)
def test_fields_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        some(**change)


def test_indexing_and_filter() -> None:
    detections = some()
    assert detections[1:].names == ("cat", "remote control")
    assert detections[detections.scores > 0.4] == detections[[True, True, False]] == detections[:2]
    assert len(detections[[]]) == len(some(boxes=[], scores=[], labels=[])) == 0
    assert detections.filter(threshold=0.5) == detections[:2]
    assert detections.filter(threshold={"remote control": 0.95}) == detections[1:2]
    assert detections.filter(names=["cat"]) == detections[1:2]
    assert detections.filter(min_side=6).names == ("remote control", "remote control")
    assert detections.filter(top_k=1) == detections[:1]
    with pytest.raises(DataError, match=r"'dog' is not in the vocabulary: cat, remote control"):
        detections.filter(names=["dog"])
    with pytest.raises(IndexError):
        detections[3]


def test_filter_refuses_a_negative_top_k() -> None:
    with pytest.raises(DataError, match="top_k is -1"):
        some().filter(top_k=-1)


def test_to_coco() -> None:
    rows = some().to_coco(7, category_ids=[17, 75])
    assert rows[0] == {"image_id": 7, "category_id": 75, "bbox": [1.0, 2.0, 29.0, 38.0], "score": pytest.approx(0.9)}
    assert [r["category_id"] for r in some().to_coco()] == [2, 1, 2]
    json.dumps(rows)


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.tuples(st.tuples(FLOATS, FLOATS, FLOATS, FLOATS), FLOATS, st.integers(0, 2)), max_size=8),
    st.text(max_size=10),
)
def test_json_restores_every_bit(rows: list, word: str) -> None:
    rows.sort(key=lambda r: -r[1])
    detections = Detections(
        np.array([r[0] for r in rows]),
        np.array([r[1] for r in rows]),
        np.array([r[2] for r in rows], int),
        (word, "b", 'c"'),
        (3, 4),
        caption=f"{word} b",
        phrase_spans=(((0, 1), (2, 3)), (), ((1, 2),)),
        source="é.jpg",
    )
    line = detections.to_json()
    assert "\n" not in line
    assert Detections.from_json(line) == detections
    assert Detections.from_json(line).boxes.tobytes() == detections.boxes.tobytes()


def test_a_file_name_that_is_no_text_survives_json() -> None:
    detections = some(source="caf\udce9.jpg")
    line = detections.to_json()
    assert line.encode("utf-8")  # can be written
    assert Detections.from_json(line) == detections


def test_json_has_the_documented_fields() -> None:
    row = json.loads(some(source="a.jpg").to_json())
    assert list(row) == ["image", "width", "height", "vocabulary", "caption", "phrase_spans", "detections", "error"]
    assert row["detections"][0] == {"box": [1, 2, 30, 40], "score": 0.9, "label": 1, "name": "remote control"}
    failed = Detections([], [], [], ("cat",), None, source="b.jpg", error="b.jpg: no such file")  # type: ignore[arg-type]
    assert Detections.from_json(failed.to_json()) == failed
    for line in ("", "{}", "[1]", '{"detections": 3}'):
        with pytest.raises(DataError, match="not a line of detections"):
            Detections.from_json(line)


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'openglip\[supervision\]'"):
        some().to_supervision()
    stub = types.ModuleType("supervision")
    stub.Detections = lambda **parts: parts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", stub)
    parts: dict = some().to_supervision()  # type: ignore[assignment]
    assert parts["data"]["class_name"].tolist() == list(some().names)
    assert parts["xyxy"].flags.writeable


def test_plot_says_what_it_can_not_open_and_lays_glass_over_white(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError, match=r"gone\.png: no such file; give the image's pixels: plot\(image\)"):
        some(source=str(tmp_path / "gone.png")).plot()
    Image.new("RGBA", (60, 40), (0, 0, 0, 0)).save(tmp_path / "glass.png")
    drawn = some(source=str(tmp_path / "glass.png"))[:0].plot()
    assert drawn.getpixel((drawn.width // 2, drawn.height // 2)) == (255, 255, 255)


def sources() -> dict[str, Any]:
    """One image of 40 x 60 in many forms, some of which show other pixels than others."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    transparent = Image.fromarray(np.dstack([pixels, pixels[:, :, 0]]))
    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) << 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, file = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels.transpose(1, 0, 2)).save(turned, "PNG", exif=exif)
    transparent.save(file, "PNG")
    return {
        "array": pixels,
        "grey": pixels[:, :, 0],
        "rgba": np.asarray(transparent),
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
        "deep": deep,
        "bytes": file.getvalue(),
        "file": file,
        "turned": Image.open(turned),
    }


@pytest.mark.parametrize("kind", sources())
def test_plot_shows_the_image_as_the_detector_saw_it(kind: str, tmp_path: Path) -> None:
    source = sources()[kind]
    pixels = read_image(source)
    none = some(boxes=[], scores=[], labels=[], image_size=pixels.shape[:2])
    assert none.plot(source) == none.plot(pixels) == draw(pixels, none.boxes, [], ())
    none.save(tmp_path / "saved.png", source)
    assert Image.open(tmp_path / "saved.png").convert("RGB") == none.plot(pixels)


def test_saved_files(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 40), "grey")
    image.save(tmp_path / "in.png")
    detections = some(source=str(tmp_path / "in.png"))
    detections.save(tmp_path / "out.jpg")
    detections.save(tmp_path / "out.png", np.asarray(image))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.png", "out.jpg", "out.png"]
    assert detections._repr_png_()[:4] == b"\x89PNG"  # type: ignore[index]
    assert some()._repr_png_() is None
    with pytest.raises(ImageError, match="do not know their image's path"):
        some().plot()
    with pytest.raises(ImageError, match="ending names no image format"):
        detections.save(tmp_path / "out.nonsense")
    with pytest.raises(ImageError, match=r"the image is 5 x 5, these detections are of \(40, 60\)"):
        detections.plot(Image.new("RGB", (5, 5)))
    assert not list(tmp_path.glob(".*"))


def test_one_name_is_not_taken_apart() -> None:
    assert some().filter(names="cat") == some().filter(names=["cat"])
    assert len(some().filter(names="remote control"))
    with pytest.raises(DataError, match="'dog' is not in the vocabulary"):
        some().filter(names="dog")


@pytest.mark.parametrize("name", ["no/such/folder/a.jpg", "x" * 251 + ".jpg", "ŝ" * 125 + ".jpg"])
def test_long_and_new_paths_are_written(name: str, tmp_path: Path) -> None:
    some().save(tmp_path / name, np.zeros((40, 60, 3), np.uint8))
    assert (tmp_path / name).exists()
