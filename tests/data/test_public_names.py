"""`openglip.data` is a namespace: its names resolve late and mean the same in any order of imports."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from data.small_sets import encoded, write, write_coco_json

import openglip
from openglip import data
from openglip.runtime import Progress

FUNCTIONS = ("read", "check", "convert", "render")
MODULES = sorted(
    "openglip.data." + path.relative_to(Path(data.__file__).parent).with_suffix("").as_posix().replace("/", ".")
    for path in Path(data.__file__).parent.rglob("*.py")
    if path.name != "__init__.py"
)


def test_every_name_resolves_and_functions_are_documented():
    assert openglip.data is data
    assert set(FUNCTIONS) <= set(data.__all__) == set(dir(data))
    for name in data.__all__:
        assert inspect.getdoc(getattr(data, name))
    for name in FUNCTIONS:
        function = getattr(data, name)
        assert inspect.isfunction(function)
        assert {"Args:", "Returns:", "Raises:"} <= set(inspect.getdoc(function).split())
        assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'chekc'"):
        _ = data.chekc


PROBE = """
import importlib, json, sys
for name in ("torch", "yaml", "pyarrow"):
    sys.modules[name] = None  # an import of it fails
import openglip.data
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
changed = [name for name in openglip.data.__all__ if name in vars(openglip.data)]
print(json.dumps(changed))
"""


@pytest.mark.parametrize("order", [1, -1])
def test_no_import_changes_what_a_name_is_or_needs_an_extra(order):
    command = [sys.executable, "-c", PROBE, json.dumps(MODULES[::order])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_progress_is_reported(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.jpg", encoded(number))
    source = write_coco_json(tmp_path / "train.json", *((i, f"{i}.jpg") for i in range(3)))
    reports: list[Progress] = []
    data.check(source, progress=reports.append)
    assert reports == [Progress(3, None, "images", "train")]
    reports.clear()
    data.convert(source, tmp_path / "out.jsonl", progress=reports.append)
    assert reports == [Progress(i, None, "samples", "train") for i in (1, 2, 3)]
    reports.clear()
    rendered = data.render(source, tmp_path / "drawn", number=2, progress=reports.append)
    assert [(r.done, r.message) for r in reports] == [(1, rendered[0].file), (2, rendered[1].file)]
