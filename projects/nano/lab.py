"""The recipe's record and the functions that it carries: packed photos, encoded texts, one more term of the loss."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batches import SHARES, NanoBatches, Texts, all_texts
from network import NanoInTraining
from packing import Pack, Picture, pack
from photos import all_photos, held_out
from starts import load_start
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from openglip.data.rendering import draw_view
from openglip.data.views import View
from openglip.errors import ConfigError, DataError
from openglip.model.head import HeadOutputs
from openglip.nano.model import Nano
from openglip.nano.text import class_synonyms
from openglip.prompts.tables import read_table
from openglip.runtime import from_first_rank, rank, world_size
from openglip.structures.sample import ImageReference, Spans
from openglip.training.assign import Targets
from openglip.training.batches import Batch
from openglip.training.losses import GroundingCriterion, rows_of_boxes
from openglip.training.recipe import CODE, Recipe

SMALL, LARGE = (240, 320), (320, 440)
TAUGHT_WEIGHT = 0.3  # of the terms of the boxes when a teacher adds its own


def nano_batches(recipe: NanoRecipe, model: Nano, folder: Path) -> Callable[[int], Iterator[Batch]]:
    """Pack the photos and encode the texts in the run's folder, or read them there; the first process does the work."""
    if rank() == 0:
        _packed(recipe, model, folder)
    from_first_rank(None, next(model.parameters()).device)
    packed, texts = _packed(recipe, model, folder)
    synonyms = [word for word, _ in class_synonyms()]
    for embeddings, words in ((model.class_embeddings, read_table("coco")), (model.synonym_embeddings, synonyms)):
        embeddings.copy_(torch.from_numpy(texts.mean[[texts.index[word] for word in words]]))
    return partial(batches_from, NanoBatches(packed, texts, held_out(recipe.held_out)), recipe)


def _packed(recipe: NanoRecipe, model: Nano, folder: Path) -> tuple[Pack, Texts]:
    origin = folder / "data.txt"  # as in the recipe: a resume on another machine needs only the packed photos
    if (folder / "pictures.json").is_file() and origin.is_file() and origin.read_text() != recipe.data:
        raise ConfigError(
            f"{folder} holds pictures packed from {origin.read_text()}: give another --output, or empty it"
        )
    origin.write_text(recipe.data)
    packed = pack(all_photos(Path(recipe.data)), folder)
    return packed, Texts.encode(all_texts(packed.pictures), model, folder)


class _NumberedBatches(Dataset[Batch]):
    """Batch `number` of this process: a function of seed, process and number."""

    def __init__(self, batches: NanoBatches, recipe: NanoRecipe) -> None:
        self.batches, self.seed, self.rank = batches, recipe.seed, rank()
        self.large_shares = recipe.large_shares
        self.count = recipe.batch_size // (world_size() * recipe.accumulate)
        self.total = recipe.steps * recipe.accumulate

    def __getitem__(self, number: int) -> Batch:
        rng = random.Random(f"{self.seed}/{self.rank}/{number}")
        early, late = self.large_shares
        size = LARGE if rng.random() < (early if number < 0.6 * self.total else late) else SMALL
        return self.batches.batch(self.count, size, rng)


def batches_from(batches: NanoBatches, recipe: NanoRecipe, number: int) -> Iterator[Batch]:
    """This process's batches from a number on, to the end of the run."""
    numbered = _NumberedBatches(batches, recipe)
    order: Any = range(number, numbered.total)
    return iter(DataLoader(numbered, batch_size=None, sampler=order, num_workers=recipe.workers))


@dataclass(frozen=True)
class NanoCriterion:
    """GLIP's terms, and `place`: the share of a positive word's own cells in a softmax over all cells.

    Attributes:
        grounding: Gives GLIP's terms.
        place_weight: Of the term `place`, which is a mean over a small batch.
        student: A model with a teacher, whose terms are added; the others weigh less then.
    """

    grounding: GroundingCriterion = field(default_factory=GroundingCriterion)
    place_weight: float = 0.4
    student: NanoInTraining | None = None

    def __call__(self, outputs: HeadOutputs, batch: Batch, targets: Targets) -> dict[str, Tensor]:
        """See `openglip.training.losses.Criterion`."""
        terms = self.grounding(outputs, batch, targets)
        tokens = [tokens for _, tokens in batch.targets]
        positive = rows_of_boxes(targets.matched, tokens, outputs.logits.shape[2]) & batch.mask[:, None]
        image, word = positive.any(1).nonzero(as_tuple=True)
        logits, cells = outputs.logits.transpose(1, 2)[image, word], positive.transpose(1, 2)[image, word]
        place = logits.logsumexp(1) - logits.masked_fill(~cells, -1e4).logsumexp(1)
        terms |= {"place": self.place_weight * place.sum() / max(1, len(image))}
        if self.student is None:
            return terms
        return {name: TAUGHT_WEIGHT * term for name, term in terms.items()} | self.student.distillation


def nano_criterion(recipe: NanoRecipe, model: NanoInTraining) -> NanoCriterion:
    """The criterion of a recipe. `place` is averaged per small batch, so its weight is divided by `accumulate`.

    Raises:
        ConfigError: A teacher's terms, which are means as well, would have to be shared by several batches.
    """
    if recipe.teacher and recipe.accumulate > 1:
        raise ConfigError("accumulate must be 1 with a teacher: its terms are means of a batch")
    student = model if model.teachers else None
    return NanoCriterion(place_weight=recipe.place_weight / recipe.accumulate, student=student)


def describe_data(recipe: NanoRecipe, model: Nano, folder: Path | None) -> dict[str, Any]:
    """What a plan says of the data: samples by group, shares, epochs."""
    described: dict[str, Any] = {"picture_size": list(SMALL)}
    try:
        excluded = held_out(recipe.held_out)
        groups = [p.group for p, _ in all_photos(Path(recipe.data)) if (p.group, p.image_id) not in excluded]
        epochs = recipe.steps * recipe.batch_size / len(groups)
        described |= {"samples": dict(Counter(groups)), "share": SHARES, "epochs": round(epochs, 2)}
        if folder is not None:
            described["first_batch"] = first_batch(recipe, folder)
    except DataError as error:
        described["data_missing"] = str(error)
    return described


def first_batch(recipe: NanoRecipe, folder: Path, number: int = 8) -> list[str]:
    """Draw photos as the model will see them, and return the files. Only the first of each set are packed for it."""
    folder.mkdir(parents=True, exist_ok=True)
    by_group: dict[str, list[tuple[Picture, ImageReference]]] = {}
    for photo in all_photos(Path(recipe.data)):
        group = by_group.setdefault(photo[0].group, [])
        group += [photo] if len(group) < number else []
    files = []
    with tempfile.TemporaryDirectory() as temporary:
        packed = pack([photo for group in by_group.values() for photo in group], temporary)
        model = load_start(recipe, NanoInTraining())
        texts = Texts.encode(all_texts(packed.pictures), model, temporary)
        batches = NanoBatches(packed, texts, held_out(recipe.held_out))
        for i, (_, query, crop) in enumerate(batches.drawn(number, LARGE, random.Random(recipe.seed))):
            caption, characters = batches.words(query)
            spans: dict[int, Spans] = {}
            for box, positions in query.positives:
                if crop.whole[box]:
                    span = (characters[positions[0]][0], characters[positions[-1]][1])
                    spans[box] = (*spans.get(box, ()), span)
            pixels = crop.pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy()
            boxes = crop.boxes[list(spans)] - np.array([0, 0, 1, 1], np.float32)
            files.append(str(folder / f"first-batch-{i}.jpg"))
            draw_view(View(pixels, boxes, caption, tuple(spans.values()))).convert("RGB").save(files[-1], quality=90)
    return files


@dataclass(frozen=True, kw_only=True)
class NanoRecipe(Recipe):
    """What the making of the embedded weights needs besides a recipe's usual fields.

    Attributes:
        weights: A folder with the two files of an earlier training, or a checkpoint, instead of `start`.
        teacher: A folder with the two files of a `Wider` model to learn from besides the boxes.
        held_out: A JSON file of photos that are never trained on.
        large_shares: Shares of the batches with large images, in the first 60 % of the run and after.
        place_weight: Of the term `place`.
    """

    teacher: str | None = None
    held_out: str | None = None
    large_shares: tuple[float, ...] = (0.1, 0.5)
    place_weight: float = 0.4
    model: str | Callable[[], nn.Module] = NanoInTraining
    load_start: Callable[[Any, Any], Any] = field(default=load_start, metadata=CODE)
    batches: Callable[[Any, Any, Path], Any] = field(default=nano_batches, metadata=CODE)
    criterion: Callable[[Any, Any], Any] = field(default=nano_criterion, metadata=CODE)
    describe_data: Callable[[Any, Any, Path | None], dict[str, Any]] = field(default=describe_data, metadata=CODE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.large_shares) != 2 or not all(0 <= share <= 1 for share in self.large_shares):
            raise ConfigError(f"large_shares is {self.large_shares}, it must be two numbers from 0 to 1")
        if self.recompute:
            raise ConfigError(
                "recompute is for GLIP and DyHead: the embedded model stores little for its backward pass"
            )
        if self.weights:  # they take the place of `start`
            object.__setattr__(self, "start", {})
        elif missing := {"yolox.", "mobilenet."} - set(self.start):
            raise ConfigError(f"start names no file for {', '.join(sorted(missing))}")
