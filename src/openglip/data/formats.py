"""Which format a path holds, and its named splits. docs/formats.md shows each layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from openglip.data.files import read_json
from openglip.data.findings import Findings
from openglip.data.readers.caption_tsv import read_caption_tsv
from openglip.data.readers.coco import read_coco
from openglip.data.readers.flickr30k import read_flickr30k
from openglip.data.readers.label_studio import read_label_studio
from openglip.data.readers.lvis import read_lvis
from openglip.data.readers.mdetr import read_mdetr
from openglip.data.readers.objects365 import read_objects365, read_objects365_tsv
from openglip.data.readers.odvg import read_odvg
from openglip.data.readers.openimages import read_openimages
from openglip.data.readers.parquet import read_parquet
from openglip.data.readers.tsv import TsvFile, read_tsv_set, read_yaml
from openglip.data.readers.visual_genome import read_visual_genome
from openglip.data.readers.voc import read_voc
from openglip.data.readers.webdataset import read_webdataset
from openglip.data.readers.yolo import SPLITS, read_yolo, yolo_yaml
from openglip.errors import ConfigError, DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample

Reader = Callable[[Path, StrPath | None, Findings], Iterable[Sample]]


@dataclass(frozen=True)
class Split:
    """A part of a data set that is not read yet; called with a collector of findings it gives its samples."""

    format: str
    path: Path
    read: Callable[[Findings], Iterable[Sample]]

    def __call__(self, findings: Findings) -> Iterable[Sample]:
        return self.read(findings)


READERS: dict[str, Reader] = {
    "coco": lambda path, images, findings: read_coco(path, images, findings=findings),
    "lvis": lambda path, images, findings: read_lvis(path, images, findings=findings),
    "objects365": lambda path, images, findings: read_objects365(path, images, findings=findings),
    "objects365-tsv": lambda path, _, findings: read_objects365_tsv(path, findings=findings),
    "openimages": lambda path, images, findings: read_openimages(
        path, images or path.parent, image_labels=_image_labels(path), findings=findings
    ),
    "visual-genome": lambda path, images, findings: read_visual_genome(path, images, findings=findings),
    "mdetr": lambda path, images, findings: read_mdetr(path, images, findings=findings),
    "odvg": lambda path, images, findings: read_odvg(path, images, findings=findings),
    "flickr30k": lambda path, images, findings: read_flickr30k(path, images, findings=findings),
    "caption-tsv": lambda path, _, findings: read_caption_tsv(path, findings=findings),
    "webdataset": lambda path, _, findings: read_webdataset(path, findings=findings),
    "parquet": lambda path, _, findings: read_parquet(path, findings=findings),
    "yolo": lambda path, _, findings: read_yolo(path, findings=findings),
    "voc": lambda path, images, findings: read_voc(path, images, findings=findings),
    "label-studio": lambda path, images, findings: read_label_studio(path, images, findings=findings),
}


def open_splits(path: StrPath, format: str | None = None, images: StrPath | None = None) -> dict[str, Split]:
    """The splits of a path by their names.

    A folder may hold several splits (train.json and val.json, YOLO's yaml, folders train and val); a file is one, named
    after itself, with its suffix where two would have one name. Raises DataError when nothing is there, ConfigError
    when the format is unknown or can't be told.
    """
    place = Path(path)
    if not place.exists():
        raise DataError(f"{path}: no such file or folder")
    if format is not None and format not in READERS:
        raise ConfigError(f"there is no format {format!r}; known are {', '.join(READERS)}")
    name = format or sniff(place)
    if name is None:
        parts = _parts(place)
        if not parts:
            raise ConfigError(f"{path}: can't tell the format, give one of {', '.join(READERS)}")
        opened = {key: open_splits(part, None, images) for key, part in parts.items()}
        return {
            key if len(own) == 1 else f"{key}/{inner}": split
            for key, own in opened.items()
            for inner, split in own.items()
        }
    return {key: Split(name, place, read) for key, read in _splits(name, place, images).items()}


def sniff(path: Path) -> str | None:
    """The format of a file or of a folder that is one data set; None when it can't be told."""
    if path.is_dir():
        return _sniff_folder(path)
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        content = read_yaml(path)
        return "yolo" if "names" in content else _sniff_tsv(path) if "label" in content else None
    if suffix == ".json":
        return _sniff_json(path)
    if suffix == ".csv":
        return "openimages" if "annotations-bbox" in path.name else None
    return {".jsonl": "odvg", ".odvg": "odvg", ".tar": "webdataset", ".parquet": "parquet"}.get(suffix)


def _sniff_folder(path: Path) -> str | None:
    has = {p.name for p in path.iterdir()}
    if {"Sentences", "Sentences.tar"} & has and {"Annotations", "Annotations.tar"} & has:
        return "flickr30k"
    if {"data.yaml", "data.yml", "dataset.yaml"} & has:
        return "yolo"
    if {"image_data.json", "objects.json"} <= has:
        return "visual-genome"
    if any(path.glob("Annotations/*.xml")) or any(path.glob("*.xml")):
        return "voc"
    if not any(path.glob("annotations/*.json")) and not any(path.glob("*.json*")) and any(path.glob("*.parquet")):
        return "parquet"
    has_json = any(p.name != "label_map.json" for p in [*path.glob("annotations/*.json"), *path.glob("*.json*")])
    return "webdataset" if any(path.glob("*.tar")) and not has_json else None


def _sniff_json(path: Path) -> str | None:
    try:
        content = read_json(path)
    except DataError:
        return "coco"  # whose reader then says what is wrong with it
    if isinstance(content, list):
        return "label-studio" if content and isinstance(content[0], dict) and "data" in content[0] else None
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    images = content["images"]
    first = images[0] if isinstance(images, list) and images and isinstance(images[0], dict) else {}
    if "caption" in first:
        return "mdetr"
    annotations = content["annotations"]
    one = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(one, dict) and "caption" in one and "bbox" not in one:
        return None  # COCO's captions: no boxes
    return "lvis" if "neg_category_ids" in first else "coco"


def _sniff_tsv(path: Path) -> str | None:
    files = read_tsv_set(path).files
    if "label" not in files:
        raise DataError(f"{path}: label names no file; a set has one, so give a yaml to each of several")
    labels = TsvFile(files["label"], make_index=True)
    for number in range(len(labels)):
        try:
            row = labels.parsed(number)
        except DataError:
            continue  # said when it is read
        return "caption-tsv" if isinstance(row, dict) and "caption" in row else "objects365-tsv"
    return "objects365-tsv"


def _parts(path: Path) -> dict[str, Path]:
    """The data sets inside a folder that is none itself: annotation files, else folders one level down."""
    if not path.is_dir():
        return {}
    files = [
        p for pattern in ("annotations/*.json", "*.json", "*.jsonl", "*.csv", "*.yaml") for p in path.glob(pattern)
    ]
    if any(p.name.startswith("instances_") for p in files):  # COCO as it is unzipped: the same pictures, other labels
        files = [p for p in files if not p.name.startswith("person_keypoints_")]
    files = [p for p in sorted(files) if sniff(p)]
    stems = [p.stem.removeprefix("instances_") for p in files]
    found = {  # train.json and train.jsonl are two
        stem if stems.count(stem) == 1 else p.relative_to(path).as_posix(): p
        for stem, p in zip(stems, files, strict=True)
    }
    return found or {p.name: p for p in sorted(path.iterdir()) if p.is_dir() and (_sniff_folder(p) or _parts(p))}


def _splits(name: str, path: Path, images: StrPath | None) -> dict[str, Callable[[Findings], Iterable[Sample]]]:
    if name == "yolo":
        file = yolo_yaml(path)
        present = [split for split in SPLITS if read_yaml(file).get(split)]
        if not present:
            raise DataError(f"{file}: names none of {', '.join(SPLITS)}")
        return {split: lambda findings, s=split: read_yolo(file, s, findings=findings) for split in present}
    if name == "voc" and (path / "ImageSets" / "Main").is_dir():
        lists = {p.stem for p in (path / "ImageSets" / "Main").glob("*.txt")}
        # lists per class repeat the pictures of these, "trainval" those of train and val
        whole = () if {"train", "val"} & lists else ("trainval",)
        present = [split for split in (*SPLITS, *whole) if split in lists]
        if present:
            return {s: lambda findings, s=s: read_voc(path, images, split=s, findings=findings) for s in present}
    if name == "parquet" and path.is_dir():
        parts: dict[str, list[Path]] = {}
        for file in sorted(path.glob("*.parquet")):  # train-00000-of-00002.parquet
            parts.setdefault(re.sub(r"-\d+-of-\d+$", "", file.stem), []).append(file)
        if len(parts) > 1 and all(any(split in key for split in SPLITS) for key in parts):
            return {key: lambda findings, own=own: read_parquet(own, findings=findings) for key, own in parts.items()}
    stem = path.stem if path.is_file() else path.name
    return {stem.removeprefix("instances_"): lambda findings: READERS[name](path, images, findings)}


def _image_labels(path: Path) -> Path | None:
    """The csv of verified labels of the same split; one that names no split, if there is none of it."""
    files = sorted(path.parent.glob("*imagelabels*.csv"))
    own = next((split for split in SPLITS if split in path.name), None)
    same = [f for f in files if own is not None and own in f.name]
    return next(iter(same or [f for f in files if not any(s in f.name for s in SPLITS)]), None)
