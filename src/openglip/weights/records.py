"""A table of the weights of each model: files, origin, licence, training data, reported figures."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from importlib.resources import files

from openglip.errors import ConfigError


@dataclass(frozen=True)
class Figure:
    """A reported figure.

    Attributes:
        name: Benchmark and measure.
        value: In points, 0 to 100.
        protocol: How it was measured.
        source: Where it was reported.
    """

    name: str
    value: float
    protocol: str
    source: str


@dataclass(frozen=True)
class WeightsRecord:
    """One weights file, or a model that has none.

    Attributes:
        model: Name of the model, as `openglip.load` takes it.
        parameters: Number of parameters; None for a model that nobody compares.
        about: What the model is, in one line.
        builder: The function that builds it, "module:function".
        licence: Terms of the weights. Of embedded weights these are in their metadata, as are the training data and the
            figures (`metadata.model_card` combines both).
        training_data: The data sets of the training.
        file: Name of the file at its origin; None if no file was released.
        hub: Repository at the Hugging Face hub that holds the file; None if there is none.
        embedded: Files inside the package that together are the weights.
        sha256: Of the file, where it is known; otherwise a download is compared with what the hub states.
        figures: What was reported of these weights.
        random: The weights are drawn from a fixed seed.
    """

    model: str
    about: str
    builder: str
    parameters: int | None = None
    licence: str = ""
    training_data: tuple[str, ...] = ()
    file: str | None = None
    hub: str | None = None
    embedded: tuple[str, ...] = ()
    sha256: str | None = None
    figures: tuple[Figure, ...] = ()
    random: bool = False


def _read_records() -> list[WeightsRecord]:
    """The table `records.json` beside this file; the first record of a model is what `openglip.load` takes."""
    records: list[WeightsRecord] = []
    for row in json.loads((files("openglip.weights") / "records.json").read_text("utf-8")):
        lists = {key: tuple(row[key]) for key in ("training_data", "embedded") if key in row}
        figures = tuple(Figure(**figure) for figure in row.get("figures", ()))
        records.append(WeightsRecord(**{**row, **lists, "figures": figures}))
    return records


_ALL = _read_records()
RECORDS: dict[str, WeightsRecord] = {}
for _record in _ALL:
    RECORDS.setdefault(_record.model, _record)
"""Model name -> the weights that `openglip.load(name)` takes."""
BY_FILE: dict[str, WeightsRecord] = {record.file: record for record in _ALL if record.file}
"""The records by name of the official file; some models have more than one."""


def find_record(name: str) -> WeightsRecord:
    """The record of a model, by its name or by the name of an official file.

    Raises:
        ConfigError: There is no such name; the message contains similar ones.
    """
    if name in RECORDS:
        return RECORDS[name]
    if name in BY_FILE:
        return BY_FILE[name]
    near = difflib.get_close_matches(name, [*RECORDS, *BY_FILE], n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(f"there is no model named {name!r}: {hint}Models: {', '.join(RECORDS)}")
