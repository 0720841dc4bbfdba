"""Options made from the fields of a dataclass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer
from typer.testing import CliRunner

from openglip.cli.arguments import expand_records
from openglip.predict.options import DetectOptions


@dataclass(frozen=True)
class Record:
    """A record.

    Attributes:
        side: A length. None: the model's own.
        limit: A number that may
            continue. None: no limit. More.
        tags: Words.
    """

    name: Annotated[str, typer.Option("--called", help="A name.")]
    side: int | None = None
    limit: int | None = 5
    tags: Sequence[str] = ()
    fast: bool = False
    secret: str = "s"


def invoke(*arguments: str) -> tuple[Any, list[object]]:
    received: list[object] = []

    def command(number: int, *, record: Record) -> None:
        """A command."""
        received.extend((number, record))

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(expand_records(command, leave_out=["record.secret"]))
    return CliRunner().invoke(app, [*arguments]), received


def test_fields_become_options_and_a_record_again() -> None:
    result, received = invoke("3", "--called", "cup", "--side", "4", "--tag", "a", "--tag", "b", "--fast")
    assert result.exit_code == 0, result.output
    assert received == [3, Record("cup", side=4, limit=5, tags=["a", "b"], fast=True)]


def test_defaults_stay_and_help_follows_the_docstring() -> None:
    assert invoke("3", "--called", "cup")[1] == [3, Record("cup")]
    words = " ".join(invoke("--help")[0].output.replace("│", " ").split())
    for text in (
        "A name.",
        "A length. Default: the model's own.",
        "A number that may continue. More.",
        "Words. Repeat it.",
    ):
        assert text in words
    assert "secret" not in words


def test_every_option_of_a_detection_is_on_the_command_line(run: Any) -> None:
    for verb, missing in (("detect", {"on_error"}), ("ground", {"on_error", "chunk_size", "distractors"})):
        output = run(verb, "--help").stdout
        for field in fields(DetectOptions):
            option = f"--{field.name.removesuffix('s').replace('_', '-')}"
            assert (option in output) == (field.name not in missing), option
