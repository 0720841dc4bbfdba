"""manifest.json of a labelling run: settings, a row per finished shard, its digest; and the check of a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openglip.errors import ConfigError, DataError
from openglip.files import HOLDER_FILE, LOCK_FILE, StrPath, file_sha256, whole_file
from openglip.labelling.shards import Counts

NAME = "manifest.json"
KINDS = ("shards", "failures")


class Manifest:
    """The record of a labelling run, and what `openglip.label` returns.

    Args:
        folder: The folder of the run.
        settings: What its output depends on.
        planned: Names of all shards.

    Attributes:
        shards: Rows of the finished shards by name: digests, counts, times.
        failed: Reasons by the names of the shards that could not be processed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], planned: Iterable[str]) -> None:
        self.folder, self.settings, self.planned = folder, dict(settings), list(planned)
        self.shards: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}

    @classmethod
    def load(cls, folder: StrPath) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            DataError: It is missing, damaged or was changed.
        """
        path = Path(folder) / NAME
        try:
            content = path.read_bytes()
            top = json.loads(content)
            manifest = cls(Path(folder), top["settings"], top["planned"])
            manifest.shards, manifest.failed = top["shards"], top["failed"]
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a manifest of a labelling run: {error}") from error
        if manifest._content() != content:
            raise DataError(f"{path}: changed since it was written, its digest does not fit")
        return manifest

    def save(self) -> None:
        """Replace the file as a whole."""
        with whole_file(self.folder / NAME, "wb") as file:
            file.write(self._content())

    def _content(self) -> bytes:
        top = {
            "format": 1,
            "settings": self.settings,
            "planned": self.planned,
            "shards": {name: self.shards[name] for name in self.planned if name in self.shards},
            "failed": {name: self.failed[name] for name in self.planned if name in self.failed},
            "totals": self.totals(),
        }
        digest = hashlib.sha256(json.dumps(top, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
        return json.dumps({**top, "sha256": digest}, ensure_ascii=False, indent=1).encode() + b"\n"

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError, which names the first setting that differs, unless these are the settings of the run."""
        settings = json.loads(json.dumps(settings))  # as the file holds them
        for key in [*self.settings, *settings]:
            old, new = self.settings.get(key), settings.get(key)
            if old != new:
                raise ConfigError(
                    f"{self.folder} holds a run with {key} = {_short(old)}, not {_short(new)}: "
                    "use its settings to continue it, or another --output"
                )

    def is_done(self, name: str) -> bool:
        """Whether the files of a shard are as they were written."""
        return name in self.shards and not list(_file_problems(self.folder, name, self.shards[name]))

    def totals(self) -> dict[str, Any]:
        """The counts of all finished shards; see `Counts`."""
        counts = Counts()
        for row in self.shards.values():
            counts.add(row["counts"])
        return counts.as_dict()

    @property
    def figures(self) -> dict[str, int]:
        """Numbers of pairs, pictures, lines, phrases and boxes."""
        return {name: count for name, count in self.totals().items() if isinstance(count, int)}

    def status(self) -> dict[str, Any]:
        """What `openglip label status --json` prints: progress, settings, totals and rates."""
        counts, rows = self.totals(), self.shards.values()
        seconds = sum(row["seconds"] for row in rows)
        spent = {key: sum(row["cpu_seconds"][key] for row in rows) for key in ("model", "reading", "outside")}
        pictures = counts["pictures"]
        return {
            "planned": len(self.planned),
            "done": len(self.shards),
            "failed": self.failed,
            "settings": self.settings,
            "totals": counts,
            "pairs_per_worker_second": counts["pairs"] / seconds if seconds else None,
            "cpu_milliseconds_per_picture": {k: 1000 * s / pictures for k, s in spent.items()} if pictures else None,
        }


def verify(folder: StrPath) -> list[str]:
    """Check every file of a run against its manifest; nothing but the folder is needed.

    Returns:
        The problems: a changed, missing or foreign file, an unfinished shard.

    Raises:
        DataError: There is no manifest.
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
    expected = {f"{kind}/{name}.jsonl" for name in manifest.shards for kind in KINDS} | {NAME, LOCK_FILE, HOLDER_FILE}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.relative_to(folder).as_posix() not in expected:
            problems.append(f"{path.relative_to(folder).as_posix()}: not a file of this run")
    return problems


def _file_problems(folder: Path, name: str, row: Mapping[str, Any]) -> Iterator[str]:
    for kind in KINDS:
        path = folder / kind / f"{name}.jsonl"
        try:
            digest = file_sha256(path)
        except OSError as error:
            yield f"{kind}/{name}.jsonl: {error.strerror or error}"
            continue
        if digest != row["sha256"][kind]:
            yield f"{kind}/{name}.jsonl: changed since it was written"


def _line_problems(folder: Path, name: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Each pair of the input must occur once, as a line or as a failure."""
    try:
        written = sum(_count_lines(folder / kind / f"{name}.jsonl") for kind in KINDS)
    except OSError:
        return  # `_file_problems` reports it
    if written != row["counts"]["pairs"]:
        yield f"{name}: {row['counts']['pairs']} pairs of the input, but {written} lines and failures"


def _count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
