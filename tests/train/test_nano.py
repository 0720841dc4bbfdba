"""Training of the embedded model on three drawn pictures: what learns, what stays, and that a run goes on."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openglip.data.pack import Phrase, Picture, pack
from openglip.model.nano import Nano
from openglip.train import nano as training
from openglip.train.nano_batches import NanoBatches, Texts, all_texts
from openglip.weights.files import read_checkpoint

CAPTION = "a red ball beside a dog ."
BOXES = [[0.1, 0.2, 0.5, 0.8], [0.6, 0.1, 0.9, 0.9]]


def png(colour: tuple[int, int, int]) -> bytes:
    pixels = np.full((60, 90, 3), 40, np.uint8)
    pixels[12:48, 9:45] = colour
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def model() -> Nano:
    torch.manual_seed(0)
    return Nano()


@pytest.fixture(scope="module")
def batches(model: Nano, tmp_path_factory: pytest.TempPathFactory) -> NanoBatches:
    phrases = (Phrase(0, 10, (0,), ("other",)), Phrase(18, 23, (1,), ("animals",)))
    pictures = [
        Picture("captions", "1", BOXES, ((CAPTION, phrases),)),
        Picture("coco", "2", BOXES, labels=("dog", "cup"), absent=("cat", "bus")),
        Picture("household", "3", BOXES[:1], labels=("kettle",)),
        Picture("coco", "4", BOXES[:1], labels=("zebra",), absent=("cat",)),
    ]
    folder = tmp_path_factory.mktemp("pack")
    packed = pack(((p, png((200, 10, 10))) for p in pictures), folder)
    texts = Texts.encode(all_texts(packed.pictures), model, folder)
    return NanoBatches(packed, texts, {("coco", "4")})


def test_kept_texts_are_what_the_model_itself_encodes(model: Nano, batches: NanoBatches):
    from openglip.prompts.tokens import tokenize

    ids = torch.tensor([tokenize("a red ball. the dog").ids])
    with torch.inference_mode():
        own = model.eval().encode_text(ids, torch.ones_like(ids, dtype=torch.bool)).hidden[0]
        rows = [batches.texts.index[t] for t in ("a red ball", "the dog")]
        kept = torch.from_numpy(np.concatenate([batches.texts.features(r) for r in rows]))
        read = model.read(kept[None])[0]
    torch.testing.assert_close(own[[1, 2, 3, 5, 6]], read, atol=2e-2, rtol=2e-2)


def test_phrases_and_sentences_ask_for_the_same_words(batches: NanoBatches):
    picture, texts = batches.pack.pictures[0], batches.texts
    for ask in (batches._ask_phrases(picture, random.Random(3)), batches._ask_sentences(picture, random.Random(3))):
        words = [(row, k) for row in ask.texts for k in range(texts.length(row))]
        said = {box: [texts.tokens[texts.first[words[p][0]] + words[p][1]] for p in place] for box, place in ask.wanted}
        assert {box: len(own) for box, own in said.items()} == {0: 3, 1: 2}
        assert not set(ask.ignored) & {p for _, place in ask.wanted for p in place}


def test_what_is_known_absent_is_asked_and_what_is_there_is_wanted(batches: NanoBatches):
    ask = batches.ask(batches.pack.pictures[1], random.Random(0))
    asked = {batches.texts.texts[row].split()[-1] for row in ask.texts}
    assert {"dog", "cup"} <= asked <= {"dog", "cup", "cat", "bus"}
    assert [box for box, _ in ask.wanted] == [0, 1]


def test_held_out_pictures_are_never_drawn(batches: NanoBatches):
    assert 3 not in {i for rows in batches.groups.values() for i in rows}


def test_same_generator_same_batch(batches: NanoBatches):
    one, two = (batches.batch(4, (64, 96), random.Random(5)) for _ in range(2))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.mask, two.mask)
    assert all(torch.equal(a, b) for a, b in zip(one.boxes, two.boxes, strict=True))


@pytest.mark.slow
def test_a_run_goes_on_learns_and_leaves_the_frozen_parts(
    model: Nano, batches: NanoBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(training, "SMALL", (64, 96))
    monkeypatch.setattr(training, "LARGE", (64, 96))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    average = training.fit(model, batches, tmp_path, minutes=0.05)
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {"mobilenet", "join", "named", "asks"} <= changed
    assert not changed & {"bert", "yolox"}
    steps = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    training.fit(Nano(), batches, tmp_path, minutes=0.02)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} > set(steps)
    training.export(average, tmp_path, {})
    state = {k: v for f in tmp_path.glob("nano-*.safetensors") for k, v in read_checkpoint(f).state.items()}
    assert set(state) == set(Nano().state_dict())
