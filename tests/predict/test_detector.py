"""The detector: what goes in, what comes out, and that neither batch nor cache nor thread changes it."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from model.golden import fill_model, golden_arrays, golden_json
from PIL import Image

import openglip
from openglip.errors import ConfigError, ImageError, PromptError
from openglip.predict.detector import Detector
from openglip.structures.detections import Detections
from openglip.weights.load import build_model

NAMES = ["cat", "St. Bernard", "toy (plastic)", "dining_table", "Kühlschrank"]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    model = build_model("debug")
    model.score_cut = 0.0  # type: ignore[assignment]
    return Detector(model)


def same(a: Detections, b: Detections, boxes: float = 0.05, scores: float = 1e-4) -> None:
    assert a.vocabulary == b.vocabulary
    assert len(a) == len(b)
    # equal scores may change places, so compare in an order of their own
    rows = [np.lexsort((*d.boxes.T.round(1), d.labels)) for d in (a, b)]
    assert np.abs(a.scores[rows[0]] - b.scores[rows[1]]).max(initial=0) < scores
    assert np.abs(a.boxes[rows[0]] - b.boxes[rows[1]]).max(initial=0) < boxes


def test_official_detections_through_the_detector():
    arrays, case = golden_arrays("glip-t-a/forward.npz"), golden_json("glip-t-a/forward.json")["cases"]["det_single1"]
    detector = Detector(fill_model(build_model("glip-t-a")))
    names = case.get("categories") or golden_json("glip-t-a/forward.json")["cases"]["det"]["categories"]
    found = detector.detect(arrays["image/1"], names, threshold=0, short_side=160)
    assert len(found) == case["detections"]["default"]["count"][0]
    assert found.vocabulary == tuple(names)
    matched = 0
    for box, score, label in zip(
        *(arrays[f"det_single1/det/default/0/{k}"] for k in ("boxes", "scores", "labels")), strict=True
    ):
        close = (np.abs(found.boxes - box).max(1) < 0.05) & (np.abs(found.scores - score) < 1e-3)
        matched += bool((close & (found.labels + 1 == label)).any())
    assert matched >= case["detections"]["default"]["matched_after_noise_2e-5"][0]


def test_an_image_alone_and_in_a_mixed_list_agree(detector: Detector):
    images = [picture(300, 400), picture(200, 420, 1), picture(300, 400, 2), picture(90, 60, 3), picture(300, 400, 4)]
    together = detector.detect(images, NAMES, threshold=0, batch_size=3)
    for image, found in zip(images, together, strict=True):
        same(detector.detect(image, NAMES, threshold=0), found)
        assert found.image_size == image.shape[:2]


def test_captions_of_different_length_in_one_batch_agree_with_each_alone(detector: Detector):
    images = [picture(96, 128, i) for i in range(3)]
    captions = ["a cat", "a small dog chases the red ball near two wooden benches", "a man and a woman"]
    together = detector.ground(images, captions, threshold=0, batch_size=3)
    for image, caption, found in zip(images, captions, together, strict=True):
        same(detector.ground(image, caption, threshold=0), found)
        assert found.caption == caption


def test_every_kind_of_source_gives_the_same(detector: Detector, tmp_path: Path):
    pixels = picture(80, 100)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = detector.detect(pixels, ["cat"], threshold=0)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), buffer.getvalue(), Image.fromarray(pixels), tensor):
        same(detector.detect(source, ["cat"], threshold=0), expected)
    same(detector.detect(tensor.float() / 255, ["cat"], threshold=0), expected)
    assert detector.detect(tmp_path / "a.png", ["cat"]).source == str(tmp_path / "a.png")


def test_encoded_images_and_texts_are_reused_by_their_own_detector_only(detector: Detector):
    pixels = picture(120, 90)
    image, text = detector.encode(pixels), detector.encode_text(NAMES)
    same(detector.detect(image, text, threshold=0), detector.detect(pixels, NAMES, threshold=0))
    assert detector.detect(image, text).vocabulary == tuple(NAMES)
    same(detector.ground(image, "a cat", threshold=0), detector.ground(pixels, "a cat", threshold=0))
    other = Detector(build_model("debug"))
    for arguments in ((image, NAMES), (pixels, text)):
        with pytest.raises(ConfigError, match="another detector"):
            other.detect(*arguments)


def test_a_long_vocabulary_is_split_and_no_name_is_lost(detector: Detector):
    names = [f"thing number {i}" for i in range(150)]
    with pytest.warns(UserWarning, match="150 categories do not fit one prompt of 256 tokens: asked in 3 prompts"):
        text = detector.encode_text(names)
    sizes = [len(p.labels) for p in text.prompts]
    assert sum(sizes) == 150
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 2
    assert [int(x) for p in text.prompts for x in p.labels] == list(range(150))
    found = detector.detect(picture(64, 64), text, threshold=0, top_k=None)
    assert found.vocabulary == tuple(names)
    assert {p // 50 for p in found.labels} == {0, 1, 2}
    with warnings.catch_warnings(action="error"):  # asked for, so nothing to tell
        by_chunks = detector.encode_text(names, chunk_size=40)
    assert [len(p.labels) for p in by_chunks.prompts] == [40, 40, 40, 30]


def test_categories_as_one_string_and_per_image(detector: Detector):
    image = picture(64, 96)
    assert detector.detect(image, "cat. remote control, v2.0 box").vocabulary == ("cat", "remote control", "v2.0 box")
    found = detector.detect([image, image], [["cat"], ["dog", "bird"]], threshold=0)
    assert [f.vocabulary for f in found] == [("cat",), ("dog", "bird")]


def test_distractors_take_part_but_are_not_found(detector: Detector):
    image = picture(64, 96)
    found = detector.detect(image, ["cat"], distractors=["dog", "car"], threshold=0)
    assert found.vocabulary == ("cat",)
    assert set(found.labels) <= {0}
    alone = detector.detect(image, ["cat"], threshold=0)
    assert not np.array_equal(found.scores[:20], alone.scores[:20])


def test_thresholds(detector: Detector):
    image, names = picture(128, 128), ["cat", "dog"]
    everything = detector.detect(image, names, threshold=0, top_k=None)
    middle = float(np.median(everything.scores))
    assert (detector.detect(image, names, threshold=middle, top_k=None).scores > middle).all()
    for each in ([middle, 1.0], {"cat": middle, "dog": 1.0}):
        found = detector.detect(image, names, threshold=each, top_k=None)
        assert set(found.names) == {"cat"}
        assert len(found) == ((everything.labels == 0) & (everything.scores > middle)).sum()
    with pytest.raises(ConfigError, match="'bird'"):
        detector.detect(image, names, threshold={"bird": 0.5})
    with pytest.raises(ConfigError, match="3 thresholds for 2"):
        detector.detect(image, names, threshold=[0.1, 0.2, 0.3])


def test_what_is_below_its_own_threshold_takes_no_place_of_others(detector: Detector):
    image = picture(100, 130)
    found = detector.detect(image, ["cat", "dog"], threshold=0)
    least = {"cat": 1.0, "dog": 0.0}
    (best,) = detector.detect(image, ["cat", "dog"], threshold=least, top_k=1)
    assert best.score == found.filter(names=["dog"]).scores[0]
    alone = detector.detect(image, ["cat", "dog"], threshold=least, class_agnostic=True)
    assert set(alone.names) == {"dog"}
    assert alone.scores[0] == best.score


def test_numbers_of_other_libraries_are_numbers(detector: Detector):
    image, caption = picture(60, 60), "a cat on a mat"
    plain = detector.detect(image, ["cat"], threshold=0.25)
    for threshold in (np.float32(0.25), torch.tensor(0.25), np.array([0.25])):
        assert detector.detect(image, ["cat"], threshold=threshold) == plain  # type: ignore[arg-type]
    spans = np.array([[0, 5]])
    assert detector.ground(image, caption, phrases=list(spans)).vocabulary == ("a cat",)


def test_top_k_keeps_ties_and_scores_fall(detector: Detector):
    found = detector.detect(picture(128, 160), NAMES, threshold=0, top_k=7)
    assert len(found) >= 7
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores[7:] == found.scores[6]).all()


def test_class_agnostic_leaves_one_word_per_object(detector: Detector):
    image = picture(128, 160)
    several = detector.detect(image, NAMES, threshold=0, top_k=None)
    single = detector.detect(image, NAMES, threshold=0, top_k=None, class_agnostic=True)
    assert 0 < len(single) < len(several)


def test_phrases_in_every_form(detector: Detector):
    image, caption = picture(64, 64), "a dog and a dog near the tree"
    by_text = detector.ground(image, caption, phrases=["a dog", "a dog", "tree"])
    assert by_text.phrase_spans == (((0, 5),), ((10, 15),), ((25, 29),))
    by_span = detector.ground(image, caption, phrases=[(0, 5), [(10, 15), (25, 29)]])
    assert by_span.phrase_spans == (((0, 5),), ((10, 15), (25, 29)))
    assert by_span.vocabulary[1] == "a dog tree"
    found = detector.ground([image, image], ["a cat", "a tree"], phrases=[["cat"], [(2, 6)]])
    assert [f.vocabulary for f in found] == [("cat",), ("tree",)]
    nested = detector.ground([image], "a cat", phrases=[["cat"]])
    assert nested[0].vocabulary == ("cat",)


def test_threads_get_the_results_of_one(detector: Detector):
    images = [picture(64 + 8 * i, 96, i) for i in range(6)]
    expected = [detector.detect(image, NAMES, threshold=0) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(
            pool.map(lambda i: detector.detect(i, NAMES, threshold=0), images), expected, strict=True
        ):
            same(found, alone)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 4, 7])
def test_photos_side_by_side_are_those_of_one_by_one(detector: Detector, batch_size: int | None, tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    images = [picture(64 + 40 * (i % 3), 96, i) for i in range(9)]
    expected = [detector.detect(image, NAMES, threshold=0) for image in images]
    threads = torch.get_num_threads()
    found = detector.detect(
        [*images, tmp_path / "bad.jpg"], NAMES, threshold=0, batch_size=batch_size, on_error="record"
    )
    for one, alone in zip(found[:-1], expected, strict=True):
        same(one, alone)
    assert "bad.jpg" in (found[-1].error or "")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        detector.detect([*images, tmp_path / "bad.jpg"], NAMES, batch_size=batch_size)
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == threads


def test_stream_reads_no_further_than_it_must(detector: Detector):
    taken = []

    def endless():
        i = 0
        while True:
            taken.append(i)
            yield picture(64, 64, i % 3)
            i += 1

    stream = detector.stream(endless(), ["cat"], batch_size=2)
    for _ in range(20):
        next(stream)
    assert len(taken) < 20 + 64


def test_stream_takes_one_image_too(detector: Detector, tmp_path: Path):
    path = tmp_path / "one.png"
    Image.fromarray(picture(60, 60)).save(path)
    (found,) = detector.stream(str(path), ["cat"])
    assert found == detector.detect(path, ["cat"])


def test_unreadable_images_are_recorded_and_leave_the_others_alone(detector: Detector, tmp_path: Path):
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    image = picture(64, 64)
    found = detector.detect([image, tmp_path / "bad.jpg", image], ["cat"], threshold=0, on_error="record")
    assert "bad.jpg" in found[1].error
    assert len(found[1]) == 0
    assert found[1].image_size is None
    same(found[0], found[2])
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        detector.detect([image, tmp_path / "bad.jpg"], ["cat"])


@pytest.mark.parametrize(
    ("categories", "part"),
    [
        ([], "no categories"),
        ([""], "category 0 is empty"),
        (["cat", " "], "category 1 is empty"),
        (["(only)"], "category 0 is empty"),
        (["cat", "dog", "cat"], "categories 0 and 2 are the same"),
        (["cat", "x " * 300], "category 1"),
        (["cat", 3], "category 1 is a int"),
    ],
)
def test_bad_categories_are_named_with_their_position(detector: Detector, categories: list, part: str):
    with pytest.raises(PromptError, match=part.replace("(", r"\(")):
        detector.detect(picture(32, 32), categories)


def test_names_that_look_alike_are_kept_with_one_warning(detector: Detector):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = detector.detect(picture(64, 64), ["Cat", "cat", "bow_(weapon)", "bow (tie)"], threshold=0)
    assert found.vocabulary == ("Cat", "cat", "bow_(weapon)", "bow (tie)")
    assert len([w for w in caught if "tell apart" in str(w.message)]) == 1


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"top_k": 0}, "top_k"),
        ({"nms_iou": 1.5}, "nms_iou"),
        ({"batch_size": 0}, "batch_size"),
        ({"on_error": "ignore"}, "on_error"),
        ({"threshold": -0.1}, "threshold"),
        ({"short_side": 0}, "short_side is 0"),
    ],
)
def test_bad_arguments_are_named(detector: Detector, settings: dict, part: str):
    with pytest.raises(ConfigError, match=part):
        detector.detect(picture(32, 32), ["cat"], **settings)


def test_a_batch_array_is_refused_with_the_way_out(detector: Detector):
    with pytest.raises(ImageError, match="give a list"):
        detector.detect(np.zeros((2, 32, 32, 3), np.uint8), ["cat"])


@pytest.mark.parametrize("captions", [["a cat"], ["a cat", "a dog", "a bird"]])
def test_captions_must_be_as_many_as_images(detector: Detector, captions: list[str]):
    images = [picture(32, 32), picture(32, 32)]
    with pytest.raises(PromptError, match=f"{len(captions)} captions for 2 images"):
        detector.ground(images, captions)
    with pytest.raises(PromptError, match="image 1 has no words"):
        list(detector.stream(iter(images), captions=["a cat"]))
    with pytest.raises(PromptError, match="lists of categories for 1 images"):
        detector.detect(images[0], [["cat"], ["dog"]])


def test_closed_set_models_take_their_own_classes_only():
    detector = Detector(build_model("dyhead-t"))
    found = detector.detect(picture(64, 64), ["dog", "cat"], threshold=0, short_side=64)
    assert found.vocabulary == ("dog", "cat")
    with pytest.raises(PromptError, match="'unicorn'"):
        detector.detect(picture(64, 64), ["dog", "unicorn"])
    with pytest.raises(PromptError, match="closed set"):
        detector.ground(picture(64, 64), "a dog")


def test_precision_is_checked_and_leaves_the_given_model_alone():
    model = build_model("debug")
    detector = Detector(model, precision="bf16")
    found = detector.detect(picture(64, 96), NAMES, threshold=0)
    assert np.isfinite(found.scores).all()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    with pytest.raises(ConfigError, match="'fp64'"):
        Detector(model, precision="fp64")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tpu"):
        openglip.load("debug", "random", device="tpu")
