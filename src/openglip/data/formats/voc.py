"""Pascal VOC folders.

    ROOT/Annotations/ID.xml      <filename>, <size>, <object><name><bndbox><xmin> ...
    ROOT/JPEGImages/ID.jpg       or images/, next to the XML files, or a folder or tar given
    ROOT/ImageSets/Main/train.txt   ids of a split, optional

Also a folder of XML files alone. The image is ID.jpg, even where <filename> has another name (images that were
renamed); without it the one that <filename> names. Corners are taken as they are; one_based: the official sets count
pixels from 1 and include the last, so 1 is subtracted from x1 and y1. Difficult objects stay. Names are those that
occur; all objects of them are taken to be labelled.
Source: host.robots.ox.ac.uk/pascal/VOC.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from openglip.data.annotations import Boxes, header_size, size_of
from openglip.data.files import Files, read_lines
from openglip.data.findings import Findings, collector
from openglip.data.format import SPLITS, Format, Losses, SplitRead
from openglip.data.writing import copy_image, count_lost, image_suffix, numbered_stems
from openglip.errors import DataError
from openglip.files import FileSlice, StrPath, whole_file
from openglip.images.read import image_suffixes
from openglip.structures.sample import Sample

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML can't hold: control characters, and the bytes of a file name that is not UTF-8."""
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    root: StrPath,
    images: StrPath | None = None,
    findings: Findings | None = None,
    *,
    split: str | None = None,
    names: Sequence[str] | None = None,
    one_based: bool = False,
) -> Iterator[Sample]:
    """Every annotation by its name, or those of a split in its order.

    Recorded: unmapped_class (a name that is not in `names`), missing_annotation, unparsable (one XML file),
    duplicate_id (another XML file has this image, which stays).

    Args:
        root: Folder with Annotations/, or of XML files.
        images: Folder or tar of the images; None searches below and above the root.
        findings: Collects what is left out; None logs it.
        split: A list of ImageSets/Main; None reads every XML file.
        names: The categories; None takes all names of these files in alphabetical order.
        one_based: Pixels are counted from 1, as in the official sets.

    Raises:
        DataError: There are no XML files.
    """
    report = collector(findings)
    root = Path(root)
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = _images(root, images)
    trees = list(_trees(root, folder, split, report))
    categories = (
        tuple(names) if names else tuple(sorted({_name(item) for _, t in trees for item in t.findall("object")}))
    )
    index = {name: i for i, name in enumerate(categories)}
    by_stem = files.by_stem()
    image_of = {file: _image(files, by_stem, file.stem, tree.findtext("filename", "")) for file, tree in trees}
    if split is None and images is None:
        annotated = {file.stem for file in folder.glob("*.xml")} | {_stem(image) for image in image_of.values()}
        for stem in by_stem.keys() - annotated:
            report.add("missing_annotation", str(by_stem[stem]), stem, "there is no xml for this image")
    owners: dict[str | FileSlice, Path] = {}
    for file, image in image_of.items():
        if image not in owners or _stem(image) == file.stem:
            owners[image] = file
    for file, tree in trees:
        image = image_of[file]
        if owners[image] != file:
            report.add("duplicate_id", file, file.stem, f"its image {image} is that of {owners[image].name}")
            continue
        size = _size(tree) or header_size(image, report, file, file.stem)
        if size is None:
            continue
        boxes = Boxes(file, file.stem, report)
        for item in tree.findall("object"):
            name = _name(item)
            if name in index:
                boxes.add(_corners(item, one_based), name)
            else:
                boxes.report("unmapped_class", f"there is no category {name!r}")
        yield boxes.sample(image, size, index, categories=categories, exhaustive=True, source=root.name)
    report.done(root)


def _trees(
    root: Path, folder: Path, split: str | None, findings: Findings
) -> Iterator[tuple[Path, ElementTree.Element]]:
    if split is None:
        files = sorted(folder.glob("*.xml"))
    else:
        ids = read_lines(root / "ImageSets" / "Main" / f"{split}.txt")
        # lists of a class have a number behind the id
        files = [
            f if os.path.isfile(f := folder / f"{line}.xml") else folder / f"{line.split()[0]}.xml" for line in ids
        ]
    if not files:
        raise DataError(f"{folder}: no *.xml in it")
    for file in files:
        try:
            yield file, ElementTree.parse(file).getroot()
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: encodings it does not know
            findings.add("unparsable", file, file.stem, f"not xml: {error}")
        except OSError as error:
            findings.add("missing_annotation", file, file.stem, str(error.strerror or error))


def _images(root: Path, images: StrPath | None) -> Files:
    if images is not None:
        return Files(images)
    for folder in (base / name for base in (root, root.parent) for name in ("JPEGImages", "images")):
        if folder.is_dir() and any(f.suffix.lower() in image_suffixes() for f in folder.rglob("*")):
            return Files(folder)
    for folder in (root, root.parent.parent / root.name):
        if folder.is_dir() and any(f.suffix.lower() in image_suffixes() for f in folder.iterdir()):
            return Files(folder)
    return Files(root)


def _image(files: Files, by_stem: Mapping[str, str | FileSlice], stem: str, name: str) -> str | FileSlice:
    named = files.find(name)
    if named is not None and _stem(named) == stem:
        return named
    return by_stem.get(stem) or named or str(files.path / (name or f"{stem}.jpg"))


def _stem(image: str | FileSlice) -> str:
    return Path(image if isinstance(image, str) else image.name).stem


def _name(item: ElementTree.Element) -> str:
    return item.findtext("name", "").strip()


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    return size_of(tree.findtext("size/height"), tree.findtext("size/width"))


def _corners(item: ElementTree.Element, one_based: bool) -> list[float]:
    try:
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{key}", "nan")) for key in _CORNERS)
    except ValueError:
        return [float("nan")] * 4
    return [x1 - one_based, y1 - one_based, x2, y2]


def _splits(path: Path, images: StrPath | None) -> dict[str, SplitRead]:
    lists = {p.stem for p in (path / "ImageSets" / "Main").glob("*.txt")}
    # lists of a class repeat the images of these, and "trainval" those of train and val
    whole = () if {"train", "val"} & lists else ("trainval",)
    return {s: partial(read_voc, path, images, split=s) for s in (*SPLITS, *whole) if s in lists}


def write_voc(samples: Iterable[Sample], path: StrPath) -> Losses:
    """Write a VOC folder.

    Phrases become names. Lost: captions, scores, negatives, categories without a box, and characters that XML can't
    hold, for which U+FFFD is written.
    """
    root, lost, used, categories = Path(path), Losses(), set[str](), set[str]()
    for stem, sample in numbered_stems(samples):
        count_lost(sample, lost, "caption", "phrase_spans", "scores", "negatives")
        name = f"{stem}{image_suffix(sample)}"
        copy_image(sample, root / "JPEGImages" / name)
        tree = ElementTree.Element("annotation")
        ElementTree.SubElement(tree, "filename").text = _NO_XML.sub("\ufffd", name)  # readers have the stem as well
        _fields(ElementTree.SubElement(tree, "size"), width=sample.size[1], height=sample.size[0], depth=3)
        for word, corners in zip(sample.names, sample.boxes.tolist(), strict=True):
            item = ElementTree.SubElement(tree, "object")
            _fields(item, name=_NO_XML.sub("\ufffd", word), difficult=0)
            box = dict(zip(_CORNERS, (f"{v:.9g}" for v in corners), strict=True))
            _fields(ElementTree.SubElement(item, "bndbox"), **box)
        lost["characters"] += any(map(_NO_XML.search, sample.names))
        categories.update(sample.categories or ())
        used.update(sample.names)
        with whole_file(root / "Annotations" / f"{stem}.xml") as file:
            file.write(ElementTree.tostring(tree, encoding="unicode"))
    lost["categories"] = len(categories - used)
    return +lost


def _fields(parent: ElementTree.Element, **values: object) -> None:
    for key, value in values.items():
        ElementTree.SubElement(parent, key).text = str(value)


VOC = Format(
    "voc", read_voc, lambda candidate: candidate.has("Annotations/*.xml", "*.xml"), splits=_splits, write=write_voc
)
