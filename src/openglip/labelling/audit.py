"""Random labels on a page to be checked by eye, and from the answers the precision per word with an interval."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openglip.data.files import Files, image_content, read_json
from openglip.data.sampling import uniform_sample
from openglip.errors import DataError
from openglip.files import StrPath, whole_file
from openglip.images.read import read_image
from openglip.labelling.export import lines_of
from openglip.labelling.manifest import Manifest
from openglip.structures.draw import draw

_SIDE = 420  # pixels of an image's long side on the page


def write_page(
    folder: StrPath, images: StrPath, page: StrPath, *, count: int = 200, threshold: float = 0.5, seed: int = 0
) -> int:
    """Write one HTML file with random labels of a run.

    Args:
        folder: The folder of the run.
        images: Folder or tar of the images, or a folder of the tars that were labelled.
        page: The file to write.
        count: Labels on the page, at most.
        threshold: Only labels with a score above it.
        seed: Selects the labels.

    Returns:
        The number of labels on the page.

    Raises:
        DataError: There are no such labels, or an image is missing.
    """
    sample = uniform_sample(_labels(Path(folder), threshold), count, seed)
    if not sample:
        raise DataError(f"{folder}: no label scores above {threshold}")
    open_files = lru_cache(maxsize=1)(Files)
    labels, shown = [], []
    for shard, line, region in sample:
        tar = Path(images) / f"{shard}.tar"
        reference = open_files(tar if tar.is_file() else Path(images)).reference(line["filename"])
        caption = line["grounding"]["caption"]
        labels.append({"filename": line["filename"], "word": head_word(region["phrase"]), **region})
        # positions in the caption as JavaScript counts them
        begin, end = (len(caption[:i].encode("utf-16-le")) // 2 for i in region["tokens_positive"][0])
        link = _image_link(image_content(reference), region)
        shown.append({"caption": caption, "begin": begin, "end": end, "link": link})
    text = (files("openglip.labelling") / "audit.html").read_text("utf-8")
    data = json.dumps({"labels": labels, "images": shown}, ensure_ascii=False).replace("<", "\\u003c")
    with whole_file(page) as file:
        file.write(text.replace("/*DATA*/", data))
    return len(sample)


def read_answers(path: StrPath) -> list[dict[str, Any]]:
    """Precision per word, and first of all words together, from the answers that the page saved.

    Returns:
        Rows with word, checked, right, precision, and the limits low and high of its 95% interval.

    Raises:
        DataError: The file holds no answers.
    """
    top = read_json(path)
    labels = top.get("labels") if isinstance(top, dict) else None
    if not isinstance(labels, list):
        labels = []
    checked = [x for x in labels if isinstance(x, dict) and isinstance(x.get("answer"), bool)]
    if not checked:
        raise DataError(f"{path}: no answers in it: check labels on the page and save them")
    answers: dict[str, list[bool]] = {"all words": [label["answer"] for label in checked]}
    for label in checked:
        answers.setdefault(str(label.get("word")), []).append(label["answer"])
    rows = []
    for word, values in sorted(answers.items(), key=lambda w: (-len(w[1]), w[0] != "all words", w[0])):
        right, checked_count = sum(values), len(values)
        low, high = interval(right, checked_count)
        row = {"word": word, "checked": checked_count, "right": right, "precision": right / checked_count}
        rows.append({**row, "low": low, "high": high})
    return rows


def interval(right: int, checked: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share, which also suits few answers and shares near 0 and 1.

    Args:
        right: Number of positive answers.
        checked: Number of answers.
    """
    z = 1.96  # for 95%
    share, squared = right / checked, z * z / checked
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / checked + squared / (4 * checked)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def head_word(phrase: str) -> str:
    """The last word of a phrase, in lower case: "woman" for "a young woman"."""
    return (re.findall(r"[\w'-]+", phrase.lower()) or [phrase])[-1]


def _labels(folder: Path, threshold: float) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for shard in Manifest.load(folder).shards:
        for line in lines_of(folder, shard):
            yield from ((shard, line, r) for r in line["grounding"]["regions"] if r["score"] > threshold)


def _image_link(content: bytes, region: dict[str, Any]) -> str:
    """The image with the box of a region drawn on it, as a data link."""
    image = Image.fromarray(read_image(content))
    factor = _SIDE / max(image.size)
    small = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    boxes = np.array([region["bbox"]], float) * np.tile(np.array(small.size) / np.array(image.size), 2)
    file = io.BytesIO()
    draw(small, boxes, [0], [region["phrase"]]).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
