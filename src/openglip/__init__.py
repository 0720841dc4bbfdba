"""openglip: boxes for words on photos (GLIP, Grounded Language-Image Pre-training, CVPR 2022).

Every name listed in `__all__` is public. The other modules may change between minor versions.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from openglip import data as data
    from openglip.errors import ConfigError as ConfigError
    from openglip.errors import DataError as DataError
    from openglip.errors import ImageError as ImageError
    from openglip.errors import ImageNotFoundError as ImageNotFoundError
    from openglip.errors import MissingExtraError as MissingExtraError
    from openglip.errors import OpenGLIPError as OpenGLIPError
    from openglip.errors import PromptError as PromptError
    from openglip.errors import TrainingError as TrainingError
    from openglip.errors import WeightsError as WeightsError
    from openglip.errors import WeightsNotFoundError as WeightsNotFoundError
    from openglip.evaluation.run import evaluate as evaluate
    from openglip.labelling.run import label as label
    from openglip.predict.detector import Detector as Detector
    from openglip.predict.detector import load as load
    from openglip.predict.options import DetectOptions as DetectOptions
    from openglip.runtime import Progress as Progress
    from openglip.structures.detections import Detections as Detections
    from openglip.verbs.train import train as train
    from openglip.weights.convert import convert as convert

_NAMES = {
    "openglip.predict.detector": ("load", "Detector"),
    "openglip.predict.options": ("DetectOptions",),
    "openglip.runtime": ("Progress",),
    "openglip.structures.detections": ("Detections",),
    "openglip.evaluation.run": ("evaluate",),
    "openglip.labelling.run": ("label",),
    "openglip.verbs.train": ("train",),
    "openglip.weights.convert": ("convert",),
    "openglip.errors": (
        "OpenGLIPError",
        "ConfigError",
        "DataError",
        "ImageError",
        "ImageNotFoundError",
        "MissingExtraError",
        "PromptError",
        "TrainingError",
        "WeightsError",
        "WeightsNotFoundError",
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [*_MODULE_OF, "__version__", "data"]


def __getattr__(name: str) -> object:
    """Import a public name on its first use, so that `import openglip` does not import torch."""
    if name == "data":
        return importlib.import_module("openglip.data")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'openglip' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
