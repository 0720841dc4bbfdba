"""Lists of class names and prompts with their sources, as data files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

PromptTable = Literal["original", "paper-13", "repo-35"]
Wording = tuple[str, str, str]
"""(prefix, words, suffix) of a category in a caption; the span of the category covers the words."""


@dataclass(frozen=True)
class OdinwSet:
    """One data set of Object Detection in the Wild. Source: docs/spec.md 11.5.

    Attributes:
        name: Its published name.
        folder: Its folder below the root of the published archive.
        split: The split that the published configuration evaluates.
        thirteen: It is one of the 13 sets of the GLIP paper.
        original: Class names of the annotation file.
        renamed: Class names of the configuration for 35 sets.
        wordings: How the paper's prompt words each class; None: by its name.
        export: Its annotation files carry the split in their name and lie in one folder.
    """

    name: str
    folder: str
    split: str
    thirteen: bool
    original: tuple[str, ...]
    renamed: tuple[str, ...]
    wordings: tuple[Wording, ...] | None
    export: bool

    def annotation_path(self, split: str) -> str:
        """Path below the root of a split's annotation file; splits are "train", "val", "test" and "minival"."""
        if self.export:
            return f"{self.folder}/{split}_annotations_without_background.json"
        part = {"val": "valid", "minival": "mini_val"}.get(split, split)
        return f"{self.folder}/{part}/annotations_without_background.json"

    def names(self, table: PromptTable) -> tuple[str, ...]:
        """Class names under a prompt table."""
        return self.original if table == "original" else self.renamed


def read_table(name: str) -> tuple[str, ...]:
    """Names of the table `name`.txt in this folder, one per line, in the order of their label ids."""
    return tuple((files(__name__) / f"{name}.txt").read_text("utf-8").splitlines())


@cache
def _json_table(name: str) -> dict[str, Any]:
    return json.loads((files(__name__) / f"{name}.json").read_text("utf-8"))


def coco_thesaurus() -> dict[str, list[str]]:
    """Synonyms of some of COCO's names, from WordNet 3.0, without words that more often mean something else."""
    return _json_table("coco_thesaurus")


def coco_ov_split() -> dict[str, list[str]]:
    """The 48 "base" and 17 "novel" classes of open-vocabulary COCO."""
    return {part: _json_table("coco_ov")[part] for part in ("base", "novel")}


def odinw_sets() -> dict[str, OdinwSet]:
    """The 35 sets by name, in the order of the official list."""
    return {
        name: OdinwSet(
            name=name,
            folder=row["folder"],
            split=row["split"],
            thirteen=row["thirteen"],
            original=tuple(row.get("names_of_thirteen", row["names"])),
            renamed=tuple(row["names"]),
            wordings=tuple((p, w, s) for p, w, s in row["wordings"]) if "wordings" in row else None,
            export=row.get("export", False),
        )
        for name, row in _json_table("odinw")["sets"].items()
    }
