"""A recipe: everything that decides a training run, as one typed record.

It carries settings, which the command line changes by name (`settings.py`), and functions: where the data come from,
and how model, batches and criterion are made. Their defaults train GLIP, and any other model with the same outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from openglip.data.mixtures import Source
from openglip.data.views import Transform
from openglip.errors import ConfigError
from openglip.model.contract import Model
from openglip.predict.options import DetectOptions
from openglip.structures.sample import Sample
from openglip.training import components
from openglip.training.batches import Batch
from openglip.training.losses import Criterion

Precision = Literal["fp32", "bf16", "fp16", "auto"]
ScheduleName = Literal["steps", "cosine", "plateau"]
Batches = Callable[[int], Iterator[Batch]]
"""Returns this process's batches from a number on."""
CODE = {"code": True}  # fields that are no settings


@dataclass(frozen=True)
class Validation:
    """Samples that judge a model while it trains.

    Attributes:
        samples: Exhaustively labelled samples that share one list of categories.
        figures: Name of each figure and the categories over which it is the mean AP at IoU 0.5.
        options: Of the detection.
    """

    samples: Sequence[Sample]
    figures: Mapping[str, Sequence[str]]
    options: DetectOptions = field(default_factory=DetectOptions)


def _no_sources(recipe: Recipe) -> Sequence[Source]:
    raise ConfigError(
        f"the recipe {recipe.name!r} has no data: give it sources, a function that returns a list of Source"
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run.

    Attributes:
        name: Names it in checkpoints, and its folder by default.
        model: A model's name, or a function without arguments that builds a model (`openglip.model.contract`).
        data: Where the data are; each recipe says in its docstring how they are laid out.
        steps: Steps of the optimizer.
        batch_size: Images per step, over all processes and small batches.
        lr: Learning rate.
        sub_sentences: Beyond the paper: the text encoder reads each name by itself, so that names of a list do not
            influence each other (`Bert`).
        contrast: Beyond the paper: weight of a loss between the regions of each image and the words of all images of a
            step, which makes many more negatives (`training/contrast.py`).
        seed: Of everything that is random.
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Steps between evaluations; 0: none.
        workers: Processes that read data; 0: the training process does.
        weights: A checkpoint or a model's name to start from. None: the embedded weights, for a model that has some,
            else random ones; "random": always random ones.
        start: Checkpoints of parts of the model, by the beginning of the parts' names; paths below `data`.
        text_lr: Learning rate of the text encoder; None: `lr`.
        lr_of: Learning rates of other parameters, by the beginning of their names.
        weight_decay: Of all parameters but biases.
        bias_factor: Factor of the learning rate of biases; 2 in the official code.
        schedule: "steps", "cosine", or "plateau", which follows the evaluations.
        milestones: For "steps": when the rate falls, as fractions of `steps`, or as steps when above 1.
        gamma: For "steps" and "plateau": the factor by which the rate falls.
        patience: For "plateau": evaluations without a better figure before the rate falls.
        warmup: Steps in which the rate rises.
        warmup_factor: Factor of the rate in the first of these steps.
        decay_schedule: For "steps": weight decay falls before each milestone, as in the published GLIP-L.
        clip: Norm to which gradients are clipped; 0: not.
        accumulate: Small batches per step; their gradients add up to those of one large batch.
        precision: Of the network; the loss is always computed in float32. "auto": bf16 where the processor computes it
            natively, else fp32.
        recompute: Keep less memory and take a third more time, for GLIP and DyHead (`model/recompute.py`).
        average: Decay of the running average of the weights; 0: no average.
        average_warmup: Limits that decay to (n + 1) / (n + 1 + average_warmup) in step n, so that a short run forgets
            its start.
        use_average: Evaluate and export the average instead of the weights.
        frozen: Beginnings of the names of parameters that do not train.
        val: A COCO json on which the model is evaluated.
        val_images: Folder of its images; None: next to the file.
        best: The figure whose highest value decides which evaluation is the best.
        keep: Checkpoints to keep.
        trackers: "tensorboard", "wandb".
        sources: Function of the recipe that returns the sources of the data.
        transforms: Augmentation of the images.
        validation: Function of the recipe that returns what to evaluate on where `val` is None; None: nothing.
        build_model: Function of the recipe that builds the model, freshly initialised.
        load_start: Function of the recipe and that model that loads the weights it starts from, and returns it.
        batches: Function of the recipe, the model and the run's folder that returns `Batches`.
        criterion: Function of the recipe and the model that returns the loss.
        describe_data: Function of the recipe, the model and a folder for images (or None) that returns what a plan says
            of the data.
    """

    name: str
    model: str | Callable[[], nn.Module]
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
    sources: Callable[[Any], Sequence[Source]] = field(default=_no_sources, metadata=CODE)
    transforms: Sequence[Transform] = field(default=(), metadata=CODE)
    validation: Callable[[Any], Validation] | None = field(default=None, metadata=CODE)
    build_model: Callable[[Any], Model] = field(default=components.build_model, metadata=CODE)
    load_start: Callable[[Any, Any], Model] = field(default=components.load_start, metadata=CODE)
    batches: Callable[[Any, Any, Path], Batches] = field(default=components.mixture_batches, metadata=CODE)
    criterion: Callable[[Any, Any], Criterion] = field(default=components.criterion, metadata=CODE)
    describe_data: Callable[[Any, Any, Path | None], dict[str, Any]] = field(
        default=components.describe_mixture, metadata=CODE
    )

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
            raise ConfigError(f"seed is {self.seed}, it must be from 0 to 2**63 - 1")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"batch_size {self.batch_size} can't be split into {self.accumulate} small batches")
        if self.schedule == "plateau" and not self.evaluate_every:
            raise ConfigError('schedule="plateau" follows evaluations: set evaluate_every to a number of steps too')
        if self.val is not None and not self.evaluate_every:
            raise ConfigError("val is evaluated every evaluate_every steps: set evaluate_every to a number too")
        if self.average >= 1:
            raise ConfigError(f"average is {self.average}, it must be below 1")
        if self.decay_schedule and self.schedule != "steps":
            raise ConfigError('decay_schedule follows milestones: it needs schedule="steps"')
        if self.use_average and not self.average:
            raise ConfigError("use_average needs an average: set average=0.999")
