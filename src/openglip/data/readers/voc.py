"""Pascal VOC folders.

    ROOT/Annotations/ID.xml      <filename>, <size>, <object><name><bndbox><xmin> ...
    ROOT/JPEGImages/ID.jpg       or images/, beside the xml files, or a folder or tar given
    ROOT/ImageSets/Main/train.txt   ids of a split, optional

Also a folder of xml files alone. The picture is ID.jpg, where <filename> (old, when pictures were renamed) says another
name too; without it the one that <filename> names. Corners are taken as they stand; one_based: the official sets count
pixels from 1 and include the last, so x1 and y1 fall by one. Difficult objects are kept. Names are those that occur;
all objects of them are taken to be labelled.
Source: host.robots.ox.ac.uk/pascal/VOC.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from openglip.data.files import IMAGE_SUFFIXES, Files, image_size, read_lines
from openglip.data.findings import Findings
from openglip.data.readers.annotations import usable_boxes
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import FileSlice, Sample


def read_voc(
    root: StrPath,
    images: StrPath | None = None,
    *,
    split: str | None = None,
    names: Sequence[str] | None = None,
    one_based: bool = False,
    findings: Findings | None = None,
) -> Iterator[Sample]:
    """Every annotation by its name, or those of a split in its order.

    names: the categories; None: all names of these files by the alphabet. Recorded: unmapped_class (a name that is not
    in `names`), missing_annotation, unparsable (one xml), duplicate_id (the picture is another xml's, which stays).
    """
    report = findings if findings is not None else Findings(keep=False)
    root = Path(root)
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    files = _images(root, images)
    trees = list(_trees(root, folder, split, report))
    categories = tuple(names) if names else tuple(sorted({n for _, t in trees for n in _names(t)}))
    index = {name: i for i, name in enumerate(categories)}
    by_stem = files.by_stem()
    pictures = [_picture(files, by_stem, file.stem, tree.findtext("filename", "")) for file, tree in trees]
    if split is None and images is None:
        annotated = {file.stem for file in folder.glob("*.xml")} | {_stem(image) for image in pictures}
        for stem in by_stem.keys() - annotated:
            report.add("missing_annotation", str(by_stem[stem]), stem, "there is no xml for this picture")
    owners: dict[str | FileSlice, Path] = {}
    for (file, _), image in zip(trees, pictures, strict=True):
        if image not in owners or _stem(image) == file.stem:
            owners[image] = file
    for (file, tree), image in zip(trees, pictures, strict=True):
        if owners[image] != file:
            report.add("duplicate_id", file, file.stem, f"its picture {image} is that of {owners[image].name}")
            continue
        try:
            size = _size(tree) or image_size(image)
        except DataError as error:
            report.add("missing_image", file, file.stem, f"no size, and {error}")
            continue
        corners, labels = [], []
        for item in tree.findall("object"):
            name = item.findtext("name", "").strip()
            if name not in index:
                report.add("unmapped_class", file, file.stem, f"there is no category {name!r}")
                continue
            corners.append(_corners(item, one_based))
            labels.append(index[name])
        boxes, kept = usable_boxes(corners, size, report, file, file.stem)
        yield Sample(
            image=image,
            size=size,
            boxes=boxes,
            categories=categories,
            labels=[labels[i] for i in kept],  # type: ignore[arg-type]
            exhaustive=True,
            image_id=file.stem,
            source=root.name,
        )
    if findings is None:
        report.log(root)


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
    places = [base / name for base in (root, root.parent) for name in ("JPEGImages", "images")]
    for place in places:
        if place.is_dir() and any(f.suffix.lower() in IMAGE_SUFFIXES for f in place.rglob("*")):
            return Files(place)
    for place in (root, root.parent.parent / root.name):
        if place.is_dir() and any(f.suffix.lower() in IMAGE_SUFFIXES for f in place.iterdir()):
            return Files(place)
    return Files(root)


def _picture(files: Files, by_stem: Mapping[str, str | FileSlice], stem: str, name: str) -> str | FileSlice:
    named = files.find(name)
    if named is not None and _stem(named) == stem:
        return named
    return by_stem.get(stem) or named or str(files.path / (name or f"{stem}.jpg"))


def _stem(image: str | FileSlice) -> str:
    return Path(image if isinstance(image, str) else image.name).stem


def _names(tree: ElementTree.Element) -> Iterator[str]:
    return (item.findtext("name", "").strip() for item in tree.findall("object"))


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        height, width = (int(float(tree.findtext(f"size/{side}", "0"))) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _corners(item: ElementTree.Element, one_based: bool) -> list[float]:
    try:
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{key}", "nan")) for key in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        return [float("nan")] * 4
    return [x1 - one_based, y1 - one_based, x2, y2]
