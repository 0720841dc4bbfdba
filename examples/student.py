"""A recipe that trains `nano`, from the embedded weights, on published labels with unrelated captions around each.

openglip label publish RUN student-data/labels
ln -s PICTURES student-data/images
openglip train examples/student.py --set data=student-data --output student-run
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from openglip.data.formats.odvg import read_odvg
from openglip.data.mixtures import Source
from openglip.data.training_prompts import caption_prompt
from openglip.training.recipe import Recipe
from openglip.training.recipes import nano


def recipe() -> Recipe:
    return replace(nano(), name="student", data="student-data", sources=_sources, steps=2_000, batch_size=16, workers=4)


def _sources(recipe: Recipe) -> list[Source]:
    """GLIP's packing: up to 20 unrelated captions around six of ten, so that words without a box occur too."""
    folder = Path(recipe.data)
    samples = [s for file in sorted((folder / "labels").glob("*.jsonl")) for s in read_odvg(file, folder / "images")]
    others = tuple(s.caption or "" for s in samples)
    return [Source("labels", samples, partial(caption_prompt, others=others, max_negatives=20))]
