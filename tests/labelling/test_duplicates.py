from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openglip.labelling.duplicates import near_duplicates, perceptual_hash


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def test_a_copy_has_nearly_the_same_hash(images: Path) -> None:
    hashes, copies = [], []
    for path in sorted(images.glob("*.jpg"))[:7]:
        image = Image.open(path).resize((400, 300), Image.Resampling.BICUBIC)
        hashes.append(perceptual_hash(jpeg(image, 95)))
        copies.append(perceptual_hash(jpeg(image.resize((150, 112)), 60)))
    together = np.array(hashes + copies, np.uint64)
    assert near_duplicates(together).tolist() == [-1] * 7 + list(range(7))
    assert near_duplicates(np.array(copies, np.uint64), np.array(hashes, np.uint64)).tolist() == list(range(7, 14))
    assert perceptual_hash(b"no image") is None


@pytest.mark.parametrize("distance", [0, 1, 3])
def test_near_duplicates_against_all_pairs(distance: int) -> None:
    generator = np.random.default_rng(1)
    base = generator.integers(0, 2**63, 40, np.uint64)
    flips = [sum(1 << int(b) for b in generator.choice(64, k, replace=False)) for k in generator.integers(0, 6, 300)]
    hashes = base[generator.integers(0, 40, 300)] ^ np.array(flips, np.uint64)
    found = near_duplicates(hashes, distance=distance)
    for i, earlier in enumerate(found.tolist()):
        near = [j for j in range(i) if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= distance]
        assert earlier == (near[0] if near else -1)
