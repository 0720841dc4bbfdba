"""The five data sets from which the embedded weights are made, and the photos that are never trained on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from packing import Picture, captioned, labelled

from openglip.data.files import read_json, read_lines
from openglip.errors import DataError
from openglip.structures.sample import ImageReference

SETS = {"coco": "coco_mini", "animals": "animals", "everyday": "everyday", "household": "household"}
EXHAUSTIVE = {"coco": True, "animals": True, "everyday": ("Pascal VOC 2007 (smsjb/voc)",), "household": False}


def all_photos(data: Path) -> Iterator[tuple[Picture, ImageReference]]:
    """The annotated photos of all sets.

    Args:
        data: Folder of the sets.

    Raises:
        DataError: A set is missing.
    """
    for name in ("flickr8k_entities/train/ids.txt", *(f"{name}/annotations/train.json" for name in SETS.values())):
        if not (data / name).is_file():
            raise DataError(
                f"{data / name} does not exist: set data to the folder that projects/nano/README.md describes"
            )
    yield from captioned_photos(data)
    for group, name in SETS.items():
        yield from labelled(data / name / "annotations" / "train.json", group, EXHAUSTIVE[group])


def captioned_photos(
    data: Path, excluded: Collection[tuple[str, str]] = ()
) -> Iterator[tuple[Picture, ImageReference]]:
    """The Flickr train photos, without those whose group and id are excluded."""
    root = data / "flickr8k_entities" / "train"
    for picture, image in captioned(root, set(read_lines(root / "ids.txt")), "captions"):
        if (picture.group, picture.image_id) not in excluded:
            yield picture, image


def held_out(path: str | Path | None) -> set[tuple[str, str]]:
    """Group and id of each photo that is never trained on, from a file as docs/nano_held_out.json.

    Raises:
        DataError: The file lacks a list.
    """
    if path is None:
        return set()
    lists = read_json(path)
    names = {"captions": "flickr30k", "coco": "coco_mini"}
    if not isinstance(lists, dict) or not all(isinstance(lists.get(name), list) for name in names.values()):
        raise DataError(f"{path} must hold lists of ids by {' and '.join(names.values())}")
    return {(group, str(i)) for group, name in names.items() for i in lists[name]}
