"""openglip: boxes for words on photos (GLIP, Grounded Language-Image Pre-training, CVPR 2022)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from openglip.errors import ConfigError as ConfigError
    from openglip.errors import DataError as DataError
    from openglip.errors import ImageError as ImageError
    from openglip.errors import OpenGLIPError as OpenGLIPError
    from openglip.errors import PromptError as PromptError
    from openglip.errors import WeightsError as WeightsError
    from openglip.evaluation.run import evaluate as evaluate
    from openglip.labelling.run import label as label
    from openglip.predict.detector import Detector as Detector
    from openglip.predict.detector import load as load
    from openglip.structures.detections import Detections as Detections
    from openglip.verbs.train import train as train
    from openglip.weights.convert import convert as convert

_HOMES = {
    "load": "openglip.predict.detector",
    "Detector": "openglip.predict.detector",
    "Detections": "openglip.structures.detections",
    "evaluate": "openglip.evaluation.run",
    "label": "openglip.labelling.run",
    "convert": "openglip.weights.convert",
    "train": "openglip.verbs.train",
    "OpenGLIPError": "openglip.errors",
    "ImageError": "openglip.errors",
    "PromptError": "openglip.errors",
    "WeightsError": "openglip.errors",
    "DataError": "openglip.errors",
    "ConfigError": "openglip.errors",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    """Resolve public names on first use, so that `import openglip` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'openglip' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
