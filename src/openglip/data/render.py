"""What the model will see: the picture, its prompt with the phrases of each box coloured, the boxes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from openglip.data.findings import Findings
from openglip.data.formats import open_splits
from openglip.data.training_prompts import caption_prompt, detection_prompt_with_negatives
from openglip.data.views import PromptFunction, View, load, make_view
from openglip.errors import DataError, ImageError
from openglip.files import StrPath, whole_file
from openglip.structures.draw import draw
from openglip.structures.sample import Sample

T = TypeVar("T")


@dataclass(frozen=True)
class Drawn:
    """One sample of a split: its picture's file, or why it could not be drawn. id: a row that can't be read has its
    number.
    """

    split: str
    id: str | int | None
    file: str | None
    error: str | None = None


def render(sample: Sample, *, prompt: PromptFunction | None = None, seed: int = 0) -> Image.Image:
    """Draw a sample with the prompt that `seed` gives. prompt: None: captions as they are, else sampled categories.

    Raises ImageError or DataError when the sample can't be trained on.
    """
    image, loaded = load(sample)
    made = prompt or (caption_prompt if sample.labels is None else detection_prompt_with_negatives)
    return render_view(make_view(image, loaded, made, random.Random(seed), np.random.RandomState(seed)))


def render_view(view: View) -> Image.Image:
    """Draw a view, before or after its transforms."""
    groups = list(dict.fromkeys(view.spans))
    words = [" ".join(view.caption[b:e] for b, e in spans) for spans in groups]
    labels = [groups.index(spans) for spans in view.spans]
    boxes = view.boxes + np.array([0, 0, 1, 1], np.float32)  # inclusive corners to plain ones
    return draw(view.image, boxes, labels, words, caption=view.caption, phrase_spans=groups)


def render_splits(
    path: StrPath,
    output: StrPath,
    *,
    format: str | None = None,
    images: StrPath | None = None,
    number: int = 8,
    seed: int = 0,
) -> Iterator[Drawn]:
    """Draw `number` samples of each split, chosen by the seed, as OUTPUT/SPLIT/NUMBER.jpg.

    Samples are chosen while the split is read once, so no set is too large; of a TSV set only the chosen rows are read.
    Raises as `open_splits`.
    """
    splits = open_splits(path, format, images)
    for split, read in splits.items():
        samples = read(Findings(keep=False))
        rows: Sequence[Sample] = samples if isinstance(samples, Sequence) else ()
        for place, one in enumerate(_chosen(range(len(rows)) if rows else samples, number, seed)):
            file = Path(output) / split / f"{place:03d}.jpg"
            own = one.image_id if isinstance(one, Sample) else one
            try:
                sample = one if isinstance(one, Sample) else rows[one]
                own = sample.image_id
                picture = render(sample, seed=seed)
            except (ImageError, DataError) as error:
                yield Drawn(split, own, None, str(error))
                continue
            with whole_file(file, "wb") as out:
                picture.save(out, "JPEG", quality=90)
            yield Drawn(split, own, str(file))


def _chosen(samples: Iterable[T], number: int, seed: int) -> list[T]:
    """A uniform draw from a stream of unknown length, in the order of the stream."""
    rng = random.Random(seed)
    kept: list[tuple[int, T]] = []
    for i, sample in enumerate(samples):
        if len(kept) < number:
            kept.append((i, sample))
        elif (place := rng.randrange(i + 1)) < number:
            kept[place] = (i, sample)
    return [sample for _, sample in sorted(kept, key=lambda item: item[0])]
