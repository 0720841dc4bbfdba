"""Draw what the model will see: the image, its prompt with the phrases of each box coloured, the boxes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from openglip.data.findings import Findings
from openglip.data.reading import open_splits
from openglip.data.sampling import uniform_sample
from openglip.data.training_prompts import caption_prompt, detection_prompt_with_negatives
from openglip.data.views import View, load, make_view
from openglip.errors import DataError, ImageError
from openglip.files import StrPath, whole_file
from openglip.runtime import Progress
from openglip.structures.draw import draw
from openglip.structures.sample import Sample


@dataclass(frozen=True)
class RenderedSample:
    """One sample of a split that was drawn, or why it could not be.

    Attributes:
        split: The split.
        id: The sample's id; a row that can't be read has its number.
        file: The picture; None when it could not be drawn.
        error: Why it could not be drawn; None when it was.
    """

    split: str
    id: str | int | None
    file: str | None
    error: str | None = None


def render(
    path: StrPath,
    output: StrPath,
    *,
    format: str | None = None,
    images: StrPath | None = None,
    number: int = 8,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> list[RenderedSample]:
    """Draw some samples of each split, as OUTPUT/SPLIT/NUMBER.jpg.

    The samples are chosen while the split is read once, so no set is too large; of a TSV set only the chosen rows are
    read.

    Args:
        path: A file or folder.
        output: Folder for the pictures.
        format: Name of the format, where the path does not tell it.
        images: Folder or uncompressed tar of the images, where they are not next to the annotations.
        number: Samples per split.
        seed: Decides which samples, and which absent names are in their prompts.
        progress: Called after each picture, with its file or its error as the message.

    Returns:
        One record per chosen sample.

    Raises:
        DataError: The path does not exist.
        ConfigError: The format is unknown or can't be told.
    """
    rendered: list[RenderedSample] = []
    for split, part in open_splits(path, format, images).items():
        samples = part.read(Findings(keep=False))
        rows: Sequence[Sample] = samples if isinstance(samples, Sequence) else ()
        chosen = uniform_sample(range(len(rows)) if rows else samples, number, seed)
        for i, item in enumerate(chosen):
            file = Path(output) / split / f"{i:03d}.jpg"
            rendered.append(_render_one(item, rows, split, file, seed))
            if progress is not None:
                message = rendered[-1].error or str(file)
                progress(Progress(len(rendered), None, "images", message))
    return rendered


def _render_one(item: Sample | int, rows: Sequence[Sample], split: str, file: Path, seed: int) -> RenderedSample:
    """Draw a sample, or the sample of a row."""
    image_id = item if isinstance(item, int) else item.image_id
    try:
        sample = rows[item] if isinstance(item, int) else item
        image_id = sample.image_id
        picture = draw_sample(sample, seed)
    except (ImageError, DataError) as error:
        return RenderedSample(split, image_id, None, str(error))
    with whole_file(file, "wb") as out:
        picture.save(out, "JPEG", quality=90)
    return RenderedSample(split, image_id, str(file))


def draw_sample(sample: Sample, seed: int = 0) -> Image.Image:
    """Draw a sample with the prompt that a seed gives it: its caption, or sampled categories.

    Raises:
        ImageError: The image can't be read.
        DataError: The sample can't be trained on.
    """
    image, loaded = load(sample)
    prompt = caption_prompt if sample.labels is None else detection_prompt_with_negatives
    return draw_view(make_view(image, loaded, prompt, random.Random(seed), np.random.RandomState(seed)))


def draw_view(view: View) -> Image.Image:
    """Draw a view, before or after its transforms."""
    groups = list(dict.fromkeys(view.spans))
    words = [" ".join(view.caption[b:e] for b, e in spans) for spans in groups]
    labels = [groups.index(spans) for spans in view.spans]
    boxes = view.boxes + np.array([0, 0, 1, 1], np.float32)  # inclusive corners to plain ones
    return draw(view.image, boxes, labels, words, caption=view.caption, phrase_spans=groups)
