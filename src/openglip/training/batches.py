"""Rows of a mixture become batches of tensors, in worker processes."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from openglip.data.mixtures import Mixture, Row
from openglip.data.transforms import compose
from openglip.data.views import Transform, View, load, make_view
from openglip.errors import DataError, ImageError, OpenGLIPError
from openglip.images.prepare import Preparation, normalise, pad_batch
from openglip.prompts.spans import phrase_tokens
from openglip.prompts.tokens import MAX_TOKENS, tokenize

logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """What one step of one process trains on: B images with the texts that they are compared with.

    Attributes:
        images: B x 3 x H x W float32, prepared and padded.
        ids: B x L int64, token ids, 0 on padding.
        mask: B x L bool, False on padding.
        targets: For each image N x 4 float32 boxes (xyxy with inclusive corners, in pixels of `images`) and N x L bool,
            the tokens of each box.
        labels: For each image N int64, indices into its source's categories; None for an image with a caption.
        sizes: (height, width) of each image before padding.
        sources: Name of each image's source.
        image_ids: Id of each image in its source.
        captions: The text of each image.
        dropped: Boxes that were left out because their words did not fit into the prompt.
        failures: Why samples could not be read; each was replaced by another.
    """

    images: Tensor
    ids: Tensor
    mask: Tensor
    targets: list[tuple[Tensor, Tensor]]
    labels: list[Tensor | None]
    sizes: list[tuple[int, int]]
    sources: list[str]
    image_ids: list[str | int | None]
    captions: list[str]
    dropped: int = 0
    failures: list[str] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on a device."""
        return dataclasses.replace(
            self,
            images=self.images.to(device, non_blocking=True),
            ids=self.ids.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            targets=[(boxes.to(device), tokens.to(device)) for boxes, tokens in self.targets],
            labels=[None if labels is None else labels.to(device) for labels in self.labels],
        )

    def pin_memory(self) -> Batch:
        """The batch with its images in page-locked memory; called by the loader."""
        self.images = self.images.pin_memory()
        return self


@dataclass(frozen=True)
class Example:
    """A view and its origin, as a worker passes it to `collate`.

    Attributes:
        view: Image, prompt and boxes.
        source: Name of the sample's source.
        image_id: Id of the image there.
        failures: Why samples could not be read before this one.
    """

    view: View
    source: str
    image_id: str | int | None
    failures: tuple[str, ...] = ()


class Views(Dataset[Example]):
    """Rows of a mixture as examples. A row gives the same example in any process.

    A sample that can't be read is logged, counted and replaced by the next of its source. A caption without a box is
    skipped, because it does not say where its words are; one that loses all boxes to the transforms is transformed
    again, and then skipped too.

    Args:
        mixture: The sources.
        transforms: Augmentation.
        patience: How many unreadable samples in a row, and how many attempts to transform a caption, are allowed.

    Raises:
        DataError: Too many samples in a row can't be read, or the source has none to train on.
    """

    def __init__(self, mixture: Mixture, transforms: Sequence[Transform], *, patience: int = 10) -> None:
        self.mixture, self.transforms, self.patience = mixture, tuple(transforms), patience

    def __getitem__(self, row: Row) -> Example:
        source = self.mixture.sources[row.source]
        failures: list[str] = []
        cut = 0
        rng, numpy_rng = generators(row.seed)
        for offset in range(len(source.samples)):
            try:
                sample = source.samples[(row.sample + offset) % len(source.samples)]
                if sample.labels is None and not len(sample):  # known before the image is read
                    continue
                image, sample = load(sample)
                view = make_view(image, sample, source.prompt, rng, numpy_rng, inclusive=source.inclusive)
                if sample.labels is None and not len(view.boxes):  # its boxes are a pixel wide, or have no words
                    continue
                for _ in range(self.patience):
                    changed = compose(self.transforms, view, rng)
                    if sample.labels is not None or len(changed.boxes):
                        return Example(changed, source.name, sample.image_id, tuple(failures))
                cut += 1
            except (ImageError, DataError) as error:
                failures.append(str(error))
                logger.warning("source %s: skipped: %s", source.name, failures[-1])
                if len(failures) >= self.patience:
                    raise DataError(f"{len(failures)} samples in a row can't be read, the last: {error}") from error
        listed = f", {len(failures)} can't be read: {failures[-1]}" if failures else ""
        if cut:
            listed += f", the transforms leave {cut} captions no box: cut less away"
        raise DataError(f"source {source.name!r} has no sample that can be trained on{listed}")


def generators(seed: tuple[int, int, int]) -> tuple[random.Random, np.random.RandomState]:
    """The two random generators for one visit of a sample."""
    words = np.random.SeedSequence(seed).generate_state(2)
    return random.Random(int(words[0])), np.random.RandomState(int(words[1]))


def collate(
    examples: Sequence[Example],
    preparation: Preparation,
    max_tokens: int = MAX_TOKENS,
) -> Batch:
    """Normalise, pad and tokenise examples.

    Boxes without a token, because their words are beyond the limit, are dropped and counted.

    Args:
        examples: Those of one batch.
        preparation: Of the model.
        max_tokens: Tokens that the model's text encoder takes.
    """
    tokens = [tokenize(e.view.caption, max_tokens, truncate=True) for e in examples]
    length = max(map(len, tokens))
    ids = torch.zeros((len(examples), length), dtype=torch.int64)
    mask = torch.zeros((len(examples), length), dtype=torch.bool)
    views, targets, dropped = [], [], 0
    for i, (example, text) in enumerate(zip(examples, tokens, strict=True)):
        ids[i, : len(text)] = torch.tensor(text.ids)
        mask[i, : len(text)] = True
        positions = {spans: phrase_tokens(text, spans) for spans in set(example.view.spans)}
        has_words = np.array([bool(positions[spans]) for spans in example.view.spans], bool)
        view = example.view if has_words.all() else example.view.select(has_words)
        positive = torch.zeros((len(view.spans), length), dtype=torch.bool)
        for row, spans in zip(positive, view.spans, strict=True):
            row[positions[spans]] = True
        targets.append((torch.from_numpy(np.array(view.boxes)), positive))
        views.append(view)
        dropped += view.dropped + int((~has_words).sum())
    return Batch(
        images=torch.from_numpy(pad_batch([normalise(v.image, preparation) for v in views], preparation.multiple)),
        ids=ids,
        mask=mask,
        targets=targets,
        labels=[None if v.labels is None else torch.from_numpy(np.array(v.labels)) for v in views],
        sizes=[(v.image.shape[0], v.image.shape[1]) for v in views],
        sources=[e.source for e in examples],
        image_ids=[e.image_id for e in examples],
        captions=[v.caption for v in views],
        dropped=dropped,
        failures=[failure for e in examples for failure in e.failures],
    )


def batch_stream(
    mixture: Mixture,
    transforms: Sequence[Transform],
    preparation: Preparation,
    batch_size: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    start: int = 0,
    workers: int = 0,
    max_tokens: int = MAX_TOKENS,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Batches of one process without end.

    Args:
        mixture: The sources.
        transforms: Augmentation.
        preparation: Of the model.
        batch_size: Images per batch.
        rank: Number of this process.
        ranks: Number of processes.
        start: Number of the first batch.
        workers: Processes that read and transform; 0: this one. The batches are the same for any number.
        max_tokens: Tokens that the model's text encoder takes.
        pin_memory: Put images in page-locked memory, from which a GPU copies faster.
    """
    loader = DataLoader(
        Views(mixture, transforms),
        batch_sampler=mixture.batches(batch_size, rank, ranks, start=start),  # type: ignore[arg-type]
        collate_fn=partial(collate, preparation=preparation, max_tokens=max_tokens),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
    )
    return _plain_errors(iter(loader)) if workers else iter(loader)


def _plain_errors(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Raise errors of a worker as this process would: torch puts a traceback into their text."""
    try:
        yield from batches
    except OpenGLIPError as error:
        raise type(error)(str(error).rstrip().rsplit("\n", 1)[-1].partition(": ")[2]) from None
