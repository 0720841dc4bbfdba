"""The published recipes, and the two-minute `debug`. Docstrings are lab notes: data, score, hardware, hours, command.

Each recipe's `data` is a folder; its docstring says what lies in it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from openglip.data.mixtures import Source
from openglip.data.prompts import detection_prompt_with_negatives
from openglip.train.recipe import Recipe
from openglip.train.shapes import Shapes


def debug() -> Recipe:
    """Coloured shapes in two minutes, to see that training works.

    Data: generated, no download; five colour-shape pairs never occur in training. Score: AP50 of at least 0.5 on those
    five pairs. Hardware and time: two CPU cores, about two minutes. Command: `openglip train debug`.
    """
    return Recipe(
        name="debug",
        model="debug",
        data="generated",
        sources=_shapes,
        steps=400,
        batch_size=8,
        lr=1e-3,
        bias_factor=1.0,
        weight_decay=1e-2,
        schedule="cosine",
        warmup=30,
        average=0.99,
        use_average=True,
        checkpoint_every=100,
        evaluate_every=200,
        workers=0,
    )


def _shapes(recipe: Recipe) -> list[Source]:
    prompt = partial(detection_prompt_with_negatives, max_negatives=19, control=(0.0, 0.0, 0.0, 0.0))
    return [Source("shapes", Shapes(20_000, seed=recipe.seed), prompt)]


RECIPES: dict[str, Callable[[], Recipe]] = {"debug": debug}
