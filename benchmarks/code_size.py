"""How large is the package? Lines of code per folder, long files, long functions.

    python benchmarks/code_size.py [FOLDER]

A line of code holds at least one token that is not a comment and not part of a docstring. Files are measured in lines
of any kind, functions in lines of code.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "openglip"
LONG_FILE, LONG_FUNCTION = 400, 60
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


@dataclass(frozen=True)
class Size:
    """The size of a package.

    Attributes:
        folders: Lines of code by folder; "." stands for the files that lie in none.
        files: Lines of any kind by file.
        functions: Lines of code by function, as "file:name".
    """

    folders: Counter[str]
    files: dict[str, int]
    functions: dict[str, int]

    @property
    def total(self) -> int:
        """Lines of code in all."""
        return sum(self.folders.values())


def code_lines(source: str) -> set[int]:
    """Numbers of the lines of code, from 1."""
    docstrings = {line for node in _definitions(ast.parse(source)) for line in _docstring_lines(node)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)}
    return lines - docstrings


def measure(package: Path) -> Size:
    """The size of all Python files below a folder."""
    folders: Counter[str] = Counter()
    files: dict[str, int] = {}
    functions: dict[str, int] = {}
    for path in sorted(package.rglob("*.py")):
        source, name = path.read_text(encoding="utf-8"), path.relative_to(package)
        code = code_lines(source)
        folders[name.parts[0] if len(name.parts) > 1 else "."] += len(code)
        files[name.as_posix()] = len(source.splitlines())
        for node in _definitions(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                functions[f"{name.as_posix()}:{node.name}"] = len(code.intersection(inside))
    return Size(folders, files, functions)


def _definitions(tree: ast.Module) -> Iterator[Definition]:
    return (node for node in ast.walk(tree) if isinstance(node, Definition))


def _docstring_lines(node: Definition) -> range:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return range(first.lineno, (first.end_lineno or first.lineno) + 1)
    return range(0)


def main() -> None:
    """Print the size of a package."""
    parser = argparse.ArgumentParser(description="Lines of code per folder, long files, long functions.")
    parser.add_argument("folder", nargs="?", type=Path, default=PACKAGE)
    size = measure(parser.parse_args().folder)
    for folder, lines in sorted(size.folders.items()):
        print(f"{lines:7,}  {folder}")
    print(f"{size.total:7,}  in all")
    for title, lengths, limit in (("files", size.files, LONG_FILE), ("functions", size.functions, LONG_FUNCTION)):
        long = sorted((lines, name) for name, lines in lengths.items() if lines > limit)
        print(f"\n{len(long)} {title} above {limit} lines")
        for lines, name in reversed(long):
            print(f"{lines:7,}  {name}")


if __name__ == "__main__":
    main()
