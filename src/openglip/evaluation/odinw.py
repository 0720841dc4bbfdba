"""Object Detection in the Wild: 13 or 35 small sets, COCO figures of each, their mean and median."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from openglip.errors import ConfigError, DataError
from openglip.evaluation.coco import FIGURES, Figures
from openglip.evaluation.read import JsonSource, load_json, source_name
from openglip.prompts.tables import OdinwSet, PromptTable, odinw_sets


@dataclass(frozen=True)
class SetFiles:
    """The files of one set.

    Attributes:
        name: Name of the set.
        annotations: Its annotation file.
        images: The folder of its images.
        split: "val", "test", ...
        info: The set's names and prompts; None for a set that is not part of the benchmark.
    """

    name: str
    annotations: Path
    images: Path
    split: str
    info: OdinwSet | None


def find_sets(root: Path, sets: str | None = None, split: str | None = None) -> tuple[list[SetFiles], list[str]]:
    """Find the sets in a folder.

    Args:
        root: The folder that the published archive makes, or a folder of `NAME.json`, or one annotation file.
        sets: "odinw-13", "odinw-35", or names separated by commas, all of which must exist; None takes all that do.
        split: "val", "test", ...; None takes what the published configuration evaluates (often not its `test`).

    Returns:
        The sets, and the names of the benchmark's sets that are missing.

    Raises:
        ConfigError: A name is unknown.
        DataError: A requested set is missing, or all are.
    """
    tables = odinw_sets()
    if root.is_file():
        return [SetFiles(root.stem, root, root.parent, split or "", tables.get(root.stem))], []
    if sets in (None, "odinw-35", "odinw-13"):
        names = [n for n, info in tables.items() if sets != "odinw-13" or info.thirteen]
    else:
        names = [n.strip() for n in str(sets).split(",") if n.strip()]
        if unknown := [n for n in names if n not in tables and not (root / f"{n}.json").is_file()]:
            raise ConfigError(f"{unknown[0]!r} is no ODinW set and {root} holds no {unknown[0]}.json")
    existing, missing = [], []
    for name in names:
        info = tables.get(name)
        set_split = split or (info.split if info else "")
        published, plain = root / (info.annotation_path(set_split) if info else f"{name}.json"), root / f"{name}.json"
        path = published if published.is_file() else plain
        if path.is_file():
            existing.append(SetFiles(name, path, path.parent, set_split, info))
        else:
            missing.append(name)
            if sets is not None:
                raise DataError(f"the set {name} is missing: neither {published} nor {plain} exists")
    if not existing:
        raise DataError(f"{root}: none of the sets is here, neither as published nor as NAME.json")
    return existing, missing


def predictions_of(source: JsonSource, name: str, alone: bool) -> JsonSource:
    """The predictions of one set.

    Args:
        source: A folder of `NAME.json`, a mapping from names to lists, or a list.
        name: Name of the set.
        alone: Whether it is the only set, so that a list needs no name.
    """
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        path = Path(source) / f"{name}.json"
        if not path.is_file():
            raise DataError(f"{source}: no {name}.json with the results of the set {name}")
        return path
    if alone and (not isinstance(source, Mapping)):
        return source
    data = load_json(source)
    if not isinstance(data, Mapping) or name not in data:
        raise DataError(
            f"{source_name(source, 'predictions')}: no results of the set {name}: give a folder of NAME.json"
        )
    rows = data[name]
    if not isinstance(rows, Sequence):
        raise DataError(f"{source_name(source, 'predictions')}: the results of {name} are not a list")
    return rows


def names_and_wordings(
    info: OdinwSet | None, names: Sequence[str], table: PromptTable
) -> tuple[tuple[str, ...], tuple[tuple[str, str, str], ...] | None]:
    """The names to search for, and how the caption words them.

    Args:
        info: The set's names and prompts.
        names: The names of the annotation file, by category id.
        table: The prompts to use; "original" takes the names of the annotation file.

    Returns:
        A name per category, and (prefix, words, suffix) per category where the table has them.

    Raises:
        DataError: The table does not fit the annotation file.
        ConfigError: The table does not hold the set.
    """
    if table == "original" or info is None:
        return tuple(names), None
    if table == "paper-13" and not info.thirteen:
        raise ConfigError(f"{info.name} is not one of the paper's thirteen sets: use the prompts original or repo-35")
    if len(info.renamed) != len(names):
        raise DataError(f"{info.name}: {len(names)} categories in the file, {len(info.renamed)} in the prompt table")
    return info.renamed, info.wordings


def summary(per_set: Mapping[str, Figures]) -> Figures:
    """Figures of every set, and their mean and median over the sets where they are defined."""
    figures: Figures = {}
    for word, average in (("mean", mean), ("median", median)):
        for name in FIGURES:
            values = [f[name] for f in per_set.values() if f[name] > -1]
            figures[f"{word}/{name}"] = float(average(values)) if values else -1.0
        figures[word] = figures[f"{word}/AP"]
    return figures | {
        f"{set_name}/{name}": value for set_name, scores in per_set.items() for name, value in scores.items()
    }
