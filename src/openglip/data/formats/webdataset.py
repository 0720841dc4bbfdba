"""WebDataset: tars whose members share a name up to the first dot of the last part.

    000123.jpg (or .jpeg, .png, .webp)
    000123.json   an ODVG record (`odvg`), or {"caption", "text" or "TEXT", "width"?, "height"?}
    000123.txt    a caption (or .caption); it goes before that of a json without boxes

Label names of detection records are in label_map.json next to the tars, or are taken from the instances. Tars are
uncompressed; images are not read: a sample points into its tar, so shuffling across shards is as cheap as reading in
order. Tables that img2dataset writes next to its tars (NAME.parquet, NAME_stats.json) are passed over.
Source: github.com/webdataset/webdataset.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from openglip.data.annotations import Boxes, size_of
from openglip.data.files import decode, files_of, image_content, image_size, tar_members
from openglip.data.findings import Findings, collector
from openglip.data.format import Candidate, Format, Losses, Pair
from openglip.data.formats.captions import caption_in, parse_caption
from openglip.data.formats.odvg import Records, names_in, odvg_record, read_label_map, write_label_map
from openglip.data.writing import image_suffix, numbered_stems
from openglip.errors import DataError
from openglip.files import FileSlice, StrPath, whole_file
from openglip.images.read import image_suffixes
from openglip.structures.sample import Sample

SHARD_SIZE = 1000
_TEXTS = (".txt", ".caption", ".json")  # the first that a group has holds its caption


def read_webdataset(
    path: StrPath | Sequence[StrPath], findings: Findings | None = None, *, exhaustive: bool = True
) -> Iterator[Sample]:
    """Every image of one tar, of a folder of tars by their names, or of a list of tars.

    An image with a caption but without boxes is a sample without boxes (for a teacher to label). Members whose name
    begins with a dot are no samples. Recorded: missing_annotation and missing_image (a group without text or image),
    malformed (its text can't be used), duplicate_id (a name that comes twice in a row; both groups are used).

    Args:
        path: A tar, a folder of tars, or a list of tars.
        findings: Collects what is left out; None logs it.
        exhaustive: Detection records label every object of the label map.

    Raises:
        DataError: A tar can't be read.
    """
    report = collector(findings)
    instance_names: dict[int, str] = {}
    for shard in files_of(path, ".tar"):
        maps = shard.parent / "label_map.json"
        names = read_label_map(maps) if maps.is_file() else None
        for key, members in groups(shard, report):
            image, texts = _image(members), [members[suffix] for suffix in _TEXTS if suffix in members]
            if image is None or not texts:
                kind = "missing_image" if image is None else "missing_annotation"
                report.add(kind, shard, key, f"the group has only {', '.join(members)}")
                continue
            try:
                item = _json(members[".json"]) if ".json" in members else {}
                if "detection" in item and names is None:
                    names = instance_names = instance_names or names_in(_records(path))
                records = Records(shard, names or {}, exhaustive, report)
                sample = _sample(item, image, texts[0], key, records)
            except DataError as error:
                report.add("malformed", shard, key, str(error))
                continue
            if sample is not None:
                yield dataclasses.replace(sample, source=shard.stem)
    report.done(path)


def groups(shard: Path, findings: Findings) -> Iterator[tuple[str, dict[str, FileSlice]]]:
    """Runs of neighbouring members with one key, as suffix to member; a suffix that comes again begins a new run.

    Raises:
        DataError: The tar breaks off; the groups before that have been returned.
    """
    key, group, damage = "", dict[str, FileSlice](), None
    try:
        for member in tar_members(shard):
            folder, _, name = member.name.rpartition("/")
            if name.startswith("."):  # macOS writes ._a.jpg with what it stores about a.jpg
                continue
            stem, _, suffix = name.partition(".")
            member_key = f"{folder}/{stem}" if folder else stem
            suffix = f".{suffix.lower()}"
            again = member_key == key and suffix in group
            if again:
                findings.add("duplicate_id", shard, member_key, f"{member.name} comes twice in a row")
            if (member_key != key and group) or again:
                yield key, group
                group = {}
            key = member_key
            group[suffix] = member
    except DataError as error:
        damage = error
    if group:
        yield key, group
    if damage is not None:
        raise damage


def _image(members: Mapping[str, FileSlice]) -> FileSlice | None:
    return next((member for suffix, member in members.items() if suffix in image_suffixes()), None)


def _sample(item: dict[str, Any], image: FileSlice, text: FileSlice, key: str, records: Records) -> Sample | None:
    if "detection" in item or "grounding" in item:
        if "height" not in item or "width" not in item:
            item["height"], item["width"] = image_size(image)
        return records.sample({"image_id": key, **item}, image, key)
    caption = _caption(text)
    if caption is None:
        raise DataError(f"{text}: neither caption nor boxes")
    size = size_of(item.get("height"), item.get("width")) or image_size(image)
    return Boxes(records.path, key, records.findings).sample(image, size, caption=caption)


def _caption(text: FileSlice) -> str | None:
    content = decode(text.read(), text)
    if not text.name.lower().endswith(".json"):
        return content.strip()
    item = parse_caption(content, text)
    grounding = item.get("grounding")
    return caption_in(grounding if isinstance(grounding, dict) else item)


def _json(member: FileSlice) -> dict[str, Any]:
    return parse_caption(decode(member.read(), member), member)


def _records(path: StrPath | Sequence[StrPath]) -> Iterator[dict[str, Any]]:
    """Every JSON member of the tars that can be read."""
    for shard in files_of(path, ".tar"):
        for _, members in groups(shard, Findings(keep=False)):
            if ".json" in members:
                with suppress(DataError):
                    yield _json(members[".json"])


def _pairs(path: Path, _: StrPath | None) -> Iterator[Pair]:
    """Every group of a tar."""
    for key, members in groups(path, Findings(keep=False)):
        image = _image(members)
        if image is None:
            yield Pair(key, error="no picture of this name in the archive")
            continue
        text = next((members[suffix] for suffix in _TEXTS if suffix in members), None)
        try:
            caption = None if text is None else _caption(text) or ""
        except DataError as error:
            yield Pair(image.name, image, error=f"unreadable caption: {error}")
        else:
            yield Pair(image.name, image, caption, key)


def _is_webdataset(candidate: Candidate) -> bool:
    if not candidate.is_folder:
        return candidate.suffix == ".tar"
    tars = {name.removesuffix(".tar") for name in candidate.names if name.endswith(".tar")}
    others = {name for name in candidate.names if name.endswith((".json", ".jsonl"))}
    others -= {"label_map.json", *(f"{tar}_stats.json" for tar in tars)}
    return bool(tars) and not others and not candidate.has("annotations/*.json")


def write_webdataset(samples: Iterable[Sample], path: StrPath, *, per_shard: int = SHARD_SIZE) -> Losses:
    """Write tars 000000.tar, ... with images and ODVG JSON, and label_map.json. Negatives are lost."""
    root, lost, labels = Path(path), Losses(), dict[str, int]()
    shard: list[tuple[str, Sample]] = []
    count = 0
    for item in numbered_stems(samples, dots=False):
        shard.append(item)
        if len(shard) == per_shard:
            _write_shard(shard, root / f"{count:06d}.tar", labels, lost)
            shard, count = [], count + 1
    if shard or not count:
        _write_shard(shard, root / f"{count:06d}.tar", labels, lost)
    write_label_map(labels, root / "label_map.json")
    return +lost


def _write_shard(shard: list[tuple[str, Sample]], path: Path, labels: dict[str, int], lost: Losses) -> None:
    with whole_file(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for key, sample in shard:
            name = f"{key}{image_suffix(sample)}"
            text = json.dumps(odvg_record(sample, name, labels, lost))
            for member, content in ((name, image_content(sample.image)), (f"{key}.json", text.encode())):
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


WEBDATASET = Format(
    "webdataset",
    lambda path, _, findings: read_webdataset(path, findings),
    _is_webdataset,
    write=write_webdataset,
    pairs=_pairs,
    scaled=True,
)
