"""Settings of a recipe by name: strings, types, and errors that help."""

from __future__ import annotations

import pytest

from openglip.errors import ConfigError
from openglip.training.recipes import RECIPES
from openglip.training.run import find_recipe
from openglip.training.settings import with_settings


def test_settings_are_read_from_strings() -> None:
    changed = find_recipe(
        "debug",
        {
            "steps": "7",
            "lr": "1e-4",
            "text_lr": "none",
            "milestones": "0.5,0.8",
            "lr_of": '{"rpn.": 1}',
            "precision": "bf16",
            "use_average": "false",
            "data": "5",
        },
    )
    assert (changed.steps, changed.lr, changed.text_lr, changed.precision) == (7, 1e-4, None, "bf16")
    assert (changed.milestones, changed.lr_of, changed.use_average) == ((0.5, 0.8), {"rpn.": 1.0}, False)
    assert changed.data == "5"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"step": 3}, "no field 'step': did you mean 'steps'"),
        ({"xyzzy": 3}, "no field 'xyzzy': there are name, model"),
        ({"steps": "many"}, "steps is 'many', it must be of type int"),
        ({"steps": "1.5"}, "steps is 1.5, it must be of type int"),
        ({"steps": "0"}, "steps is 0, it must be at least 1"),
        ({"workers": "-1"}, "workers is -1, it must not be negative"),
        ({"clip": -1.0}, "clip is -1.0, it must not be negative"),
        ({"text_lr": -1e-3}, "text_lr is -0.001, it must not be negative"),
        ({"lr": "NaN"}, "lr is nan, it must be a finite number"),
        ({"milestones": "-5"}, "milestones is"),
        ({"seed": "-1"}, "seed is -1, it must be from 0"),
        ({"seed": str(10**20)}, "it must be from 0"),
        ({"batch_size": 16, "accumulate": 3}, "16 can't be split into 3 small batches"),
        ({"schedule": "plateau", "evaluate_every": 0}, "follows evaluations: set evaluate_every"),
        ({"precision": "fp8"}, "precision is 'fp8', it must be one of fp32, bf16, fp16, auto"),
        ({"lr_of": "3"}, "lr_of is 3, it must be a JSON object"),
        ({"average": 1.0}, "average is 1.0, it must be below 1"),
        ({"decay_schedule": True}, "decay_schedule follows milestones"),
        ({"sources": "x"}, "no field 'sources'"),
    ],
)
def test_wrong_settings_are_named(settings: dict, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_recipe("debug", settings)
    assert says in str(caught.value)


def test_settings_do_not_touch_the_original() -> None:
    recipe = RECIPES["debug"]()
    assert with_settings(recipe, {"steps": 1}).steps == 1
    assert recipe.steps != 1


def test_usual_spellings_of_settings() -> None:
    found = find_recipe("debug", {"lr": ".001", "use_average": "True", "frozen": "", "warmup_factor": "+1e-3"})
    assert (found.lr, found.use_average, found.frozen, found.warmup_factor) == (0.001, True, (), 0.001)
