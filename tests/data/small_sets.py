"""Small data sets for tests: files in the real layout of each format."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openglip.data.findings import Findings
from openglip.data.formats import FORMATS
from openglip.data.reading import open_splits
from openglip.structures.sample import Sample

WRITABLE = {format.name: format for format in FORMATS if format.write is not None}
OBJECT = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"


def encoded(seed: int = 0, size: tuple[int, int] = (100, 80), **options: Any) -> bytes:
    """A JPEG of `size` (width, height); seeds give photos that do not look alike."""
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def write(path: Path, content: object) -> Path:
    """Write bytes or text as they are, and anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)).encode()
    path.write_bytes(content)
    return path


def write_lines(path: Path, *items: object) -> Path:
    """JSON lines."""
    return write(path, "".join(json.dumps(item) + "\n" for item in items))


def write_tar(path: Path, members: Mapping[str, object] | Iterable[tuple[str, object]]) -> Path:
    """A tar of files that hold bytes, or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def write_tsv(path: Path, rows: list[list[str]]) -> Path:
    """A TSV and its lineidx."""
    lines = ["\t".join(row) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode())
    offsets = np.cumsum([0, *(len(line.encode()) for line in lines[:-1])])
    path.with_suffix(".lineidx").write_text("".join(f"{offset}\n" for offset in offsets))
    return path


def tsv_set(folder: Path, labels: list[str], images: list[str], *, hw: bool = True) -> Path:
    """The YAML of a TSV set of the category "cat", from label rows and images in base64."""
    write_tsv(folder / "img.tsv", [[f"k{i}", image] for i, image in enumerate(images)])
    write_tsv(folder / "label.tsv", [[f"k{i}", label] for i, label in enumerate(labels)])
    write_tsv(folder / "hw.tsv", [[f"k{i}", "80 100"] for i in range(len(labels))])
    write(folder / "map.json", {"cat": 1})
    sizes = "hw: hw.tsv\n" if hw else ""
    return write(folder / "set.yaml", f"img: img.tsv\nlabel: label.tsv\nlabelmap: map.json\n{sizes}")


def broken_rows(folder: Path) -> Path:
    """A TSV set of four rows: k1 has a label that is not JSON, k2 an image that is not base64."""
    label, image = json.dumps([{"class": "cat", "rect": [1, 2, 30, 40]}]), base64.b64encode(encoded()).decode()
    return tsv_set(folder, [label, "[oops", label, label], [image, image, "abc", image])


def write_coco_json(path: Path, *images: tuple[Any, str], boxes: bool = True, **more: object) -> Path:
    """COCO instances of images (id, file name) of 100 x 80, each with a cat."""
    content = {
        "images": [{"id": i, "file_name": name, "width": 100, "height": 80} for i, name in images],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": 1, "bbox": [1, 2, 30, 40]} for n, (i, _) in enumerate(images)
        ]
        if boxes
        else [],
    }
    return write(path, content | more)


def voc_xml(filename: str, width: object = 100, height: object = 80, objects: str = OBJECT) -> str:
    """A VOC annotation."""
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    return f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>"


def odvg_line(filename: str = "a.jpg", **instance: object) -> dict[str, Any]:
    """An ODVG detection record with one box."""
    item = {"bbox": [1, 2, 30, 40], "label": 0, **instance}
    return {"filename": filename, "height": 80, "width": 100, "detection": {"instances": [item]}}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as a parquet file."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def read_all(path: Path, images: Path | None = None) -> tuple[dict[str, list[Sample]], Findings]:
    """All samples of a path by split, and what is left out."""
    findings = Findings()
    return {name: list(split.read(findings)) for name, split in open_splits(path, None, images).items()}, findings


def read_only(path: Path, images: Path | None = None) -> tuple[list[Sample], Findings]:
    """The samples of the only split of a path, and what is left out."""
    splits, findings = read_all(path, images)
    (samples,) = splits.values()
    return samples, findings


def format_of(path: Path) -> str:
    """The name of the format that the first split of a path has."""
    return next(iter(open_splits(path).values())).format.name


def written_path(folder: Path, format: str) -> Path:
    """A path that a format writes to."""
    suffixes = WRITABLE[format].suffixes
    return folder / f"o{suffixes[0]}" if suffixes else folder / "set"
