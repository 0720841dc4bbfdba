"""The command `openglip`: registers the verbs, and turns errors into one line and an exit status.

Exit status: 0 all done, 1 something failed (the rest is done and written), 2 wrong use, 130 interrupted. Modules in
this folder import nothing large at their top, so that `openglip --help` is quick.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import openglip
from openglip.cli import convert, data, detect, doctor, evaluate, label, models, train
from openglip.cli.terminal import message, open_streams, write_failure
from openglip.errors import ConfigError, OpenGLIPError, PromptError

# Wrong use of the command line. Since 0.26 typer contains a copy of click, so that click's own class is another one.
_ClickException: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class _Verbs(TyperGroup):
    """The root command: accepts `--debug` anywhere, and turns the errors of a verb into a message and a status."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = args[: args.index("--")] if "--" in args else args
        ctx.meta["openglip.debug"] = "--debug" in options
        if "--output=" in args or ("--output", "") in pairwise(args):
            raise typer.BadParameter("--output is empty: is a variable not set?")
        args = [re.sub(r"^(--[\w-]+=)?(~(?:[/\\].*)?)$", _at_home, arg, flags=re.DOTALL) for arg in args]
        return super().parse_args(ctx, [arg for i, arg in enumerate(args) if arg != "--debug" or i >= len(options)])

    def invoke(self, ctx: Any) -> Any:
        debug = ctx.meta["openglip.debug"]
        logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
        if not debug:
            warnings.showwarning = _one_line
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, _ClickException, BrokenPipeError):  # typer reports these itself
            raise
        except KeyboardInterrupt as error:
            _trace(error, debug)
            message("interrupted: what is written is whole")
            raise SystemExit(130) from None
        except OpenGLIPError as error:
            _trace(error, debug)
            message(f"error: {error}")
            raise SystemExit(2 if isinstance(error, ConfigError | PromptError) else 1) from None
        except Exception as error:  # noqa: BLE001  a full disk, too little memory, a bug
            _trace(error, debug)
            where = "" if debug else " (the same command with --debug shows where)"
            message(f"error: {type(error).__name__}: {error}{where}")
            raise SystemExit(1) from None


def _one_line(warning: Warning | str, category: type[Warning], *location: object, **more: object) -> None:
    if not issubclass(category, DeprecationWarning):  # these are for developers, not for users of the command
        message(f"warning: {warning}")


def _trace(error: BaseException, debug: bool) -> None:
    if debug:
        message("".join(traceback.format_exception(error)))


def _at_home(match: re.Match[str]) -> str:
    """The shell replaces ~ only where it begins an argument without quotes, and not in --output=~/results."""
    return (match[1] or "") + os.path.expanduser(match[2])


def _end(number: int, frame: object) -> None:
    """End in order, so that unfinished files are removed."""
    signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):  # not by sys.stderr, which may be in the middle of a write
        os.write(2, f"ended by {signal.Signals(number).name}: what is written is whole\n".encode())
    raise SystemExit(128 + number)


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find objects in images by their names or by a sentence. `openglip VERB --help` explains a verb.",
    epilog="Results go to stdout, messages to stderr. Exit status: 0 done, 1 something failed, 2 wrong use.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"openglip {openglip.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may be given anywhere.")] = False,
) -> None:
    """Options of all verbs."""


app.command("detect")(detect.detect_command)
app.command("ground")(detect.ground_command)
app.add_typer(models.models_app, name="models")
app.command("doctor")(doctor.doctor)
app.command("convert")(convert.convert)
app.add_typer(data.data_app, name="data")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(label.label_app, name="label")
app.command("train")(train.command)


def main() -> None:
    """Entry point of the console script."""
    open_streams()
    for name in ("SIGTERM", "SIGHUP"):  # nohup ignores the latter
        if hasattr(signal, name) and signal.getsignal(number := getattr(signal, name)) == signal.SIG_DFL:
            signal.signal(number, _end)
    status: Any = 0
    try:
        app()
    except SystemExit as end:
        status = end.code
    if failure := write_failure():
        message(f"error: stdout can't be written: {failure.strerror}")
    sys.exit(status or int(failure is not None))


if __name__ == "__main__":
    main()
