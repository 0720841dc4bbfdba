"""What a command writes to stdout and stderr: any text, in any encoding, to any reader or none."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

LEAST_WIDTH = 60  # columns of a table; a narrower terminal breaks its lines


class _Stream(io.FileIO):
    """Standard output or error. Without a reader the command goes on, so that its files and its status are true."""

    failure: OSError | None = None

    def write(self, content: Any) -> int:
        if self.failure is None:
            try:
                return super().write(content)
            except OSError as error:
                self.failure = error
        return memoryview(content).nbytes


def open_streams() -> None:
    """Replace stdout and stderr by streams that no reader and no character can stop."""
    codecs.register_error("json-escapes", _json_escapes)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            if stream is not getattr(sys, f"__{name}__") or (sys.platform == "win32" and stream.isatty()):
                stream.reconfigure(errors="json-escapes")  # redirected by the caller, or a console of Windows
                continue
            file = io.BufferedWriter(_Stream(number, "w", closefd=False))
            by_line = stream.line_buffering
            setattr(sys, name, io.TextIOWrapper(file, stream.encoding, "json-escapes", line_buffering=by_line))


def write_failure() -> OSError | None:
    """Why stdout could not be written, unless its reader has gone away."""
    sys.stdout.flush()
    failure = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "failure", None)
    return None if isinstance(failure, BrokenPipeError) else failure


def _json_escapes(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks as JSON does, so that a line of JSON remains one."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def printable(text: object) -> str:
    """A text on one line, with control characters as escapes: they would steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def print_lines(text: str) -> None:
    """Print lines."""
    sys.stdout.write("\n".join(map(printable, text.split("\n"))) + "\n")


def message(text: str) -> None:
    """Write lines to stderr."""
    sys.stderr.write("\n".join(map(printable, text.split("\n"))) + "\n")


def print_json(document: object) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")


def open_console(*, stderr: bool = False) -> Console:
    """A console that shows texts as they are."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    console.width = max(console.width, LEAST_WIDTH)
    return console


def print_table(columns: Iterable[str], rows: Iterable[Iterable[object]], console: Console | None = None) -> None:
    """Print a table with lines; texts are folded, never cut."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    (console or open_console()).print(table)
