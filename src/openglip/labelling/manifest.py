"""manifest.json of a labelling run: settings, one row per finished shard, its own digest; and the check of a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openglip.errors import ConfigError, DataError
from openglip.files import HOLDER_FILE, LOCK_FILE, file_sha256, whole_file
from openglip.labelling.shards import totals

NAME = "manifest.json"
KINDS = ("shards", "failures")


class Manifest:
    """What a run was asked for and what is done. `save` replaces the file as a whole."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], planned: Iterable[str]) -> None:
        self.folder, self.settings, self.planned = folder, dict(settings), list(planned)
        self.shards: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read a folder's manifest. Raises DataError when it is missing, damaged or not as it was written."""
        path = folder / NAME
        try:
            content = path.read_bytes()
            top = json.loads(content)
            manifest = cls(folder, top["settings"], top["planned"])
            manifest.shards, manifest.failed = top["shards"], top["failed"]
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a manifest of a labelling run: {error}") from error
        if manifest._content() != content:
            raise DataError(f"{path}: not as it was written: its digest does not fit")
        return manifest

    def save(self) -> None:
        with whole_file(self.folder / NAME, "wb") as file:
            file.write(self._content())

    def _content(self) -> bytes:
        top = {
            "format": 1,
            "settings": self.settings,
            "planned": self.planned,
            "shards": {name: self.shards[name] for name in self.planned if name in self.shards},
            "failed": {name: self.failed[name] for name in self.planned if name in self.failed},
            "totals": totals(self.shards[name] for name in self.planned if name in self.shards),
        }
        digest = hashlib.sha256(json.dumps(top, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
        return json.dumps({**top, "sha256": digest}, ensure_ascii=False, indent=1).encode() + b"\n"

    def refuse_other(self, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError that names the first setting which is not that of this folder's run."""
        for key in [*self.settings, *settings]:
            old, new = self.settings.get(key), settings.get(key)
            if old != new:
                raise ConfigError(
                    f"{self.folder} holds a run with {key} = {_short(old)}, not {_short(new)}: "
                    "use its settings to go on, or another --output"
                )

    def is_done(self, name: str) -> bool:
        """Whether a shard's files are there, as long and as they were written."""
        return name in self.shards and not list(_file_problems(self.folder, name, self.shards[name]))

    def totals(self) -> dict[str, Any]:
        return totals(self.shards.values())


def verify(folder: str | Path) -> list[str]:
    """What is wrong with a run's folder: a changed, missing or foreign file, an unfinished shard. Empty: all is well.

    Needs nothing but the folder. Raises DataError when there is no manifest.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder)
    problems = []
    for name in manifest.planned:
        if name in manifest.shards:
            problems += _file_problems(folder, name, manifest.shards[name])
            problems += _line_problems(folder, name, manifest.shards[name])
        else:
            problems.append(f"{name}: not done{': ' + manifest.failed[name] if name in manifest.failed else ''}")
    known = {f"{kind}/{name}.jsonl" for name in manifest.shards for kind in KINDS} | {NAME, LOCK_FILE, HOLDER_FILE}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.relative_to(folder).as_posix() not in known:
            problems.append(f"{path.relative_to(folder).as_posix()}: not a file of this run")
    return problems


def _file_problems(folder: Path, name: str, row: Mapping[str, Any]) -> Iterable[str]:
    for kind in KINDS:
        path = folder / kind / f"{name}.jsonl"
        try:
            digest = file_sha256(path)
        except OSError as error:
            yield f"{kind}/{name}.jsonl: {error.strerror or error}"
            continue
        if digest != row["sha256"][kind]:
            yield f"{kind}/{name}.jsonl: changed since it was written"


def _line_problems(folder: Path, name: str, row: Mapping[str, Any]) -> Iterable[str]:
    """Each pair of the input stands once, as a line or a failure."""
    try:
        written = sum(_lines(folder / kind / f"{name}.jsonl") for kind in KINDS)
    except OSError:
        return  # said already
    if written != row["counts"]["pairs"]:
        yield f"{name}: {row['counts']['pairs']} pairs of the input, but {written} lines and failures"


def _lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
