"""Training of the embedded model on three drawn pictures: what learns, what stays, and that a run goes on."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import export as exporting
import lab
import narrow
import numpy as np
import pytest
import torch
from batches import NanoBatches, Texts, all_texts
from export import export, read_both
from network import NanoInTraining
from packing import Phrase, Picture, pack
from photos import held_out
from PIL import Image
from recipe import recipe as nano_recipe
from starts import load_start
from teacher import Wider, distillation_terms

import openglip
from openglip.errors import ConfigError, DataError
from openglip.model.head import TextFeatures
from openglip.nano.layers import ConvBlock
from openglip.nano.model import Nano
from openglip.prompts.tokens import tokenize
from openglip.training.loop import fit
from openglip.training.run import find_recipe
from openglip.weights.files import read_checkpoint, write_safetensors
from openglip.weights.load import load_state

RECIPE = str(Path(__file__).parents[1] / "recipe.py")
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
    ids = torch.tensor([tokenize("a red ball. the dog").ids])
    with torch.inference_mode():
        own = model.eval().encode_text(ids, torch.ones_like(ids, dtype=torch.bool)).hidden[0]
        rows = [batches.texts.index[t] for t in ("a red ball", "the dog")]
        kept = torch.from_numpy(np.concatenate([batches.texts.features(r) for r in rows]))
        read = model.project_text(kept[None])[0]
    torch.testing.assert_close(own[[1, 2, 3, 5, 6]], read, atol=2e-2, rtol=2e-2)


def test_phrases_and_sentences_ask_for_the_same_words(batches: NanoBatches):
    picture, texts = batches.pack.pictures[0], batches.texts
    for query in (batches._phrases(picture, random.Random(3)), batches._sentences(picture, random.Random(3))):
        words = [(row, k) for row in query.texts for k in range(texts.length(row))]
        said = {
            box: [texts.tokens[texts.first[words[p][0]] + words[p][1]] for p in place] for box, place in query.positives
        }
        assert {box: len(own) for box, own in said.items()} == {0: 3, 1: 2}
        assert not set(query.ignored) & {p for _, place in query.positives for p in place}


def test_what_is_known_absent_is_asked_and_what_is_there_is_wanted(batches: NanoBatches):
    query = batches.query(batches.pack.pictures[1], random.Random(0))
    asked = {batches.texts.texts[row].split()[-1] for row in query.texts}
    assert {"dog", "cup"} <= asked <= {"dog", "cup", "cat", "bus"}
    assert [box for box, _ in query.positives] == [0, 1]


def test_held_out_pictures_are_never_drawn(batches: NanoBatches):
    assert 3 not in {i for rows in batches.groups.values() for i in rows}


def test_same_generator_same_batch(batches: NanoBatches):
    one, two = (batches.batch(4, (64, 96), random.Random(5)) for _ in range(2))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.mask, two.mask)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one.targets, two.targets, strict=True))


@pytest.fixture(scope="module")
def earlier(model: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files of an earlier training."""
    folder = tmp_path_factory.mktemp("earlier")
    export(model.state_dict(), folder, {})
    return folder


def small_recipe(earlier: Path, **changes) -> lab.NanoRecipe:
    settings = {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "warmup": 1, "weights": str(earlier)}
    return replace(nano_recipe(), **settings | changes)  # type: ignore[return-value]


def run(batches: NanoBatches, recipe: lab.NanoRecipe, folder: Path, kill_at: int | None = None) -> Path:
    def report(kind: str, line) -> None:
        if line["step"] == kill_at:
            raise KeyboardInterrupt

    model = load_start(recipe, NanoInTraining())
    stream = partial(lab.batches_from, batches, recipe)
    fit(model, lab.nano_criterion(recipe, model), stream, recipe, folder, report=report)
    return folder


def small_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMALL", "LARGE"):
        monkeypatch.setattr(lab, name, (80, 120))


def test_a_run_leaves_the_frozen_parts_and_ships_in_two_files(
    model: Nano, batches: NanoBatches, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small_sides(monkeypatch)
    run(batches, small_recipe(earlier, steps=2), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(line["place"] > 0 and line["skipped"] is None for line in lines)
    before, after = model.state_dict(), read_checkpoint(tmp_path).state
    assert set(before) == set(after)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key].half(), after[key].half())}
    assert {"mobilenet", "lateral", "text_projection", "query_projection"} <= changed
    assert not changed & {"bert", "yolox"}
    export(after, tmp_path, {"licence": "none"})
    shipped = {k: v for f in tmp_path.glob("nano-*.safetensors") for k, v in read_checkpoint(f).state.items()}
    assert set(shipped) == set(before)
    assert openglip.load(tmp_path).model.name == "nano"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files of a wider model whose blocks say something."""
    torch.manual_seed(1)
    folder, wider = tmp_path_factory.mktemp("teacher"), Wider()
    for name, parameter in wider.named_parameters():
        if name.split(".")[0] in ("top_down", "bottom_up", "alignment_branch", "box_branch") and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    export(wider.state_dict(), folder, {})
    return folder


def pupil_of(teacher: Path, images: torch.Tensor) -> dict[str, torch.Tensor]:
    wider = Wider().eval()
    load_state(wider, read_both(teacher), teacher)
    return narrow.narrowed(wider, images)


def test_a_narrower_model_says_what_the_wider_one_says(teacher: Path):
    """Where half of the units add nothing, and others are sums of each other, all of it."""
    wider = Wider().eval()
    load_state(wider, read_both(teacher), teacher)
    for block in (block for block in wider.modules() if isinstance(block, ConvBlock)):
        block.pointwise2.weight.data[:, :150] = 0
        for part in (block.pointwise1.weight.data, block.pointwise1.bias.data):  # type: ignore[union-attr]
            part[150:170] = part[170:190]
    images = torch.randn(2, 3, 80, 120) * 40
    expected = wider.levels(images)
    kept = narrow.narrowed(wider, images)
    assert all(torch.equal(a, b) for a, b in zip(expected, wider.levels(images), strict=True))  # left as it was
    smaller = Wider().eval()
    for block in (block for block in smaller.modules() if isinstance(block, ConvBlock)):
        block.pointwise1, block.pointwise2 = torch.nn.Conv2d(128, 96, 1), torch.nn.Conv2d(96, 128, 1)
    load_state(smaller, kept, "narrowed")
    load_state(Nano(), kept, "narrowed")
    for level, found in zip(expected, smaller.levels(images), strict=True):
        torch.testing.assert_close(found, level, atol=0.02, rtol=0.02)


def test_a_lesson_is_nothing_to_one_who_knows_it(teacher: Path):
    wider = Wider().eval()
    load_state(wider, read_both(teacher), teacher)
    mask = torch.tensor([[True, True, False]])
    with torch.no_grad():
        levels = wider.levels(torch.randn(1, 3, 80, 120) * 40)
        said = wider.align_tower(levels, TextFeatures(wider.project_text(torch.randn(1, 3, 768)), mask))
        other = said._replace(logits=said.logits + torch.randn_like(said.logits), centerness=said.centerness + 1)
        known = distillation_terms(levels, said, levels, said, mask)
        unknown = distillation_terms([level + 0.1 for level in levels], other, levels, said, mask)
        elsewhere = distillation_terms(levels, said._replace(logits=said.logits + ~mask), levels, said, mask)
    assert all(abs(term) < 1e-5 for term in (*known.values(), *elsewhere.values()))
    assert {name for name, term in unknown.items() if term > 1e-4} == known.keys() - {"taught_box"}


def test_a_pupil_comes_nearer_to_its_teacher(
    batches: NanoBatches, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small_sides(monkeypatch)
    start = tmp_path / "start"
    export(pupil_of(teacher, torch.randn(2, 3, 80, 120) * 40), start, {})
    recipe = small_recipe(start, steps=12, teacher=str(teacher), lr=3e-3, average=0, use_average=False)
    run(batches, recipe, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"token", "place", "taught_features", "taught_place"} <= lines[0].keys()
    assert sum(line["taught_features"] for line in lines[-3:]) < 0.9 * sum(
        line["taught_features"] for line in lines[:3]
    )
    before, after = read_both(start), read_checkpoint(tmp_path).state
    norms = [key for key in before if key.endswith("norm.running_mean")]
    assert all(torch.equal(before[key].float(), after[key]) for key in norms)  # they stay as they are
    with pytest.raises(ConfigError, match="accumulate must be 1 with a teacher"):
        run(batches, replace(recipe, accumulate=2), tmp_path / "other")


def test_the_command_writes_files_to_start_from(
    shared: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    command = ["narrow", "--data", str(shared / "data"), "--teacher", str(teacher), "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    monkeypatch.setattr(narrow, "PHOTOS", 2)
    narrow.main()
    load_state(Nano(), read_both(tmp_path), tmp_path)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit(
    batches: NanoBatches, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    small_sides(monkeypatch)
    recipe = small_recipe(earlier, workers=1)
    whole = run(batches, recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(batches, recipe, tmp_path / "broken", kill_at=3)
    broken = run(batches, recipe, tmp_path / "broken")
    left, right = (read_checkpoint(folder).state for folder in (whole, broken))
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_in_evaluation_it_is_the_whole_model(model: Nano, earlier: Path):
    trained = load_start(small_recipe(earlier), NanoInTraining()).eval()
    ids = torch.tensor([tokenize("a dog. a cat").ids])
    args = (torch.zeros(1, 3, 80, 80), ids, torch.ones_like(ids, dtype=torch.bool))
    with torch.no_grad():
        own, whole = trained(*args), model.eval()(*args)
    assert trained.anchors == model.anchors
    torch.testing.assert_close(own.logits, whole.logits, atol=0.05, rtol=0.05)  # in half precision on disk


def test_a_run_is_averaged_with_the_weights_it_started_from(
    model: Nano, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    moved = {k: v + 1 if k.startswith("keys.") else v for k, v in model.state_dict().items()}
    write_safetensors(tmp_path / "run.safetensors", moved, {"model": "nano"})
    command = ["nano", str(tmp_path / "run.safetensors"), str(tmp_path / "out" / "files")]
    monkeypatch.setattr("sys.argv", [*command, "--earlier", str(earlier), "--share", "0.25"])
    exporting.main()
    before, after = read_both(earlier), read_both(tmp_path / "out" / "files")
    assert before.keys() == after.keys()
    for key, value in after.items():
        expected = before[key].float() + 0.25 * key.startswith("keys.")
        torch.testing.assert_close(value.float(), expected, atol=2e-3, rtol=2e-3)


def test_wrong_settings_and_missing_data_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean 'held_out'"):
        find_recipe(RECIPE, {"heldout": "x"})
    with pytest.raises(ConfigError, match="large_shares is"):
        find_recipe(RECIPE, {"large_shares": "0.1"})
    with pytest.raises(ConfigError, match="recompute is for GLIP and DyHead"):
        find_recipe(RECIPE, {"recompute": "true"})
    with pytest.raises(ConfigError, match=r"start names no file for yolox\."):
        find_recipe(RECIPE, {"start": '{"mobilenet.": "x"}'})
    with pytest.raises(DataError, match=r"flickr8k_entities/train/ids\.txt does not exist"):
        list(lab.all_photos(tmp_path))
    (tmp_path / "held.json").write_text('{"flickr30k": []}')
    with pytest.raises(DataError, match="must hold lists of ids by flickr30k and coco_mini"):
        held_out(tmp_path / "held.json")


def test_pictures_packed_from_other_data_are_refused(model: Nano, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = [(Picture("coco", "1", BOXES[:1], labels=("dog",)), png((9, 9, 9)))]
    monkeypatch.setattr(lab, "all_photos", lambda data: iter(found))
    folder = tmp_path / "run"
    folder.mkdir()
    for _ in range(2):  # the second time it is read
        lab._packed(replace(nano_recipe(), data=str(tmp_path / "one")), model, folder)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"holds pictures packed from .*one: give another --output"):
        lab._packed(replace(nano_recipe(), data=str(tmp_path / "two")), model, folder)  # type: ignore[arg-type]


def test_the_first_batch_is_drawn(shared: Path, earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = small_recipe(earlier, data=str(shared / "data"))
    few = [next(item for item in lab.all_photos(Path(recipe.data)) if item[0].group == "captions")]
    monkeypatch.setattr(lab, "all_photos", lambda data: iter(few))
    files = lab.first_batch(recipe, tmp_path, number=2)
    assert all(Path(file).stat().st_size > 1000 for file in files)
