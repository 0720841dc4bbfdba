import dataclasses
import itertools

import numpy as np
import pytest
import torch
from data.small_sets import broken_rows
from PIL import Image

from openglip.data.formats.objects365 import DetectionTsv
from openglip.data.mixtures import Mixture, Row, Source
from openglip.data.training_prompts import caption_prompt, detection_prompt_with_negatives
from openglip.data.transforms import Flip, Resize
from openglip.data.views import View
from openglip.errors import DataError
from openglip.images.prepare import Preparation
from openglip.structures.sample import Sample
from openglip.training.batches import Example, Views, batch_stream, collate

TRANSFORMS = (Resize((32, 48), 64), Flip())
NAMES = ("cat", "dog", "bus")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def mixture(folder):
    detection = [
        Sample(
            str(folder / f"{i}.png"), (40, 60), [[5, 5, 30, 30], [20, 10, 50, 39]][: i % 3], categories=NAMES,
            labels=[i % 3, 1][: i % 3], exhaustive=True, image_id=i,
        )
        for i in range(6)
    ]  # fmt: skip
    captions = [
        Sample(str(folder / f"{i}.png"), (80, 120), [[10, 10, 60, 60]], "the left dog", (((9, 12),),), image_id=f"c{i}")
        for i in range(6)
    ]
    sources = [
        Source("detection", detection, detection_prompt_with_negatives, copies=2),
        Source("captions", captions, caption_prompt),
    ]
    return Mixture(sources, seed=1)


def take(count, stream):
    return list(itertools.islice(stream, count))


def same(one, two):
    return (
        torch.equal(one.images, two.images)
        and one.captions == two.captions
        and one.image_ids == two.image_ids
        and all(
            torch.equal(x, y) for a, b in zip(one.targets, two.targets, strict=True) for x, y in zip(a, b, strict=True)
        )
    )


def test_batches_are_the_same_for_any_number_of_workers_and_after_a_stop(folder):
    here = take(6, batch_stream(mixture(folder), TRANSFORMS, Preparation(), 3))
    workers = take(4, batch_stream(mixture(folder), TRANSFORMS, Preparation(), 3, workers=2, start=2))
    assert all(same(one, two) for one, two in zip(here[2:], workers, strict=True))
    assert not same(here[0], here[1])


def test_a_batch_holds_what_the_criterion_takes(folder):
    for batch in take(10, batch_stream(mixture(folder), TRANSFORMS, Preparation(multiple=32), 4)):
        assert batch.images.dtype == torch.float32
        assert batch.images.shape[2] % 32 == batch.images.shape[3] % 32 == 0
        assert batch.ids.shape == batch.mask.shape == (4, int(batch.mask.sum(1).max()))
        for (boxes, tokens), labels, source in zip(batch.targets, batch.labels, batch.sources, strict=True):
            assert boxes.dtype == torch.float32
            assert tokens.dtype == torch.bool
            assert tokens.shape == (len(boxes), batch.ids.shape[1])
            assert tokens.any(1).all()
            assert (labels is None) == (source == "captions")
            assert labels is None or len(labels) == len(boxes)


def test_pictures_without_boxes_are_negatives(folder):
    batches = take(30, batch_stream(mixture(folder), TRANSFORMS, Preparation(), 2))
    empty = [boxes for batch in batches for (boxes, _) in batch.targets if not len(boxes)]
    assert empty


def test_captions_without_a_box_are_passed_over(folder):
    bare = Sample(str(folder / "0.png"), (40, 60), [], "two dogs", (), image_id="bare")
    tiny = Sample(str(folder / "1.png"), (40, 60), [[5, 5, 6, 30]], "a dog", (((2, 5),),), image_id="tiny")
    whole = Sample(str(folder / "2.png"), (40, 60), [[5, 5, 30, 30]], "a cat", (((2, 5),),), image_id="whole")
    stream = batch_stream(Mixture([Source("a", [bare, tiny, whole], caption_prompt)]), (), Preparation(), 3)
    assert next(stream).image_ids == ["whole"] * 3
    with pytest.raises(DataError, match="no sample that can be trained on"):
        next(batch_stream(Mixture([Source("a", [bare, tiny], caption_prompt)]), (), Preparation(), 2))


def test_a_broken_picture_is_replaced_counted_and_said(folder, caplog):
    (folder / "2.png").write_bytes(b"no picture")
    batches = take(12, batch_stream(mixture(folder), TRANSFORMS, Preparation(), 3))
    failures = [failure for batch in batches for failure in batch.failures]
    assert failures
    assert "2.png" in failures[0]
    assert "2.png" in caplog.text
    for i in range(6):
        (folder / f"{i}.png").unlink()
    with pytest.raises(DataError, match=r"can't be read.*\.png"):
        next(batch_stream(mixture(folder), TRANSFORMS, Preparation(), 3))


def test_boxes_whose_words_lie_beyond_the_limit_are_dropped_and_counted():
    image = np.zeros((32, 32, 3), np.uint8)
    boxes = np.array([[0, 0, 9, 9], [5, 5, 20, 20]], np.float32)
    view = View(image, boxes, "dog " * 20 + "cat", (((0, 3),), ((80, 83),)), np.array([0, 1]), dropped=3)
    batch = collate([Example(view, "a", 1)], Preparation(), max_tokens=10)
    assert batch.ids.shape == (1, 10)
    assert batch.mask.all()
    ((kept, tokens),) = batch.targets
    torch.testing.assert_close(kept, torch.tensor([[0.0, 0, 9, 9]]))
    assert tokens[0].nonzero().tolist() == [[1]]
    assert batch.labels[0].tolist() == [0]
    assert batch.dropped == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_reads_like_one_of_this_process(tmp_path, workers):
    missing = [Sample(str(tmp_path / f"{i}.png"), (40, 60), np.zeros((0, 4)), categories=NAMES, labels=[],
                      exhaustive=True, image_id=i) for i in range(4)]  # fmt: skip
    mixed = Mixture([Source("gone", missing, detection_prompt_with_negatives)], 0)
    with pytest.raises(DataError) as caught:
        next(iter(batch_stream(mixed, (), Preparation(32, 64), 2, workers=workers)))
    assert "gone" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def crop(view, begin):
    """The view from column `begin` on; boxes that are cut go."""
    boxes = view.boxes - np.array([begin, 0, begin, 0], np.float32)
    cut = dataclasses.replace(view, image=np.ascontiguousarray(view.image[:, begin:]), boxes=boxes)
    return cut.select(boxes[:, 0] >= 0)


def test_a_caption_whose_boxes_a_transform_cuts_away_is_not_trained_without_them(folder):
    corner, right = (
        Sample(str(folder / "0.png"), (40, 60), [box], "a cat", (((2, 5),),), image_id=name)
        for name, box in {"corner": [10, 0, 30, 20], "right": [40, 0, 60, 40]}.items()
    )
    rows = [Row(0, 0, (0, 0, i)) for i in range(40)]
    random_crop = (lambda view, rng: crop(view, rng.randrange(14)),)
    views = Views(Mixture([Source("a", [corner], caption_prompt)]), random_crop)
    once = [views[row].view for row in rows]
    assert all(len(view.boxes) for view in once)
    assert len({view.image.shape for view in once}) > 5, "still cut in many ways"
    again = [views[row].view for row in reversed(rows)][::-1]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(once, again, strict=True))
    half = (lambda view, rng: crop(view, 30),)
    assert Views(Mixture([Source("a", [corner, right], caption_prompt)]), half)[rows[0]].image_id == "right"
    with pytest.raises(DataError, match="leave 1 captions no box"):
        Views(Mixture([Source("a", [corner], caption_prompt)]), half)[rows[0]]


@pytest.mark.parametrize("hw", [True, False])
def test_broken_rows_are_replaced_and_counted_in_training(hw, tmp_path):
    path = broken_rows(tmp_path)
    if not hw:
        path.write_text(path.read_text().replace("hw: hw.tsv\n", ""))
    samples = DetectionTsv(path)
    mixture = Mixture([Source("a", samples, detection_prompt_with_negatives)])
    batch = next(batch_stream(mixture, (), Preparation(), 4))
    assert sorted(batch.image_ids) == ["k0", "k3", "k3", "k3"]
    assert {"not json" in f for f in batch.failures} == {"base64" in f for f in batch.failures} == {True, False}
