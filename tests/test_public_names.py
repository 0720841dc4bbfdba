"""The names that `import openglip` offers."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import openglip
from openglip import errors

PACKAGE = Path(openglip.__file__).parent
FUNCTIONS = ("load", "evaluate", "label", "convert", "train")


def test_names_for_type_checkers_are_the_public_names() -> None:
    tree = ast.parse(Path(openglip.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == openglip._MODULE_OF | {"data": "openglip"}
    assert {*typed, "__version__"} == set(openglip.__all__) == set(dir(openglip))


@pytest.mark.parametrize("name", openglip.__all__)
def test_every_name_resolves(name: str) -> None:
    assert getattr(openglip, name) is not None
    if name in FUNCTIONS:
        assert inspect.isfunction(getattr(openglip, name))


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'detct'"):
        _ = openglip.detct  # type: ignore[attr-defined]


def test_every_error_is_exported_and_is_also_a_built_in() -> None:
    classes: dict[str, Any] = {
        n: c for n, c in vars(errors).items() if inspect.isclass(c) and c.__module__ == errors.__name__
    }
    assert set(classes) <= set(openglip.__all__)
    for name, error in classes.items():
        assert issubclass(error, openglip.OpenGLIPError)
        built_in = [base for base in error.__mro__ if base.__module__ == "builtins"]
        assert name == "OpenGLIPError" or built_in[0] is not Exception, name
    scattered = [
        f"{path}: {node.name}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and any("Error" in ast.unparse(base) for base in node.bases)
    ]
    assert scattered == []


IMPORT_ALL = """
import importlib, json, sys
import openglip
changed = {}
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
    for name in openglip.__all__:
        if name not in ("data", "__version__") and name in vars(openglip):
            changed[name] = module
print(json.dumps(changed))
"""


def test_importing_a_module_never_changes_what_a_public_name_is() -> None:
    modules = [
        ".".join(("openglip", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__main__.py"
    ]
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {}
    assert importlib.import_module("openglip.data") is openglip.data
