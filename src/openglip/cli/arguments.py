"""Command-line options made from the fields of a dataclass, so that commands which share options list them once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_origin, get_type_hints

import typer

Command = Callable[..., None]


def expand_records(command: Command, *, leave_out: Sequence[str] = ()) -> Command:
    """A command whose parameters that are dataclasses are replaced by one option per field.

    A field may be annotated for typer. Otherwise the option follows from its type, and the help from the docstring of
    the dataclass.

    Args:
        command: The command.
        leave_out: Fields that do not become options, as "parameter.field"; they keep their default.
    """
    parameters: list[inspect.Parameter] = []
    records: dict[str, tuple[type[Any], list[str]]] = {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        record = parameter.annotation
        if isinstance(record, type) and is_dataclass(record):
            left_out = [name.partition(".")[2] for name in leave_out if name.startswith(f"{parameter.name}.")]
            options = [_option(record, field) for field in fields(record) if field.name not in left_out]
            records[parameter.name] = record, [option.name for option in options]
            parameters += options
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def run(**arguments: Any) -> None:
        for name, (record, names) in records.items():
            given = {field: arguments.pop(field) for field in names}
            arguments[name] = record(**{field: value for field, value in given.items() if value is not None})
        command(**arguments)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _option(record: type[Any], field: Field[Any]) -> inspect.Parameter:
    kind: Any = get_type_hints(record, include_extras=True)[field.name]
    default: Any = field.default
    if get_origin(kind) is not Annotated:
        flag, text = f"--{field.name.replace('_', '-')}", _help(record, field)
        if kind == Sequence[str]:
            kind, default, flag, text = list[str] | None, None, flag.removesuffix("s"), f"{text} Repeat it."
        kind = Annotated[kind, typer.Option(flag, help=text)]
    default = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _help(record: type[Any], field: Field[Any]) -> str:
    """What the docstring says about a field, in the words of a command line."""
    lines = re.search(rf"^    {field.name}: (.*(?:\n {{8}}.*)*)", inspect.getdoc(record) or "", re.MULTILINE)
    text = " ".join(lines[1].split()) if lines else ""
    return re.sub(r"None: ", "Default: ", text) if field.default is None else re.sub(r" ?None: [^.]*\.", "", text)
