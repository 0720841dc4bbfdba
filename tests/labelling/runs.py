"""A labelling run with the stub, and what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from labelling.stub import fast

from openglip.labelling.manifest import Manifest
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings

RULES = LabelSettings(chunker="rules")


def run_stub(source: Any, output: Path, **options: Any) -> Manifest:
    return label(source, output, **({"model": fast, "workers": 0, "shard_size": 8, "labels": RULES} | options))


def files_of(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, which holds times."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def lines_of(folder: Path, kind: str = "shards") -> list[dict]:
    return [json.loads(line) for p in sorted((folder / kind).iterdir()) for line in p.read_text().splitlines()]
