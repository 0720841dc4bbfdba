"""Photos packed once at training size, so that a small model on one processor core need not decode them again.

A folder holds `pictures.u8` (N x 256 x 352 x 3 bytes, upright photos on their side) and `pictures.json`, their
annotations. Both are written whole or not at all; a second call with the same settings reads them.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from openglip.data.files import Files, image_content, read_json
from openglip.data.formats.coco import read_coco
from openglip.data.formats.flickr30k import parse_boxes, parse_sentence
from openglip.errors import DataError
from openglip.files import StrPath, whole_file
from openglip.images.read import read_image
from openglip.structures.sample import ImageReference

HEIGHT, WIDTH = 256, 352
GREY = 114
MIN_SHARE, MIN_SIDE = 0.4, 3  # what a crop has to leave of a box: share of its area, side in pixels


@dataclass(frozen=True)
class Phrase:
    """Words of a caption: characters begin..end, the rows of their boxes (none: not annotated), their types."""

    begin: int
    end: int
    boxes: tuple[int, ...]
    types: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """An annotated photo.

    Attributes:
        group: Its data set.
        image_id: Its id there.
        boxes: N x 4, xyxy from 0 to 1.
        captions: Captions with their phrases, or none.
        labels: One name per box, or none.
        absent: Names that are known to be absent.
        size: (height, width) of the photo inside its canvas.
    """

    group: str
    image_id: str
    boxes: list[list[float]]
    captions: tuple[tuple[str, tuple[Phrase, ...]], ...] = ()
    labels: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)

    @property
    def upright(self) -> bool:
        return self.size[0] > self.size[1]


def captioned(root: StrPath, ids: Collection[str], group: str) -> Iterator[tuple[Picture, ImageReference]]:
    """Pictures of a Flickr30k Entities root, all captions of each in lower case. Raises DataError for a missing one."""
    root = Path(root)
    images, annotations, sentences = (
        Files(next(p for p in (root / name, root / f"{name}.tar") if p.exists()))
        for name in ("images", "Annotations", "Sentences")
    )
    pictures, boxes_of = images.by_stem(), dict(annotations.texts(".xml"))
    for stem, text in sentences.texts(".txt"):
        if stem not in ids:
            continue
        if stem not in pictures or stem not in boxes_of:
            raise DataError(f"{root}: image {stem} has no picture or no annotation")
        (height, width), chains = parse_boxes(boxes_of[stem], f"{root}/Annotations/{stem}.xml")
        distinct = list(dict.fromkeys(tuple(box) for boxes in chains.values() for box in boxes))
        row = {box: i for i, box in enumerate(distinct)}
        captions = []
        for line in text.splitlines():
            caption, marked = parse_sentence(line)
            phrases = tuple(
                Phrase(b, e, tuple(row[tuple(box)] for box in chains.get(chain, ())), types)
                for chain, types, (b, e) in marked
            )
            captions.append((caption.lower(), phrases))
        scaled = (np.array(distinct, np.float64).reshape(-1, 4) / [width, height, width, height]).tolist()
        yield Picture(group, stem, scaled, tuple(captions)), pictures[stem]


def labelled(
    annotations: StrPath, group: str, exhaustive: bool | Collection[str]
) -> Iterator[tuple[Picture, ImageReference]]:
    """Pictures of a COCO file. exhaustive: as in `read_coco`; only then names without a box are known to be absent."""
    for sample in read_coco(annotations, exhaustive=exhaustive):
        height, width = sample.size
        labels = tuple(name.lower() for name in sample.names)
        categories = [name.lower() for name in sample.categories or ()]
        absent = tuple(name for name in categories if name not in labels) if sample.exhaustive else ()
        boxes = (sample.boxes / np.array([width, height, width, height])).tolist()
        yield Picture(group, str(sample.image_id), boxes, (), labels, absent), sample.image


def pack(photos: Iterable[tuple[Picture, ImageReference]], folder: StrPath) -> Pack:
    """Decode, fit and write pictures; what is already packed is opened."""
    folder = Path(folder)
    if not (folder / "pictures.json").is_file():
        rows = []
        with whole_file(folder / "pictures.u8", "wb") as file:
            for picture, image in photos:
                pixels, size = fit(read_image(image_content(image)))
                file.write(pixels.tobytes())
                rows.append(asdict(picture) | {"size": size})
        with whole_file(folder / "pictures.json") as file:
            json.dump(rows, file)
    return Pack(folder)


def fit(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture (H x W x 3) fitted into a lying or upright canvas; returned lying, with its size as it stands."""
    upright = image.shape[0] > image.shape[1]
    limit = (WIDTH, HEIGHT) if upright else (HEIGHT, WIDTH)
    factor = min(limit[0] / image.shape[0], limit[1] / image.shape[1])
    height, width = (min(most, max(1, round(side * factor))) for side, most in zip(image.shape, limit, strict=False))
    canvas = np.full((*limit, 3), GREY, np.uint8)
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    canvas[:height, :width] = np.asarray(small)
    return np.ascontiguousarray(canvas.transpose(1, 0, 2) if upright else canvas), (height, width)


class Pack:
    """The pictures of a folder that `pack` wrote."""

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)
        rows = read_json(self.folder / "pictures.json")
        assert isinstance(rows, list)
        self.pictures = [_picture(row) for row in rows]
        path = self.folder / "pictures.u8"
        if os.path.getsize(path) != len(rows) * HEIGHT * WIDTH * 3:
            raise DataError(f"{path}: not the size of {len(rows)} pictures; delete the folder and pack again")
        self.pixels = np.memmap(path, np.uint8, "r", shape=(len(rows), HEIGHT, WIDTH, 3))

    def __reduce__(self) -> tuple[type[Pack], tuple[Path]]:
        """For a process that reads data: it maps the file itself."""
        return Pack, (self.folder,)

    def __len__(self) -> int:
        return len(self.pictures)

    def image(self, index: int) -> np.ndarray:
        """The picture itself, h x w x 3, without its canvas."""
        picture, pixels = self.pictures[index], self.pixels[index]
        height, width = picture.size
        return np.array((pixels.transpose(1, 0, 2) if picture.upright else pixels)[:height, :width])


@dataclass(frozen=True)
class CroppedPhoto:
    """A photo as one batch sees it.

    Attributes:
        pixels: 3 x H x W float, RGB from 0 to 255.
        boxes: N x 4 xyxy in its pixels.
        whole: N bool, boxes of which enough is left.
        cut: N bool, boxes that are partly outside, so neither present nor absent.
    """

    pixels: Tensor
    boxes: np.ndarray
    whole: np.ndarray
    cut: np.ndarray


def crop(image: np.ndarray, boxes: np.ndarray, size: tuple[int, int], rng: random.Random, flip: bool) -> CroppedPhoto:
    """Crop (half of the time), scale into `size`, change light (half of the time), mirror. boxes: from 0 to 1."""
    full_height, full_width = image.shape[:2]
    top = left = 0
    height, width = full_height, full_width
    if rng.random() < 0.5:
        share = rng.uniform(0.55, 1)
        height = int(full_height * share)
        width = int(full_width * min(1, share * rng.uniform(0.85, 1.18)))
        top, left = rng.randrange(full_height - height + 1), rng.randrange(full_width - width + 1)
    factor = min(size[0] / height, size[1] / width) * (rng.uniform(0.8, 1) if rng.random() < 0.3 else 1)
    h, w = min(size[0], max(1, round(height * factor))), min(size[1], max(1, round(width * factor)))
    window = torch.from_numpy(np.ascontiguousarray(image[top : top + height, left : left + width]))
    pixels = F.interpolate(window.permute(2, 0, 1)[None], (h, w), mode="bilinear", antialias=True)[0].float()
    if rng.random() < 0.5:
        pixels = ((pixels - 128) * rng.uniform(0.7, 1.3) + 128) * rng.uniform(0.6, 1.25)
        if rng.random() < 0.15:
            pixels = pixels * rng.uniform(0.25, 0.6)  # a dark room
        pixels = pixels.clamp(0, 255)
    whole = boxes * np.array([full_width, full_height, full_width, full_height], np.float32)
    inside = whole - np.array([left, top, left, top], np.float32)
    inside[:, 0::2] = inside[:, 0::2].clip(0, width)
    inside[:, 1::2] = inside[:, 1::2].clip(0, height)
    share_left = _areas(inside) / np.maximum(_areas(whole), 1e-3)
    inside *= np.array([w / width, h / height] * 2, np.float32)
    whole_enough = (share_left > MIN_SHARE) & ((inside[:, 2:] - inside[:, :2]) > MIN_SIDE).all(1)
    if flip:
        pixels = pixels.flip(2)
        inside = np.stack([w - inside[:, 2], inside[:, 1], w - inside[:, 0], inside[:, 3]], 1)
    canvas = pixels.new_full((3, *size), GREY)
    canvas[:, :h, :w] = pixels
    return CroppedPhoto(canvas, inside.astype(np.float32), whole_enough, ~whole_enough & (share_left > 0.02))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _picture(row: dict) -> Picture:
    captions = tuple(
        (text, tuple(Phrase(p["begin"], p["end"], tuple(p["boxes"]), tuple(p["types"])) for p in phrases))
        for text, phrases in row["captions"]
    )
    return Picture(
        **row | {"captions": captions, "size": tuple(row["size"]), **{k: tuple(row[k]) for k in ("labels", "absent")}}
    )
