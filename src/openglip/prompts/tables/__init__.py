"""Named lists of class names and prompts, as data files with their sources."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

PromptTable = Literal["original", "paper-13", "repo-35"]
Wording = tuple[str, str, str]  # prefix, words, suffix


@dataclass(frozen=True)
class OdinwSet:
    """One data set of Object Detection in the Wild.

    folder: below the root of the published archive. split: what the published configuration evaluates. thirteen: it is
    among the thirteen of the GLIP paper. original, renamed: class names of the annotation file and of the 35-set
    configuration. wordings: per class what the caption says around and instead of its name.
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
        """Path of a split's annotation file below the root: "train", "val", "test" or "minival"."""
        if self.export:
            return f"{self.folder}/{split}_annotations_without_background.json"
        part = {"val": "valid", "minival": "mini_val"}.get(split, split)
        return f"{self.folder}/{part}/annotations_without_background.json"

    def names(self, table: PromptTable) -> tuple[str, ...]:
        """Class names under a table. "paper-13" holds the paper's manual names and prompts of its thirteen sets."""
        return self.original if table == "original" else self.renamed


def read_table(name: str) -> tuple[str, ...]:
    """Names of the table `name`.txt in this folder, one a line, in the order of their label ids."""
    return tuple((files(__name__) / f"{name}.txt").read_text("utf-8").splitlines())


@cache
def _data(name: str) -> dict:
    return json.loads((files(__name__) / f"{name}.json").read_text("utf-8"))


def coco_thesaurus() -> dict[str, list[str]]:
    """Other words for some of COCO's names: from WordNet 3.0, without words that more often mean something else."""
    return _data("coco_thesaurus")


def coco_ov_split() -> dict[str, list[str]]:
    """The 48 "base" and 17 "novel" classes of open-vocabulary COCO."""
    return {part: _data("coco_ov")[part] for part in ("base", "novel")}


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
        for name, row in _data("odinw")["sets"].items()
    }
