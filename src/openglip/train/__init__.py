"""Training. The package can also be called: `openglip.train("debug")` is the verb `openglip train debug`."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    """The folder and the verb share a name, and `import openglip.train.losses` puts the folder in its place."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # looked up by name: the verb also evaluates, so it stands above this folder, which imports downward only
        return importlib.import_module("openglip.cli.train").train(*args, **kwargs)


sys.modules[__name__].__class__ = _Verb
