"""A recipe: everything that decides a training run, as one typed record."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openglip.data.mixtures import Source
from openglip.data.views import Transform
from openglip.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16", "auto"]
ScheduleName = Literal["steps", "cosine", "plateau"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one run; `--set key=value` and `with_settings` change fields by name.

    model: a model's name. data: where the data lie (each recipe says how). batch_size: images of one step, over all
    processes and small batches. text_lr: rate of the text encoder, None for `lr`. lr_of: rates of other parameters by
    the beginning of their names. frozen: beginnings of names that do not train. weights: a checkpoint to start from.
    start: checkpoints of parts by the beginning of their names, in `data`.
    Beyond the paper, and off: sub_sentences: the text encoder reads each name by itself, so that names of a list don't
    disturb each other (`Bert`). contrast: weight of a loss that compares the regions of each picture with the words of
    all pictures of a step, which makes many more negatives (`train.contrast`).
    best: the figure that decides which evaluation is the best. average: decay of the running average of the weights,
    0 for none; average_warmup: makes its decay at most (n + 1) / (n + 1 + average_warmup) in step n, so that a short
    run forgets its start; use_average: evaluate it and give it out instead of the weights. val: a COCO json that the
    model is judged by every `evaluate_every` steps, on the pictures in `val_images` (None: beside the file). trackers:
    "tensorboard", "wandb". recompute: keep less memory and take a third more time (`train.recompute`); for GLIP and
    DyHead.
    """

    name: str
    model: str
    data: str
    steps: int
    batch_size: int
    lr: float
    sub_sentences: bool = False
    contrast: float = 0.0
    seed: int = 0
    checkpoint_every: int = 1000
    evaluate_every: int = 0
    workers: int = 4
    weights: str | None = None
    start: Mapping[str, str] = field(default_factory=dict)
    text_lr: float | None = None
    lr_of: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 1e-4
    bias_factor: float = 2.0
    schedule: ScheduleName = "steps"
    milestones: tuple[float, ...] = (0.67, 0.89)
    gamma: float = 0.1
    patience: int = 3
    warmup: int = 2000
    warmup_factor: float = 0.001
    decay_schedule: bool = False
    clip: float = 1.0
    accumulate: int = 1
    precision: Precision = "fp32"
    recompute: bool = False
    average: float = 0.0
    average_warmup: int = 0
    use_average: bool = False
    frozen: tuple[str, ...] = ()
    val: str | None = None
    val_images: str | None = None
    best: str = "AP50"
    keep: int = 3
    trackers: tuple[str, ...] = ()
    sources: Callable[[Recipe], Sequence[Source]] = field(metadata={"code": True})
    transforms: Sequence[Transform] = field(default=(), metadata={"code": True})

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, it must be at least 1")
        for name in (
            *("workers", "evaluate_every", "warmup", "lr", "text_lr", "weight_decay", "average", "average_warmup"),
            *("contrast", "bias_factor", "gamma", "patience", "clip", "warmup_factor"),
        ):
            value = 0 if getattr(self, name) is None else getattr(self, name)
            if not 0 <= value < math.inf:
                limit = "must not be negative" if value < 0 else "must be a finite number"
                raise ConfigError(f"{name} is {value}, it {limit}")
        for name, values in (("lr_of", self.lr_of.values()), ("milestones", self.milestones)):
            if not all(0 <= value < math.inf for value in values):
                raise ConfigError(f"{name} is {getattr(self, name)}: its numbers must not be negative")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}, it must lie within 0 and 2**63 - 1")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"batch_size {self.batch_size} can't be parted into {self.accumulate} small batches")
        if self.schedule == "plateau" and not self.evaluate_every:
            raise ConfigError('schedule="plateau" follows evaluations: set evaluate_every to a number of steps too')
        if self.val is not None and not self.evaluate_every:
            raise ConfigError("val says what to judge the model by: set evaluate_every to a number of steps too")
        if self.average >= 1:
            raise ConfigError(f"average is {self.average}, it must be below 1")
        if self.decay_schedule and self.schedule != "steps":
            raise ConfigError('decay_schedule follows milestones: it needs schedule="steps"')
        if self.use_average and not self.average:
            raise ConfigError("use_average needs an average: set average=0.999")


def with_settings(recipe: Recipe, settings: Mapping[str, object]) -> Recipe:
    """The recipe with fields changed; strings are read as JSON where the field is no string.

    Raises ConfigError that names the nearest field, or the type that a field takes.
    """
    hints = typing.get_type_hints(type(recipe))
    names = settings_of(recipe)
    changes = {}
    for key, value in settings.items():
        if key not in names:
            raise ConfigError(f"a recipe has no field {key!r}: {nearest(key, names)}")
        changes[key] = _read(key, value, hints[key])
    return dataclasses.replace(recipe, **changes)


def nearest(name: str, names: Iterable[str]) -> str:
    """Advice for a message about an unknown name: the nearest that there is, else all."""
    names = list(names)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def to_json(recipe: Recipe) -> dict[str, Any]:
    """All fields but those that are code, as JSON values."""
    return json.loads(json.dumps(settings_of(recipe), default=dict))


def settings_of(recipe: Recipe) -> dict[str, object]:
    """All fields but those that are code."""
    return {
        each.name: getattr(recipe, each.name) for each in dataclasses.fields(recipe) if not each.metadata.get("code")
    }


def _spelled(text: str, kind: Any) -> object:
    """A string that is no JSON: items between commas, a number as Python writes it, True or False."""
    if typing.get_origin(kind) is tuple:
        return tuple(item for item in text.split(",") if item)
    try:
        return float(text) if kind is float else {"true": True, "false": False}.get(text.lower(), text)
    except ValueError:
        return text


def _read(key: str, value: object, hint: Any) -> object:
    """A value for a field of this type, from a string of the command line or from JSON."""
    optional = type(None) in typing.get_args(hint)
    if optional and value in (None, "none", "None", "null"):
        return None
    kind = next(arg for arg in typing.get_args(hint) if arg is not type(None)) if optional else hint
    if isinstance(value, str) and kind is not str and typing.get_origin(kind) is not Literal:
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = _spelled(value, kind)
    origin = typing.get_origin(kind)
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{key} is {value!r}, it must be one of {', '.join(typing.get_args(kind))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_read(key, item, typing.get_args(kind)[0]) for item in items)
    if origin is not None:  # a mapping from names
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} is {value!r}, it must be a JSON object")
        return {str(name): _read(key, item, typing.get_args(kind)[1]) for name, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{key} is {value!r}, it must be of type {kind.__name__}")
    return value
