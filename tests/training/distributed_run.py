"""One process of a training that `torchrun` starts; test_distributed.py compares it with a single process.

Usage: distributed_run.py FOLDER equal|unequal|nan|contrast
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tiny import split, tiny_batch, tiny_model, tiny_recipe

from openglip.runtime import process_group, rank, world_size
from openglip.training.batches import Batch
from openglip.training.contrast import ContrastCriterion, add_contrast
from openglip.training.loop import fit
from openglip.training.losses import Criterion, GroundingCriterion


def share(start: int, what: str) -> Iterator[Batch]:
    """This process's half of batches of four; of the first, one half has no boxes at all."""
    number = start
    while True:
        batch = tiny_batch(number, size=4, empty=(1, 3) if number == 0 else ())
        if what == "contrast":  # on one side texts are shorter
            batch.mask[1::2, 5] = False
        if world_size() > 1:
            batch = split(batch, rank(), world_size())
        if what == "unequal" and rank() == 1:  # fewer, larger pictures on one side
            batch = split(batch, 0, 2)
            batch.images = torch.nn.functional.pad(batch.images, (0, 32, 0, 64))
        if what == "contrast" and rank() == 1:
            batch.ids, batch.mask = batch.ids[:, :5], batch.mask[:, :5]
            batch.targets = [(boxes, words[:, :5]) for boxes, words in batch.targets]
        if what == "nan" and number == 1 and rank() == 1:
            batch.images[:] = torch.nan
        yield batch
        number += 1


def main(folder: Path, what: str) -> None:
    torch.set_num_threads(1)
    with process_group(torch.device("cpu")):
        recipe = tiny_recipe(steps=4, batch_size=4, average=0, use_average=False, evaluate_every=2)
        model, grounding = tiny_model(0.0), GroundingCriterion()
        criterion: Criterion = grounding
        if what == "contrast":
            torch.manual_seed(0)
            add_contrast(model, 1.0)
            criterion = ContrastCriterion(grounding, model)
        fit(
            model,
            criterion,
            lambda start: share(start, what),
            recipe,
            folder,
            evaluate=lambda model: {"score": 0.5},
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
