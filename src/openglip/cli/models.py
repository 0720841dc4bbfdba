"""`openglip models`: list the models, show their cards, download and check their weights."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from openglip.cli.options import Json, Quiet
from openglip.cli.terminal import print_json, print_table
from openglip.errors import WeightsError

models_app = typer.Typer(help="List the models, show their cards, download and check their weights.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model's name, or an official file's name.")]


@models_app.callback(invoke_without_command=True)
def default(ctx: typer.Context) -> None:
    """Without a verb: the list."""
    if ctx.invoked_subcommand is None:
        list_models()


@models_app.command("list")
def list_models(as_json: Json = False) -> None:
    """List all models and where their weights are."""
    from openglip.weights.metadata import model_card, weights_state
    from openglip.weights.records import RECORDS

    if as_json:
        print_json([model_card(record) for record in RECORDS.values()])
        return
    records = RECORDS.values()
    cells = ((record.model, _millions(record.parameters), weights_state(record), record.about) for record in records)
    print_table(("model", "parameters", "weights", "what it is"), cells)


@models_app.command("info")
def info(name: Name, as_json: Json = False) -> None:
    """Show the card of one model: files, licence, training data, figures with protocol and source."""
    from openglip.weights.metadata import model_card
    from openglip.weights.records import find_record

    card = model_card(find_record(name))
    if as_json:
        print_json(card)
        return
    figures = card.pop("figures")
    for key, value in card.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        typer.echo(f"{key.replace('_', ' '):<13} {'-' if text in (None, '') else text}")
    for figure in figures:
        typer.echo(f"figure        {figure['name']}: {figure['value']}  [{figure['protocol']}; {figure['source']}]")


@models_app.command("pull")
def pull(name: Name, quiet: Quiet = False) -> None:
    """Download the weights, verify their hash and print the file's path."""
    from openglip.weights.hub import fetch
    from openglip.weights.metadata import weights_state
    from openglip.weights.records import find_record

    record = find_record(name)
    if record.embedded or record.random:
        if not quiet:
            sys.stderr.write(f"{record.model} needs no download: {weights_state(record)}\n")
        return
    typer.echo(str(fetch(record, quiet=quiet)))


@models_app.command("verify")
def verify(name: Name, as_json: Json = False) -> None:
    """Check the weights on this machine: hash, every key and shape, every number finite."""
    from openglip.files import file_sha256
    from openglip.weights.hub import cached, expected_hash
    from openglip.weights.load import check_finite, load_model
    from openglip.weights.records import find_record

    record = find_record(name)
    files: list[dict[str, Any]] = []
    path = cached(record)
    if record.hub and path is None:
        raise WeightsError(f"the weights of {name} are not on this machine: openglip models pull {name}")
    if path is not None:
        digest, expected = file_sha256(path), expected_hash(record, path)
        if expected is not None and digest != expected:
            raise WeightsError(f"{path} has sha256 {digest}, {expected} was expected: delete it and pull again")
        files.append({"file": str(path), "sha256": digest, "known": expected is not None})
    model = load_model(record.model, path)
    check_finite(model, record.model)
    tensors, parameters = len(model.state_dict()), sum(parameter.numel() for parameter in model.parameters())
    if as_json:
        typer.echo(json.dumps({"model": record.model, "files": files, "tensors": tensors, "parameters": parameters}))
        return
    for file in files:
        note = "as expected" if file["known"] else "no hash to compare with"
        typer.echo(f"{file['file']}: sha256 {file['sha256']} ({note})")
    typer.echo(f"{record.model}: {tensors} tensors, {parameters:,} parameters; all keys fit, all numbers are finite")


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} M"
