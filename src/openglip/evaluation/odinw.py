"""Object Detection in the Wild: 13 or 35 small sets, COCO figures of each, their mean and median."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from openglip.errors import ConfigError, DataError
from openglip.evaluation.coco import FIGURES, Figures
from openglip.evaluation.read import Source, describe, load_json
from openglip.prompts.tables import OdinwSet, PromptTable, odinw_sets


@dataclass(frozen=True)
class Place:
    """Where one set lies. info: what the tables know of it, None for a set of one's own."""

    name: str
    annotations: Path
    images: Path
    split: str
    info: OdinwSet | None


def find_sets(root: Path, wanted: str | None = None, split: str | None = None) -> tuple[list[Place], list[str]]:
    """The sets below a folder, and the names of those of the tables that are not there.

    root: the folder that the published archive makes, or one of `NAME.json` files, or one annotation file. wanted:
    "odinw-13", "odinw-35", or names parted at commas: each must be there; None: all that are found. split: "val",
    "test", ...; None: what the published configuration evaluates (its `test` is often never used).
    Raises ConfigError for an unknown name, DataError when a set that is asked for, or every one, is missing.
    """
    tables = odinw_sets()
    if root.is_file():
        return [Place(root.stem, root, root.parent, split or "", tables.get(root.stem))], []
    if wanted in (None, "odinw-35", "odinw-13"):
        names = [n for n, info in tables.items() if wanted != "odinw-13" or info.thirteen]
    else:
        names = [n.strip() for n in str(wanted).split(",") if n.strip()]
        if unknown := [n for n in names if n not in tables and not (root / f"{n}.json").is_file()]:
            raise ConfigError(f"{unknown[0]!r} is no ODinW set and {root} holds no {unknown[0]}.json")
    found, missing = [], []
    for name in names:
        info = tables.get(name)
        part = split or (info.split if info else "")
        published, plain = root / (info.annotation_path(part) if info else f"{name}.json"), root / f"{name}.json"
        path = published if published.is_file() else plain
        if path.is_file():
            found.append(Place(name, path, path.parent, part, info))
        else:
            missing.append(name)
            if wanted is not None:
                raise DataError(f"the set {name} is missing: neither {published} nor {plain}")
    if not found:
        raise DataError(f"{root}: none of the sets is here, neither as published nor as NAME.json")
    return found, missing


def predictions_of(source: Source, name: str, alone: bool) -> Source:
    """The results of one set: `NAME.json` in a folder, an entry of an object, or the list itself for a single set."""
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        path = Path(source) / f"{name}.json"
        if not path.is_file():
            raise DataError(f"{source}: no {name}.json with the results of the set {name}")
        return path
    if alone and (not isinstance(source, Mapping)):
        return source
    data = load_json(source, "predictions")
    if not isinstance(data, Mapping) or name not in data:
        raise DataError(f"{describe(source, 'predictions')}: no results of the set {name}: give a folder of NAME.json")
    rows = data[name]
    if not isinstance(rows, Sequence):
        raise DataError(f"{describe(source, 'predictions')}: the results of {name} are not a list")
    return rows


def names_and_wordings(
    info: OdinwSet | None, names: Sequence[str], table: PromptTable
) -> tuple[tuple[str, ...], tuple[tuple[str, str, str], ...] | None]:
    """What to ask for, per category in the order of their ids: names of the table, and its wordings where it has some.

    "original": the names of the annotation file. Raises DataError when the table does not fit the file, ConfigError for
    a set that the table does not hold.
    """
    if table == "original" or info is None:
        return tuple(names), None
    if table == "paper-13" and not info.thirteen:
        raise ConfigError(f"{info.name} is not one of the paper's thirteen sets: use the prompts original or repo-35")
    if len(info.renamed) != len(names):
        raise DataError(f"{info.name}: {len(names)} categories in the file, {len(info.renamed)} in the prompt table")
    return info.renamed, info.wordings


def summary(per_set: Mapping[str, Figures]) -> Figures:
    """Figures of every set, and over sets where a figure is defined its mean and its median."""
    figures: Figures = {}
    for word, average in (("mean", mean), ("median", median)):
        for name in FIGURES:
            values = [f[name] for f in per_set.values() if f[name] > -1]
            figures[f"{word}/{name}"] = float(average(values)) if values else -1.0
        figures[word] = figures[f"{word}/AP"]
    return figures | {f"{s}/{name}": value for s, own in per_set.items() for name, value in own.items()}
