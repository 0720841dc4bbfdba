"""Rows of a mixture become batches of tensors, in worker processes."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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
    """Images with their prompts and targets.

    Attributes:
        images: B x 3 x H x W float32.
        ids: Token ids, B x L int64.
        mask: Which tokens are no padding, B x L bool.
        targets: Per image N x 4 float32 boxes with inclusive corners in pixels of `images`, and N x L bool, the tokens
            of each box.
        labels: Per image N int64, index into its source's categories, or None.
        sizes: (height, width) of each image before padding.
        sources: Per image the name of its source.
        image_ids: Per image its id.
        captions: Per image its prompt.
        dropped: Number of boxes whose words did not fit into the prompt.
        failures: Number of samples that could not be read and were replaced.
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
            labels=[None if own is None else own.to(device) for own in self.labels],
        )

    def pin_memory(self) -> Batch:
        """The batch with its images in page-locked memory; called by the loader."""
        self.images = self.images.pin_memory()
        return self


@dataclass(frozen=True)
class Example:
    """A view with where it came from, as a worker hands it to `collate`."""

    view: View
    source: str
    image_id: str | int | None
    failures: tuple[str, ...] = ()


class Views(Dataset[Example]):
    """Rows of a mixture as examples. A row gives the same example in any process.

    A sample that can't be read is logged, counted and replaced by the next of its source; after `patience` of them in a
    row the error is raised. A caption without a box says nothing of where its words are: it is passed over. One that
    the transforms leave without a box is transformed anew, and passed over when `patience` draws leave it none.
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
                if sample.labels is None and not len(sample):  # told before the picture is read
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
    """The two generators of one visit of a sample."""
    words = np.random.SeedSequence(seed).generate_state(2)
    return random.Random(int(words[0])), np.random.RandomState(int(words[1]))


def collate(
    examples: Sequence[Example],
    preparation: Preparation,
    *,
    max_tokens: int = MAX_TOKENS,
    pad_to: int | None = None,
) -> Batch:
    """Normalise, pad and tokenise examples. pad_to: length of the text; None: that of the longest here.

    Boxes without a token (their words lie beyond the limit) are dropped and counted.
    """
    tokens = [tokenize(e.view.caption, max_tokens, truncate=True) for e in examples]
    length = max(map(len, tokens)) if pad_to is None else pad_to
    ids = torch.zeros((len(examples), length), dtype=torch.int64)
    mask = torch.zeros((len(examples), length), dtype=torch.bool)
    views, targets, dropped = [], [], 0
    for i, (example, own) in enumerate(zip(examples, tokens, strict=True)):
        ids[i, : len(own)] = torch.tensor(own.ids)
        mask[i, : len(own)] = True
        positions = {spans: phrase_tokens(own, spans) for spans in set(example.view.spans)}
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


@dataclass(frozen=True)
class _Collate:
    """`collate` with its numbers set, so that it can be sent to worker processes."""

    preparation: Preparation
    max_tokens: int
    pad_to: int | None

    def __call__(self, examples: Sequence[Example]) -> Batch:
        return collate(examples, self.preparation, max_tokens=self.max_tokens, pad_to=self.pad_to)


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
    pad_to: int | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Batches of one process without end, from batch number `start` on.

    workers: processes that read and transform; 0: this one. The batches are the same for any number.
    """
    loader = DataLoader(
        Views(mixture, transforms),
        batch_sampler=_Sampler(mixture, batch_size, rank, ranks, start),  # type: ignore[arg-type]
        collate_fn=_Collate(preparation, max_tokens, pad_to),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
    )
    return _plain_errors(iter(loader)) if workers else iter(loader)


def _plain_errors(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Our own errors as they are raised in this process: a worker's come with a traceback in their text."""
    try:
        yield from batches
    except OpenGLIPError as error:
        raise type(error)(str(error).rstrip().rsplit("\n", 1)[-1].partition(": ")[2]) from None


@dataclass(frozen=True)
class _Sampler:
    mixture: Mixture
    batch_size: int
    rank: int
    ranks: int
    start: int

    def __iter__(self) -> Iterator[list[Row]]:
        return self.mixture.batches(self.batch_size, self.rank, self.ranks, start=self.start)
