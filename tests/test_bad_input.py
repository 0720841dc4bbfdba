"""Bad input of every kind: the error's type, what it is about, the way out; neighbours are not touched."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import openglip
from openglip import ConfigError, DataError, ImageError, OpenGLIPError, PromptError, WeightsError
from openglip.cli.main import app
from openglip.data.findings import Findings
from openglip.data.formats.coco import read_coco
from openglip.evaluation.read import read_annotations, read_results
from openglip.structures.detections import Detections
from openglip.weights.files import write_safetensors
from openglip.weights.load import build_model

CAT = Path(__file__).resolve().parents[1] / "examples" / "photos" / "chelsea.jpg"


@pytest.fixture(scope="module")
def detector() -> openglip.Detector:
    model = build_model("debug")
    model.state_dict()["rpn.head.bias0"].zero_()
    return openglip.Detector(model, device="cpu")


def check(caught: Any, offender: str, way_out: str) -> None:
    """The message names the offender and the way out, in one line or a few, and is one of ours and a built-in."""
    text = str(caught.value)
    assert isinstance(caught.value, OpenGLIPError)
    assert isinstance(caught.value, ValueError)
    assert offender in text
    assert way_out in text


# ---- images


def huge_png() -> bytes:
    """A PNG of a few bytes that claims 100,000 x 100,000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


BAD_FILES = {
    "empty.jpg": b"",
    "text.jpg": b"this is no picture",
    "cut.jpg": CAT.read_bytes()[:5000],
    "page.png": b"<!DOCTYPE html><html></html>",
    "huge.png": huge_png(),
    "noise.png": b"\x89PNG\r\n\x1a\n" + bytes(range(200)),
}
BAD_IMAGES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "absent file": (lambda: "no/such.jpg", "no/such.jpg", "no such file"),
    "url": (lambda: "https://example.org/a.jpg", "https://example.org/a.jpg", "download"),
    "float array": (lambda: np.zeros((4, 4, 3)), "float64", "uint8"),
    "two channels": (lambda: np.zeros((4, 4, 2), np.uint8), "(4, 4, 2)", "H x W x 3"),
    "no pixels": (lambda: np.zeros((0, 4, 3), np.uint8), "array", "0"),
    "tensor of another scale": (lambda: torch.full((3, 4, 4), 300.0), "Tensor of shape (3, 4, 4)", "0..1"),
    "bytes": (lambda: b"abc", "bytes", "image"),
    "a number": (lambda: 7, "int", "path"),
}


def same(one: Detections, other: Detections) -> bool:
    return np.allclose(one.boxes, other.boxes, atol=0.05) and np.allclose(one.scores, other.scores, atol=1e-4)


@pytest.mark.parametrize("name", sorted(BAD_FILES))
def test_image_files(detector: openglip.Detector, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(ImageError) as caught:
        detector.detect(path, ["cat"])
    assert name in str(caught.value)
    alone = detector.detect(CAT, ["cat"], threshold=0)
    before, bad, after = detector.detect([CAT, path, CAT], ["cat"], threshold=0, on_error="record")
    assert len(bad) == 0
    assert name in bad.error
    assert len(alone) > 0
    assert same(before, alone)
    assert same(after, alone)


@pytest.mark.parametrize("case", sorted(BAD_IMAGES))
def test_image_objects(detector: openglip.Detector, case: str) -> None:
    make, offender, way_out = BAD_IMAGES[case]
    with pytest.raises(ImageError) as caught:
        detector.detect([make()], ["cat"])
    check(caught, offender, way_out)
    good, bad = detector.detect([CAT, make()], ["cat"], on_error="record")
    assert good.error is None
    assert bad.error is not None


def test_an_array_of_several_images_asks_for_a_list(detector: openglip.Detector) -> None:
    with pytest.raises(ImageError, match="give a list"):
        detector.detect(np.zeros((2, 8, 8, 3), np.uint8), ["cat"])


# ---- prompts

BAD_CATEGORIES = {
    "none": ([], "categor", "at least one"),
    "empty": (["cat", ""], "category 1", "leave it out"),
    "blank": (["cat", " \t"], "category 1", "leave it out"),
    "nothing after cleaning": (["cat", "()"], "category 1", "leave it out"),
    "twice": (["cat", "dog", "cat"], "categories 0 and 2", "leave one out"),
    "no string": (["cat", 3], "category 1 is a int", "not a string"),
    "too long": (["cat", "very " * 300 + "long"], "category 1", "shorten it"),
}
BAD_CAPTIONS = {
    "empty": (("", None), "caption", "empty"),
    "phrase not in it": (("a cat", ["a dog"]), "a dog", "caption"),
    "span beyond the end": (("a cat", [(2, 40)]), "40", "5"),
    "span turned round": (("a cat", [(4, 2)]), "phrase 0 has span (4, 2)", "a caption of 5 characters"),
    "empty phrase": (("a cat", [""]), "phrase 0", "empty"),
    "no phrases": (("a cat", []), "list of phrases is empty", "leave it out"),
    "phrases as one string": (("a cat", "cat"), "'cat'", "a list"),
    "a number for a span": (("a cat", [3]), "phrase 0 is 3", "(start, end)"),
    "span of fractions": (("a cat", [(0.0, 3.0)]), "phrase 0 is (0.0, 3.0)", "(start, end)"),
    "span of one": (("a cat", [(0,)]), "phrase 0 is (0,)", "(start, end)"),
    "no text": (("a \ud800 cat", None), "ud800", "unicode"),
    "only blanks": (("a cat", [(1, 2)]), "phrase 0 has span (1, 2)", "only blanks"),
}


@pytest.mark.parametrize("case", sorted(BAD_CATEGORIES))
def test_categories(detector: openglip.Detector, case: str) -> None:
    names, offender, way_out = BAD_CATEGORIES[case]
    with pytest.raises(PromptError) as caught:
        detector.detect(CAT, names)
    check(caught, offender, way_out)
    assert len(detector.detect(CAT, ["cat"], threshold=0)) > 0


@pytest.mark.parametrize("case", sorted(BAD_CAPTIONS))
def test_captions(detector: openglip.Detector, case: str) -> None:
    (caption, phrases), offender, way_out = BAD_CAPTIONS[case]
    with pytest.raises(PromptError) as caught:
        detector.ground(CAT, caption, phrases=phrases)
    check(caught, offender, way_out)


@pytest.mark.parametrize("categories", [5, b"cat"])
def test_categories_that_are_no_list(detector: openglip.Detector, categories: Any) -> None:
    with pytest.raises(PromptError, match="categories must be a list"):
        detector.detect(CAT, categories)


def test_words_for_each_image_must_be_as_many_as_the_images(detector: openglip.Detector) -> None:
    with pytest.raises(PromptError, match="1 lists of categories for 2 images: give one per image"):
        detector.detect([CAT, CAT], [["cat"]])


# ---- weights (more of them: tests/weights)


def bad_weights(folder: Path) -> dict[str, tuple[tuple[Any, ...], type[Exception], str, str]]:
    """case -> (arguments of load, error, offender, way out)"""
    state = build_model("debug").state_dict()
    write_safetensors(folder / "good.safetensors", state, {"model": "debug"})
    (folder / "cut.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:10_000])
    (folder / "page.pth").write_bytes(b"<html>404</html>")
    torch.save({"model": {"a": object}}, folder / "code.pth")
    write_safetensors(
        folder / "less.safetensors", {k: v for k, v in state.items() if "fpn" not in k}, {"model": "debug"}
    )
    write_safetensors(folder / "future.safetensors", state, {"model": "glip-9"})
    return {
        "unknown name": (("glip-u",), ConfigError, "'glip-u'", "glip-t"),
        "absent": (("debug", folder / "absent.pth"), WeightsError, "absent.pth", "give the path"),
        "cut short": (("debug", folder / "cut.safetensors"), WeightsError, "cut.safetensors", "Get the file again"),
        "web page": (("debug", folder / "page.pth"), WeightsError, "page.pth", "get it again"),
        "code": (("debug", folder / "code.pth"), WeightsError, "code.pth", "nothing of it was run"),
        "missing keys": (
            ("debug", folder / "less.safetensors"),
            WeightsError,
            "missing:\n    backbone.fpn",
            "another file",
        ),
        "another model": (("glip-t", folder / "good.safetensors"), WeightsError, "holds a debug", "by its path alone"),
        "unknown model": ((folder / "future.safetensors",), ConfigError, "glip-9", "Models:"),
        "folder": ((folder,), WeightsError, str(folder), "give the checkpoint's file"),
        "not downloaded": (("glip-l",), WeightsError, "glip_large_model.pth", "put the file"),
        "never released": (("dyhead-t",), WeightsError, "dyhead-t", "weights=PATH"),
    }


CASES = ("unknown name", "absent", "cut short", "web page", "code", "missing keys", "another model", "unknown model",
         "folder", "not downloaded", "never released")  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setenv("OPENGLIP_OFFLINE", "1")
    monkeypatch.setenv("OPENGLIP_CACHE", str(tmp_path / "cache"))
    arguments, kind, offender, way_out = bad_weights(tmp_path)[case]
    with pytest.raises(kind) as caught:
        openglip.load(*arguments)
    check(caught, offender, way_out)
    assert openglip.load(tmp_path / "good.safetensors").model.name == "debug"


# ---- annotations and predictions

GOOD = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in (1, 2)],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 10 + i, "image_id": i, "category_id": 1, "bbox": [1, 2, 30, 40]} for i in (1, 2)],
}
# case -> (changes of the annotation with id 11, kind of finding when read for training, offender when judged by)
BAD_ANNOTATIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown image": ({"image_id": 77}, "annotation_without_image", "annotation 11: no such image_id: 77"),
    "unknown category": ({"category_id": 9}, "unmapped_class", "annotation 11: no such category_id: 9"),
    "not finite": ({"bbox": [1, 2, float("nan"), 4]}, "box_not_finite", "annotation 11 of image 1: bbox is not finite"),
    "negative size": ({"bbox": [1, 2, -3, 4]}, "box_degenerate", "annotation 11 of image 1: bbox has a negative size"),
    "three numbers": ({"bbox": [1, 2, 3]}, "malformed", "annotation 11 of image 1: bbox is not four numbers"),
    "words": ({"bbox": "here"}, "malformed", "annotation 11 of image 1: bbox is not four numbers"),
}
BAD_DOCUMENTS = {
    "absent": (None, "No such file"),
    "cut": (json.dumps(GOOD)[:50], "line 1"),
    "list": ("[]", "object"),
    "other": ('{"shapes": []}', "images"),
}
BAD_RESULTS: dict[str, tuple[Any, str]] = {
    "unknown image": ({"image_id": 9}, "entry 1 (image_id 9): no such image"),
    "unknown category": ({"category_id": 7}, "no category with id 7"),
    "score": ({"score": float("inf")}, "the score is not a finite number"),
    "no score": ({"score": None}, "the score is not a finite number"),
    "box": ({"bbox": [1, 2, 3]}, "bbox is not four numbers"),
    "box not finite": ({"bbox": [1, 2, float("nan"), 4]}, "bbox"),
}


@pytest.mark.parametrize("case", sorted(BAD_ANNOTATIONS))
def test_annotations(tmp_path: Path, case: str) -> None:
    changes, kind, offender = BAD_ANNOTATIONS[case]
    path = tmp_path / "bad.json"
    first, second = GOOD["annotations"]
    path.write_text(json.dumps({**GOOD, "annotations": [{**first, **changes}, second]}))
    with pytest.raises(DataError) as caught:
        read_annotations(path)
    check(caught, offender, str(path))
    findings = Findings()
    samples = list(read_coco(path, findings=findings))
    (found,) = findings.items
    assert (found.kind, found.file, found.id) == (kind, str(path), 11)
    assert [len(sample.boxes) for sample in samples] == [0, 1]
    checked = CliRunner().invoke(app, ["data", "check", str(path), "--json"])
    assert checked.exit_code == 1
    assert kind in {finding["kind"] for finding in json.loads(checked.stdout)["findings"]}


@pytest.mark.parametrize("case", sorted(BAD_DOCUMENTS))
def test_annotation_files(tmp_path: Path, case: str) -> None:
    content, words = BAD_DOCUMENTS[case]
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    for read in (read_annotations, lambda path: list(read_coco(path))):
        with pytest.raises(DataError) as caught:
            read(path)
        check(caught, str(path), words)


@pytest.mark.parametrize("case", sorted(BAD_RESULTS))
def test_predictions(tmp_path: Path, case: str) -> None:
    changes, offender = BAD_RESULTS[case]
    good = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5}
    path, truth = tmp_path / "results.json", tmp_path / "truth.json"
    path.write_text(json.dumps([good, {**good, **changes}]))
    truth.write_text(json.dumps(GOOD))
    with pytest.raises(DataError) as caught:
        read_results(path, read_annotations(truth))
    check(caught, offender, str(path))
    judged = CliRunner().invoke(app, ["evaluate", "coco", "--annotations", str(truth), "--predictions", str(path)])
    assert judged.exit_code == 1
    assert offender in judged.stderr
    assert "Traceback" not in judged.output


# ---- arguments

BAD_ARGUMENTS = {
    "top_k": ({"top_k": 0}, "top_k is 0", "at least 1"),
    "nms_iou": ({"nms_iou": 1.5}, "nms_iou is 1.5", "from 0 to 1"),
    "top_k of another type": ({"top_k": 2.5}, "top_k is 2.5", "whole number"),
    "nms_iou of another type": ({"nms_iou": "x"}, "nms_iou is 'x'", "from 0 to 1"),
    "batch_size": ({"batch_size": -1}, "batch_size is -1", "at least 1"),
    "on_error": ({"on_error": "skip"}, "'skip'", "'record'"),
    "threshold": ({"threshold": 1.5}, "1.5", "within 0 and 1"),
    "threshold of another type": ({"threshold": ["x"]}, "['x']", "from 0 to 1"),
    "thresholds": ({"threshold": [0.1, 0.2]}, "2 thresholds for 1", "one per category"),
    "threshold of another name": ({"threshold": {"dog": 0.1}}, "'dog'", "categories"),
    "chunk_size": ({"chunk_size": 0}, "chunk_size is 0", "at least 1"),
    "chunk_size of another type": ({"chunk_size": "x"}, "chunk_size is 'x'", "at least 1"),
    "no distractor": ({"distractors": ["dog", ""]}, "distractor 1 is empty", "leave it out"),
    "distractor that is a category": ({"distractors": ["cat"]}, "'cat'", "leave it out"),
    "distractors as one string": ({"distractors": "dog"}, "'dog'", "a list"),
    "short_side of another type": ({"short_side": 2.5}, "short_side is 2.5", "whole number"),
    "short_side": ({"short_side": 0}, "short_side", "at least"),
    "max_side": ({"max_side": -5}, "max_side", "at least"),
}


@pytest.mark.parametrize("case", sorted(BAD_ARGUMENTS))
def test_arguments(detector: openglip.Detector, case: str) -> None:
    settings, offender, way_out = BAD_ARGUMENTS[case]
    with pytest.raises((ConfigError, PromptError)) as caught:
        detector.detect(CAT, ["cat"], **settings)
    check(caught, offender, way_out)


@pytest.mark.parametrize("settings", [{"device": "gpu"}, {"device": "cuda:99"}, {"precision": "fp8"}])
def test_arguments_of_load(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        openglip.load("debug", **settings)  # type: ignore[arg-type]
    check(caught, next(iter(settings.values())), "")


def test_what_belongs_to_the_encoding_of_words_is_refused_later(detector: openglip.Detector) -> None:
    with pytest.raises(ConfigError, match="encode_text"):
        detector.detect(CAT, detector.encode_text(["cat"]), distractors=["dog"])


def test_what_another_detector_encoded_is_refused(detector: openglip.Detector) -> None:
    other = openglip.Detector(build_model("debug"), device="cpu")
    for encoded in ((other.encode(CAT), ["cat"]), (CAT, other.encode_text(["cat"]))):
        with pytest.raises(ConfigError, match="another detector"):
            detector.detect(*encoded)
