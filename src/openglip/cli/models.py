"""`openglip models`: what is known of the models' weights; fetch and check them."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openglip.errors import WeightsError

if TYPE_CHECKING:
    from openglip.weights.records import WeightsRecord

models_app = typer.Typer(help="List the models, show their cards, fetch and check their weights.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="A model's name, or an official file's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No messages and no progress.")]


@models_app.callback(invoke_without_command=True)
def default(ctx: typer.Context) -> None:
    """Without a verb: the list."""
    if ctx.invoked_subcommand is None:
        list_models()


@models_app.command("list")
def list_models(as_json: Json = False) -> None:
    """All models, and where their weights are."""
    from openglip.weights.records import RECORDS

    rows = [(record, _state(record)) for record in RECORDS.values()]
    if as_json:
        typer.echo(json.dumps([_as_dict(record) for record, _ in rows], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "parameters", "weights", "what it is")
    for record, state in rows:
        table.add_row(record.model, _millions(record.parameters), state, record.about)
    Console().print(table)


@models_app.command("info")
def info(name: Name, as_json: Json = False) -> None:
    """The card of one model: files, licence, training data, input, figures with protocol and source."""
    from openglip.weights.records import find_record

    card = _as_dict(find_record(name))
    if as_json:
        typer.echo(json.dumps(card, ensure_ascii=False))
        return
    figures = card.pop("figures")
    for key, value in card.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        typer.echo(f"{key:<11} {'-' if text in (None, '') else text}")
    for figure in figures:
        typer.echo(f"figure      {figure['name']}: {figure['value']}  [{figure['protocol']}; {figure['source']}]")


@models_app.command("pull")
def pull(name: Name, quiet: Quiet = False) -> None:
    """Download the weights, verify their hash and print the file's path."""
    from openglip.weights.hub import fetch
    from openglip.weights.records import find_record

    record = find_record(name)
    if record.embedded or record.random:
        if not quiet:
            sys.stderr.write(f"{record.model} needs no download: {_state(record)}\n")
        return
    typer.echo(str(fetch(record, quiet=quiet)))


@models_app.command("verify")
def verify(name: Name, as_json: Json = False) -> None:
    """Check the weights on this machine: hash, every key and shape, every number finite."""
    from openglip.files import file_sha256
    from openglip.weights.hub import cached, expected_hash
    from openglip.weights.records import find_record

    record = find_record(name)
    files = []
    path = cached(record)
    if record.hub and path is None:
        raise WeightsError(f"the weights of {name} are not on this machine: openglip models pull {name}")
    if path is not None:
        digest, expected = file_sha256(path), expected_hash(record, path)
        if expected is not None and digest != expected:
            raise WeightsError(f"{path} has sha256 {digest}, {expected} was expected: delete it and pull again")
        files.append({"file": str(path), "sha256": digest, "known": expected is not None})
    tensors, parameters = _check_numbers(record, path)
    if as_json:
        typer.echo(json.dumps({"model": record.model, "files": files, "tensors": tensors, "parameters": parameters}))
        return
    for file in files:
        note = "as expected" if file["known"] else "no hash is known to compare with"
        typer.echo(f"{file['file']}: sha256 {file['sha256']} ({note})")
    typer.echo(f"{record.model}: {tensors} tensors, {parameters:,} parameters; all keys fit, all numbers are finite")


def _check_numbers(record: WeightsRecord, path: Any) -> tuple[int, int]:
    """(tensors, parameters) of the loaded model. Raises WeightsError for what does not fit or is no number."""
    import torch

    from openglip.weights.load import load_model

    model = load_model(record.model, path)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise WeightsError(f"the weights of {record.model} hold NaN or infinity in {key}: get the file again")
    return len(model.state_dict()), sum(parameter.numel() for parameter in model.parameters())


def _state(record: WeightsRecord) -> str:
    """Where the weights are, in words."""
    from openglip.weights.hub import cached, embedded_file

    if record.random:
        return "random, fixed"
    if record.embedded:
        return "embedded" if all(embedded_file(name).is_file() for name in record.embedded) else "missing"
    if record.hub is None:
        return "none released"
    return "on this machine" if cached(record) else "to download"


def _as_dict(record: WeightsRecord) -> dict[str, Any]:
    """The record as JSON values; figures, data and licence of embedded weights come from the files' own metadata."""
    from openglip.weights.hub import cached, embedded_file

    card: dict[str, Any] = dataclasses.asdict(record)
    card["state"] = _state(record)
    path = cached(record)
    card["path"] = str(path) if path else None
    if record.embedded and card["state"] == "embedded":
        from openglip.weights.files import read_info

        for name in record.embedded:
            known = read_info(embedded_file(name))
            card.update({key: known[key] for key in ("data", "licence", "figures", "parameters") if key in known})
        card["path"] = str(embedded_file(record.embedded[0]).parent)
    return card


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f} M"
