"""Writers. Each writes samples in one format and returns what the format could not hold, by kind and number.

Files get their names when they are complete. Json formats name pictures where they lie, relative to the file; pictures
that lie in tars or in memory are copied beside it, as they are into the folder formats.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from openglip.data.files import image_content
from openglip.data.readers.tsv import read_yaml
from openglip.files import StrPath, whole_file
from openglip.structures.boxes import xyxy_to_xywh
from openglip.structures.sample import FileSlice, Sample

Losses = Counter[str]
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML has no sign for: control characters, and the bytes of a file name that is not UTF-8."""


def write_coco(samples: Iterable[Sample], path: StrPath) -> Losses:
    """COCO instances json. Phrases become categories; captions, scores and known absent names are lost."""
    lost, images, annotations, place = Losses(), [], [], _Places(path)
    ids: dict[str, int] = {}
    used: set[int] = set()
    for number, sample in enumerate(samples, start=1):
        _count_lost(sample, lost, "caption", "phrase_spans", "scores", "negatives")
        for name in (*(sample.categories or ()), *sample.names):
            ids.setdefault(name, len(ids) + 1)
        own = sample.image_id if isinstance(sample.image_id, int) else number
        while own in used:
            own += 1
        used.add(own)
        height, width = sample.size
        images.append({"id": own, "file_name": place(sample), "width": width, "height": height})
        if own != sample.image_id:
            lost["image_id"] += 1
        for name, (x, y, w, h) in zip(sample.names, xyxy_to_xywh(sample.boxes.astype(float)).tolist(), strict=True):
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": own, "category_id": ids[name], **box})
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    with whole_file(path) as file:
        json.dump({"images": images, "categories": categories, "annotations": annotations}, file)
    return +lost


def write_odvg(samples: Iterable[Sample], path: StrPath) -> Losses:
    """ODVG lines, and a label map beside them where there are categories. Known absent names are lost."""
    lost, labels, place = Losses(), dict[str, int](), _Places(path)
    with whole_file(path) as file:
        for sample in samples:
            item = odvg_record(sample, place(sample), labels, lost)
            file.write(json.dumps(item) + "\n")
    if labels:
        with whole_file(Path(path).with_name(f"{Path(path).stem}_label_map.json")) as file:
            json.dump({number: name for name, number in labels.items()}, file)
    return +lost


def odvg_record(sample: Sample, place: str, labels: dict[str, int], lost: Losses) -> dict[str, Any]:
    """One sample as an ODVG record; new categories are added to `labels`. A caption goes before categories."""
    height, width = sample.size
    head = {"filename": place, "height": height, "width": width, "image_id": str(sample.image_id)}
    scores = [None] * len(sample) if sample.scores is None else sample.scores.tolist()
    if sample.caption is not None and sample.phrase_spans is not None:
        _count_lost(sample, lost, "labels", "negatives", exhaustive=False)
        regions = [
            {"bbox": box, "phrase": name, "tokens_positive": [list(s) for s in spans], **_score(score)}
            for box, name, spans, score in zip(
                sample.boxes.tolist(), sample.names, sample.phrase_spans, scores, strict=True
            )
        ]
        return {**head, "grounding": {"caption": sample.caption, "regions": regions}}
    _count_lost(sample, lost, "caption", "scores", "negatives")
    for name in sample.categories or ():
        labels.setdefault(name, len(labels))
    boxes = zip(sample.boxes.tolist(), sample.names, strict=True)
    instances = [{"bbox": box, "label": labels.setdefault(n, len(labels)), "category": n} for box, n in boxes]
    return {**head, "detection": {"instances": instances}}


def write_yolo(samples: Iterable[Sample], path: StrPath, *, split: str = "train") -> Losses:
    """One split of a YOLO folder; further ones may be added. Phrases become names; captions, scores, absent names are
    lost.
    """
    root, lost = Path(path), Losses()
    content = read_yaml(root / "data.yaml") if (root / "data.yaml").exists() else {"names": {}}
    labels = {name: number for number, name in content["names"].items()}
    for stem, sample in _numbered(samples):
        _count_lost(sample, lost, "caption", "phrase_spans", "scores", "negatives")
        _copy(sample, root / "images" / split / f"{stem}{_suffix(sample)}")
        height, width = sample.size
        for name in sample.categories or ():
            labels.setdefault(name, len(labels))
        with whole_file(root / "labels" / split / f"{stem}.txt") as file:
            for name, (x1, y1, x2, y2) in zip(sample.names, sample.boxes.tolist(), strict=True):
                place = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                file.write(f"{labels.setdefault(name, len(labels))} {' '.join(f'{v:.9g}' for v in place)}\n")
    with whole_file(root / "data.yaml") as file:
        names = {number: name for name, number in labels.items()}
        content = {**content, split: f"images/{split}", "names": names}
        yaml.safe_dump(content, file, allow_unicode=True, sort_keys=False)
    return +lost


def write_voc(samples: Iterable[Sample], path: StrPath) -> Losses:
    """A VOC folder. Phrases become names; captions, scores, absent names, categories without a box and characters that
    XML can't hold (U+FFFD stands for them) are lost.
    """
    root, lost, used, known = Path(path), Losses(), set[str](), set[str]()
    for stem, sample in _numbered(samples):
        _count_lost(sample, lost, "caption", "phrase_spans", "scores", "negatives")
        name = f"{stem}{_suffix(sample)}"
        _copy(sample, root / "JPEGImages" / name)
        tree = ElementTree.Element("annotation")
        ElementTree.SubElement(tree, "filename").text = _NO_XML.sub("\ufffd", name)  # readers have the stem as well
        _fields(ElementTree.SubElement(tree, "size"), width=sample.size[1], height=sample.size[0], depth=3)
        for word, corners in zip(sample.names, sample.boxes.tolist(), strict=True):
            item = ElementTree.SubElement(tree, "object")
            _fields(item, name=_NO_XML.sub("\ufffd", word), difficult=0)
            box = dict(zip(("xmin", "ymin", "xmax", "ymax"), (f"{v:.9g}" for v in corners), strict=True))
            _fields(ElementTree.SubElement(item, "bndbox"), **box)
        lost["characters"] += any(map(_NO_XML.search, sample.names))
        known.update(sample.categories or ())
        used.update(sample.names)
        with whole_file(root / "Annotations" / f"{stem}.xml") as file:
            file.write(ElementTree.tostring(tree, encoding="unicode"))
    lost["categories"] = len(known - used)
    return +lost


def write_webdataset(samples: Iterable[Sample], path: StrPath, *, per_shard: int = 1000) -> Losses:
    """Tars 000000.tar, ... with pictures and ODVG json, and label_map.json. Known absent names are lost."""
    root, lost, labels = Path(path), Losses(), dict[str, int]()
    shard: list[tuple[str, Sample]] = []
    count = 0
    for item in _numbered(samples, keys=True):
        shard.append(item)
        if len(shard) == per_shard:
            _write_shard(shard, root / f"{count:06d}.tar", labels, lost)
            shard, count = [], count + 1
    if shard or not count:
        _write_shard(shard, root / f"{count:06d}.tar", labels, lost)
    if labels:
        with whole_file(root / "label_map.json") as file:
            json.dump({number: name for name, number in labels.items()}, file)
    return +lost


def write_label_studio(samples: Iterable[Sample], path: StrPath) -> Losses:
    """Label Studio tasks: annotations, or predictions where there are scores. Captions and absent names are lost."""
    lost, tasks, used, known, place = Losses(), [], set[str](), set[str](), _Places(path)
    for number, sample in enumerate(samples, start=1):
        _count_lost(sample, lost, "caption", "phrase_spans", "negatives")
        known.update(sample.categories or ())
        used.update(sample.names)
        own = sample.image_id if isinstance(sample.image_id, int) else number
        results = list(_rectangles(sample))
        kind = "annotations" if sample.scores is None else "predictions"
        tasks.append({"id": own, "data": {"image": place(sample)}, kind: [{"result": results}]})
        if own != sample.image_id:
            lost["image_id"] += 1
    lost["categories"] = len(known - used)
    with whole_file(path) as file:
        json.dump(tasks, file)
    return +lost


WRITERS: dict[str, Callable[[Iterable[Sample], StrPath], Losses]] = {
    "coco": write_coco,
    "odvg": write_odvg,
    "yolo": write_yolo,
    "voc": write_voc,
    "webdataset": write_webdataset,
    "label-studio": write_label_studio,
}


def _count_lost(sample: Sample, lost: Losses, *fields: str, exhaustive: bool = True) -> None:
    """Add 1 for each of the fields that this sample has, and where it becomes exhaustive and was not.

    exhaustive: whether what is written is read so: all but captions that stay captions.
    """
    for field in fields:
        value = getattr(sample, field)
        if value is not None and len(value):
            lost[field] += 1
    if exhaustive and not sample.exhaustive:
        lost["not exhaustive"] += 1


def _score(score: float | None) -> dict[str, float]:
    return {} if score is None else {"score": score}


class _Places:
    """Of a picture its place relative to the file that names it; copied to images/ beside it when it has none."""

    def __init__(self, path: StrPath) -> None:
        self.folder = Path(path).parent
        self.real = cache(_real)
        self.last: Counter[str] = Counter()

    def __call__(self, sample: Sample) -> str:
        if isinstance(sample.image, str):
            # ".." leads out of where a folder really is, whatever link it was reached by; the file keeps its own name
            folder, name = os.path.split(sample.image)
            return Path(os.path.relpath(os.path.join(self.real(folder), name), self.real(str(self.folder)))).as_posix()
        content, name = image_content(sample.image), f"{Path(sample.file_name).stem}{_suffix(sample)}"
        while True:  # several pictures may bear one name, and one picture may come back for its next caption
            number = self.last[name]
            target = self.folder / "images" / (_numbered_name(name, number) if number else name)
            if not target.exists():
                _copy(sample, target)
                break
            if target.read_bytes() == content:
                break
            self.last[name] += 1
        return target.relative_to(self.folder).as_posix()


def _real(folder: str) -> str:
    try:
        return os.path.realpath(folder)
    except ValueError:  # no folder has this name: it holds a zero or half of a surrogate pair
        return os.path.abspath(folder)


def _numbered_name(name: str, number: int) -> str:
    """ "a.jpg" with 1 is "a-2.jpg"."""
    return f"{Path(name).stem}-{number + 1}{Path(name).suffix}"


def _copy(sample: Sample, target: Path) -> None:
    with whole_file(target, "wb") as file:
        file.write(image_content(sample.image))


def _suffix(sample: Sample) -> str:
    """The suffix of the picture's file, told from its first bytes where it has no name."""
    if isinstance(sample.image, bytes) or (isinstance(sample.image, FileSlice) and not sample.image.name):
        head = image_content(sample.image)[:4]
        return ".png" if head == b"\x89PNG" else ".webp" if head == b"RIFF" else ".jpg"
    return Path(sample.file_name).suffix.lower() or ".jpg"


def _numbered(samples: Iterable[Sample], *, keys: bool = False) -> Iterator[tuple[str, Sample]]:
    """Samples with a file stem that no other has: their file's, else with a number. keys: without dots."""
    seen: Counter[str] = Counter()
    used: set[str] = set()
    for sample in samples:
        own = stem = Path(sample.file_name).stem.replace(".", "_" if keys else ".")
        while own in used:
            seen[stem] += 1
            own = f"{stem}-{seen[stem] + 1}"
        used.add(own)
        yield own, sample


def _fields(parent: ElementTree.Element, **values: object) -> None:
    for key, value in values.items():
        ElementTree.SubElement(parent, key).text = str(value)


def _write_shard(shard: list[tuple[str, Sample]], path: Path, labels: dict[str, int], lost: Losses) -> None:
    with whole_file(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for key, sample in shard:
            name = f"{key}{_suffix(sample)}"
            text = json.dumps(odvg_record(sample, name, labels, lost))
            for member, content in ((name, image_content(sample.image)), (f"{key}.json", text.encode())):
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def _rectangles(sample: Sample) -> Iterator[dict[str, Any]]:
    height, width = sample.size
    scores = [None] * len(sample) if sample.scores is None else sample.scores.tolist()
    for number, (name, (x1, y1, x2, y2), score) in enumerate(
        zip(sample.names, sample.boxes.tolist(), scores, strict=True)
    ):
        value = {
            "x": 100 * x1 / width, "y": 100 * y1 / height, "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height, "rotation": 0, "rectanglelabels": [name],
        }  # fmt: skip
        yield {
            "id": str(number), "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value,
            "original_width": width, "original_height": height, "image_rotation": 0, **_score(score),
        }  # fmt: skip
