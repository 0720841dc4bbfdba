"""WebDataset: tars whose members share a name up to the first dot of the last part.

    000123.jpg (or .jpeg, .png, .webp)
    000123.json   an ODVG record (`readers.odvg`), or {"caption" or "text", "width"?, "height"?}
    000123.txt    a caption, where there is no json or none in it

Label names of detection records stand in label_map.json beside the tars, or are taken from the instances. Tars are
uncompressed; pictures are not read: a sample points into its tar, so shuffling across shards is as cheap as reading in
order.
Source: github.com/webdataset/webdataset.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from openglip.data.files import IMAGE_SUFFIXES, decode, image_size, tar_members
from openglip.data.findings import Findings
from openglip.data.readers.annotations import size_of
from openglip.data.readers.odvg import names_in, read_label_map, sample_of
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import FileSlice, Sample

_NO_BOXES = np.zeros((0, 4), np.float32)


def read_webdataset(
    path: StrPath | Sequence[StrPath], *, exhaustive: bool = True, findings: Findings | None = None
) -> Iterator[Sample]:
    """Every picture of one tar, of a folder of tars by their names, or of a list of tars.

    A picture with a caption but without boxes is a sample without boxes (what a teacher labels). Recorded:
    missing_annotation and missing_image (a group without text or picture), malformed (its text can't be used),
    duplicate_id (a name that comes twice in a row; both groups are used). Members whose name begins with a dot are no
    samples. Raises DataError when a tar can't be read.
    """
    report = findings if findings is not None else Findings(keep=False)
    own_names: dict[int, str] = {}
    for shard in shards(path):
        maps = shard.parent / "label_map.json"
        names = read_label_map(maps) if maps.is_file() else None
        for key, members in _groups(shard, report):
            image = next((m for suffix, m in members.items() if suffix in IMAGE_SUFFIXES), None)
            texts = [suffix for suffix in (".json", ".txt") if suffix in members]
            if image is None or not texts:
                kind = "missing_image" if image is None else "missing_annotation"
                report.add(kind, shard, key, f"the group has only {', '.join(members)}")
                continue
            try:
                item = _record(members[texts[0]], texts[0])
                if not {"detection", "grounding", "caption", "text"} & {key for key in item if item[key] is not None}:
                    if ".txt" not in members:
                        raise DataError(f"{members[texts[0]]}: neither caption nor boxes")
                    item = {**item, **_record(members[".txt"], ".txt")}
                if "detection" in item and names is None:
                    names = own_names = own_names or names_in(_records(path))
                if "height" not in item or "width" not in item:
                    item["height"], item["width"] = image_size(image)
                if "detection" in item or "grounding" in item:
                    sample = sample_of({"image_id": key, **item}, image, names or {}, shard, key, exhaustive, report)
                else:
                    caption = str(item.get("caption") or item.get("text") or "")
                    size = size_of(item["height"], item["width"]) or image_size(image)
                    sample = Sample(image, size, _NO_BOXES, caption, (), image_id=key)
            except DataError as error:
                report.add("malformed", shard, key, str(error))
                continue
            if sample is not None:
                yield dataclasses.replace(sample, source=shard.stem)
    if findings is None:
        report.log(path)


def shards(path: StrPath | Sequence[StrPath]) -> list[Path]:
    """The tars of a path. Raises DataError when there is none."""
    if isinstance(path, list | tuple):
        return [Path(p) for p in path]
    place = Path(path)  # type: ignore[arg-type]
    found = sorted(place.glob("*.tar")) if place.is_dir() else [place]
    if not found:
        raise DataError(f"{place}: no *.tar in it")
    return found


def _records(path: StrPath | Sequence[StrPath]) -> Iterator[dict[str, Any]]:
    """Every json of the tars that can be read."""
    for shard in shards(path):
        for member in _members(shard):
            if member.name.endswith(".json"):
                with suppress(DataError):
                    yield _record(member, ".json")


def _members(shard: Path) -> Iterator[FileSlice]:
    """The members of a tar but for hidden ones: macOS writes ._a.jpg for what it knows of a.jpg."""
    return (member for member in tar_members(shard) if not member.name.rpartition("/")[2].startswith("."))


def _groups(shard: Path, findings: Findings) -> Iterator[tuple[str, dict[str, FileSlice]]]:
    """Runs of neighbouring members with one key, as suffix to member; where a suffix comes again, a new one begins."""
    key, group = "", {}
    for member in _members(shard):
        folder, _, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        own = f"{folder}/{stem}" if folder else stem
        suffix = f".{suffix.lower()}"
        again = own == key and suffix in group
        if again:
            findings.add("duplicate_id", shard, own, f"{member.name} comes twice in a row")
        if (own != key and group) or again:
            yield key, group
            group = {}
        key = own
        group[suffix] = member
    if group:
        yield key, group


def _record(member: FileSlice, suffix: str) -> dict[str, Any]:
    text = decode(member.read(), member)
    if suffix == ".txt":
        return {"caption": text.strip()}
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{member}: not json: {error.msg}") from error
    if not isinstance(content, dict):
        raise DataError(f"{member}: no object")
    return content
