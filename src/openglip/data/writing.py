"""What writers share: names of files that do not collide, copies of images, and counts of what a format can't hold.

Files get their names when they are complete. JSON formats name images where they lie, relative to the file; images that
lie in tars or in memory are copied to a folder `images` next to it. Folder formats hold copies.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from openglip.data.files import image_content
from openglip.files import FileSlice, StrPath, whole_file
from openglip.structures.sample import Sample


def count_lost(sample: Sample, lost: Counter[str], *fields: str, exhaustive: bool = True) -> None:
    """Add 1 for each field of a sample that the format has no room for.

    Args:
        sample: The sample to be written.
        lost: The counts, changed in place.
        *fields: Names of the fields without room.
        exhaustive: What is written will be read as exhaustively labelled: all but captions that stay captions. A sample
            that is not exhaustive counts as "not exhaustive" then.
    """
    for field in fields:
        value = getattr(sample, field)
        if value is not None and len(value):
            lost[field] += 1
    if exhaustive and not sample.exhaustive:
        lost["not exhaustive"] += 1


def score_field(score: float | None) -> dict[str, float]:
    """A "score" for a JSON record, nothing where there is no score."""
    return {} if score is None else {"score": score}


def scores_of(sample: Sample) -> list[float] | list[None]:
    """A score or None for each box."""
    return [None] * len(sample) if sample.scores is None else sample.scores.tolist()


def free_id(sample: Sample, number: int, used: set[int], lost: Counter[str]) -> int:
    """The sample's id where it is a number and free, else the next free number, and "image_id" is lost."""
    image_id = sample.image_id if isinstance(sample.image_id, int) else number
    while image_id in used:
        image_id += 1
    used.add(image_id)
    if image_id != sample.image_id:
        lost["image_id"] += 1
    return image_id


class ImagePaths:
    """Paths of images relative to the file that names them; images without a file are copied to images/ next to it.

    Args:
        path: The file that names the images.
    """

    def __init__(self, path: StrPath) -> None:
        self.folder = Path(path).parent
        self._real = cache(_real_path)
        self._numbers: Counter[str] = Counter()

    def __call__(self, sample: Sample) -> str:
        """The path of a sample's image, with forward slashes."""
        if isinstance(sample.image, str):
            # ".." leads out of where a folder really is, whatever link it was reached by; the file keeps its name
            folder, name = os.path.split(sample.image)
            path = os.path.relpath(os.path.join(self._real(folder), name), self._real(str(self.folder)))
            return Path(path).as_posix()
        content, name = image_content(sample.image), f"{Path(sample.file_name).stem}{image_suffix(sample)}"
        while True:  # several images may have one name, and one image may come back for its next caption
            number = self._numbers[name]
            target = self.folder / "images" / (_numbered_name(name, number) if number else name)
            if not target.exists():
                copy_image(sample, target)
                break
            if target.read_bytes() == content:
                break
            self._numbers[name] += 1
        return target.relative_to(self.folder).as_posix()


def numbered_stems(samples: Iterable[Sample], *, dots: bool = True) -> Iterator[tuple[str, Sample]]:
    """Each sample with a file stem that no other has: its file's, with a number where that is taken.

    Args:
        samples: The samples to be written.
        dots: Stems may hold dots; False writes "_" for them, as a dot ends the key of a WebDataset.
    """
    numbers: Counter[str] = Counter()
    used: set[str] = set()
    for sample in samples:
        name = stem = Path(sample.file_name).stem.replace(".", "." if dots else "_")
        while name in used:
            numbers[stem] += 1
            name = f"{stem}-{numbers[stem] + 1}"
        used.add(name)
        yield name, sample


def copy_image(sample: Sample, target: Path) -> None:
    """Write a sample's encoded image to a file."""
    with whole_file(target, "wb") as file:
        file.write(image_content(sample.image))


def image_suffix(sample: Sample) -> str:
    """The suffix of an image's file, taken from its first bytes where it has no name."""
    if isinstance(sample.image, bytes) or (isinstance(sample.image, FileSlice) and not sample.image.name):
        head = image_content(sample.image)[:4]
        return ".png" if head == b"\x89PNG" else ".webp" if head == b"RIFF" else ".jpg"
    return Path(sample.file_name).suffix.lower() or ".jpg"


def _real_path(folder: str) -> str:
    try:
        return os.path.realpath(folder)
    except ValueError:  # no folder has this name: it holds a zero or half of a surrogate pair
        return os.path.abspath(folder)


def _numbered_name(name: str, number: int) -> str:
    """With the number 1, "a.jpg" is "a-2.jpg"."""
    return f"{Path(name).stem}-{number + 1}{Path(name).suffix}"
