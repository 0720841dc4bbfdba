"""Imports go downward only, without circles; `import openglip` and `--help` are quick and bring no torch."""

from __future__ import annotations

import ast
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "openglip"

# From the bottom up; folders of one row do not import each other.
LEVELS = (
    ("errors",),
    ("files", "runtime"),
    ("images",),
    ("structures",),  # above images: Detections opens its image again, exactly as the detector saw it
    ("prompts",),
    ("model",),
    ("nano",),
    ("weights",),
    ("data", "predict"),
    ("evaluation", "training"),
    ("labelling",),
    ("verbs",),
    ("cli",),
    ("__main__",),
)
LEVEL = {folder: level for level, row in enumerate(LEVELS) for folder in row}
# The root holds the public names, resolved late; anyone may ask it for the version.
ROOT = "__init__"


def name_of(path: Path) -> str:
    return ".".join(("openglip", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules of the package that a file imports; late imports inside functions count too unless `top_level`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if top_level and id(node) in late:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: write the whole name of the module"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update((whole & MODULES.keys()) | ({node.module} if whole - MODULES.keys() else set()))
    return {name for name in found if name in MODULES}


def folder(module: str) -> str:
    return module.split(".")[1] if "." in module else ROOT


@pytest.mark.parametrize("module", [name for name in MODULES if folder(name) != ROOT])
def test_imports_go_downward(module: str) -> None:
    here = folder(module)
    assert here in LEVEL, f"{module}: give the folder {here} a level in this test and in docs/architecture.md"
    for other in imports(MODULES[module]):
        there = folder(other)
        if there in (ROOT, here):
            continue
        # The root's own functions are the public face; only the top may use it so.
        assert LEVEL[there] < LEVEL[here], f"{module} imports {other}, which is not below it"


def test_there_are_no_circles() -> None:
    graph = {name: imports(path, top_level=True) - {name, "openglip"} for name, path in MODULES.items()}
    while leaves := [name for name, needs in graph.items() if not needs]:
        for leaf in leaves:
            del graph[leaf]
        for needs in graph.values():
            needs.difference_update(leaves)
    assert not graph, f"these import each other: {graph}"


PROBE = """
import json, sys, time
start = time.process_time()
{statement}
seconds = time.process_time() - start
heavy = [name for name in ("torch", "torchvision", "numpy", "tokenizers", "PIL") if name in sys.modules]
print(json.dumps([seconds, heavy]))
"""


def probe(statement: str) -> tuple[float, list[str]]:
    """Processor time of a statement in fresh interpreters, and the heavy modules that it brings.

    The time is a multiple of what it costs to read the command line library just before, the middle of nine such pairs,
    so that a slow machine says nothing.
    """
    times, heavy = [], []
    for _ in range(9):
        seconds = []
        for one in ("import typer.rich_utils", statement):
            command = [sys.executable, "-c", PROBE.format(statement=one)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            spent, modules = json.loads(done.stdout.splitlines()[-1])
            seconds.append(spent)
            heavy += modules
        times.append(seconds[1] / seconds[0])
    return statistics.median(times), heavy


def test_importing_the_package_is_quick_and_light() -> None:
    times, heavy = probe("import openglip")
    assert heavy == []
    assert times < 1


def test_help_is_quick_and_light() -> None:
    statement = (
        "import contextlib, io\n"
        "sys.argv = ['openglip', '--help']\n"
        "from openglip.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main()\n"
    )
    times, heavy = probe(statement)
    assert heavy == []
    assert times < 2.5  # 1.9 to 2.1 were seen


DETECT = """
import sys
import numpy as np
import openglip
for model in ("nano", "debug"):
    detector = openglip.load(model, None if model == "nano" else "random")
    detector.detect(np.zeros((64, 64, 3), np.uint8), "cat", threshold=0)
slow = [name for name in ("torchvision", "torch._dynamo") if name in sys.modules]
assert not slow, slow
import torch, torchvision
boxes = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9], [5, 5, 20, 20]])
assert torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]
"""


def test_a_detection_does_not_wait_for_torchvision_which_still_imports_after_it() -> None:
    """It takes as long as torch itself."""
    done = subprocess.run([sys.executable, "-c", DETECT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Only these may import torch; everything else has to work, up to the point where a model is needed, without it.
TORCH = ("model", "nano", "training", "weights")
TORCH_MODULES = ("openglip.predict.backends.torch", "openglip.runtime")


def imports_torch(path: Path) -> list[int]:
    """Lines on which a file imports torch or torchvision, inside functions too, but for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    lines = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if id(node) not in for_types and any(name.split(".")[0] in ("torch", "torchvision") for name in names):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_only_where_models_live(module: str) -> None:
    if folder(module) not in TORCH and module not in TORCH_MODULES:
        assert imports_torch(MODULES[module]) == []


BLOCKED = """
import importlib, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
for module in sys.argv[1:]:
    importlib.import_module(module)
import numpy as np
import openglip
assert openglip.DetectOptions(threshold=0.5).top_k == 100
assert not [name for name in sys.modules if name.split(".")[0] == "torch"]
"""


def test_all_other_modules_import_where_torch_is_not_installed() -> None:
    modules = [name for name in MODULES if folder(name) not in TORCH and name not in TORCH_MODULES[:1]]
    modules = [name for name in modules if name not in ("openglip.__main__", "openglip.verbs.training_figures")]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *modules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
