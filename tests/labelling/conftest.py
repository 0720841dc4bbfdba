from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CAPTIONS = [
    "a woman in a red coat crosses the road",
    "two dogs run on a snow covered hill",
    "person battles with person in the production sedans",
    "hard times teach us valuable lessons stock photos",
    "",
]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 small images with captions; one image is damaged, six captions are empty."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(3)
    for i in range(30):
        pixels = generator.integers(0, 255, (3, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{i:03d}.jpg")
        (folder / f"{i:03d}.txt").write_text(CAPTIONS[i % 5])
    (folder / "007.jpg").write_bytes(b"not an image")
    return folder
