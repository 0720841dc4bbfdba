"""Images of a labelling input that repeat an earlier one, or one of an input to exclude."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
from PIL import Image

from openglip.data.files import image_content
from openglip.errors import DataError, ImageError
from openglip.labelling.engine import Run, ShardFunction
from openglip.labelling.inputs import Pair, Shard

Hashes = dict[str, list[tuple[str, int | None]]]
"""By shard, the file name and the hash (None: unreadable) of the image of every pair, in order."""


def _start_hashing(number: int) -> ShardFunction:
    """A `Job`: the perceptual hashes of the images of a shard."""
    return lambda shard, progress: {"hashes": [_hash(pair) for pair in shard.pairs()]}


def _hash(pair: Pair) -> tuple[str, int | None]:
    try:
        return pair.filename, None if pair.image is None else perceptual_hash(image_content(pair.image))
    except (DataError, ImageError):
        return pair.filename, None


def compute_hashes(shards: Sequence[Shard], run: Run) -> Hashes:
    """The hashes of all images of some shards.

    Args:
        shards: The shards.
        run: Gives them to workers.

    Raises:
        DataError: A shard can't be read.
    """
    rows: dict[str, Any] = {}
    with closing(run(shards, _start_hashing)) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise DataError(f"{outcome.shard.path}: its images can't be compared: {outcome.error}")
            if outcome.row is not None:
                rows[outcome.shard.name] = outcome.row["hashes"]
    return {shard.name: rows[shard.name] for shard in shards}


def find_duplicates(
    shards: Sequence[Shard], excluded: Hashes, drop_repeated: bool, run: Run
) -> dict[str, dict[int, str]]:
    """Find the pairs whose image is a duplicate.

    Args:
        shards: The input.
        excluded: Hashes of images that must not occur.
        drop_repeated: Whether images that repeat an earlier one count.
        run: Gives shards to workers.

    Returns:
        By shard and index of a pair, the name of the image that it repeats.
    """
    # Several captions of one image are no repetition. Members of different archives may have equal names.
    archives = {shard.name for shard in shards if shard.rows is None}
    pairs = []
    for name, row in compute_hashes(shards, run).items():
        pairs += [(name, i, (name if name in archives else "", file), hash_) for i, (file, hash_) in enumerate(row)]
    hashes = {image: hash_ for _, _, image, hash_ in reversed(pairs) if hash_ is not None}
    images = list(dict.fromkeys(image for _, _, image, _ in pairs if image in hashes))
    others = [item for row in excluded.values() for item in row if item[1] is not None]
    originals = near_duplicates(
        np.array([hashes[image] for image in images], np.uint64), np.array([hash_ for _, hash_ in others], np.uint64)
    )
    names = [file for _, file in images] + [file for file, _ in others]
    first = 0 if drop_repeated else len(images)
    duplicates = {image: names[i] for image, i in zip(images, originals, strict=True) if i >= first}
    result: dict[str, dict[int, str]] = {}
    for shard, i, image, _ in pairs:
        if image in duplicates:
            result.setdefault(shard, {})[i] = duplicates[image]
    return result


def perceptual_hash(content: bytes) -> int | None:
    """64 bits that hardly change when an image is resized or compressed again; None when it can't be read.

    Each bit says whether a cell of a 9 x 8 grey version is darker than its right neighbour.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("L", (72, 64))
            cells = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return int.from_bytes(np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes(), "big")


def near_duplicates(hashes: np.ndarray, excluded: np.ndarray | None = None, distance: int = 3) -> np.ndarray:
    """Find images that repeat an earlier one or an excluded one.

    Two images are the same when at most `distance` bits of their hashes differ; then at least one of the four 16-bit
    quarters is equal.

    Args:
        hashes: Hashes of the images in order, N uint64.
        excluded: Hashes of images that must not occur (those of an evaluation set), M uint64.
        distance: 0 to 3.

    Returns:
        N int64: -1 for an image to keep, else the index of the earlier image, or N + the index of the excluded one.
    """
    excluded = np.zeros(0, np.uint64) if excluded is None else excluded.astype(np.uint64)
    unique, first = np.unique(np.concatenate([excluded, hashes.astype(np.uint64)]), return_index=True)
    order = np.argsort(first, kind="stable")
    unique, first = unique[order], first[order]  # distinct hashes by their first occurrence, excluded ones first
    nearest = np.arange(len(unique))
    for quarter in range(4):
        keys = (unique >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        by_key = np.argsort(keys, kind="stable")
        for run in np.split(by_key, np.flatnonzero(np.diff(keys[by_key])) + 1):
            for i, member in enumerate(run[1:], start=1):
                near = run[:i][_count_bits(unique[run[:i]] ^ unique[member]) <= distance]
                if len(near):
                    nearest[member] = min(nearest[member], near[0])
    original = dict(zip(unique.tolist(), first[nearest].tolist(), strict=True))
    result = np.array([original[h] for h in hashes.tolist()], np.int64) - len(excluded)
    result = np.where(result < 0, result + len(excluded) + len(hashes), result)
    return np.where(result == np.arange(len(hashes)), -1, result)


def _count_bits(values: np.ndarray) -> np.ndarray:
    return np.unpackbits(values.astype(np.uint64).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
