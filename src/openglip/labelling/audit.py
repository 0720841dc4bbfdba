"""Random labels on a page to check by eye, and from the answers the precision per word with an interval."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openglip.data.files import Files, image_content, read_json
from openglip.errors import DataError
from openglip.files import StrPath, whole_file
from openglip.images.read import read_image
from openglip.labelling.manifest import Manifest
from openglip.structures.draw import draw

_SIDE = 420  # pixels of a picture's long side on the page

_PAGE = """<!doctype html><meta charset="utf-8"><title>Labels to check</title>
<style>body{font:16px sans-serif;margin:1em;background:#f4f4f4}main{display:flex;flex-wrap:wrap;gap:12px}
figure{margin:0;padding:8px;background:#fff;width:420px;border:3px solid #fff;border-radius:6px}
figure img{max-width:100%%}
figure.right{border-color:#2a9d3a}figure.wrong{border-color:#d22}figcaption{margin:6px 0}mark{background:#ffe08a}
button{font:inherit;margin-right:8px}header{position:sticky;top:0;background:#f4f4f4;padding:8px 0}</style>
<header>Is the marked phrase inside its box, and is the box tight? <span id="n"></span>
<button onclick="save()">Save answers</button></header><main>%s</main>
<script>const labels=%s;
function set(i,v){labels[i].answer=v;document.getElementById("f"+i).className=v?"right":"wrong";tell()}
function tell(){const n=labels.filter(l=>"answer" in l).length;
document.getElementById("n").textContent=n+" of "+labels.length+" checked."}
function save(){const a=document.createElement("a");a.download="answers.json";
const text=new Blob([JSON.stringify({labels:labels})],{type:"application/json"});
a.href=URL.createObjectURL(text);a.click()}tell()</script>
"""
_FIGURE = """<figure id="f%d"><img src="data:image/jpeg;base64,%s" alt=""><figcaption>%s</figcaption>
<button onclick="set(%d,true)">right</button><button onclick="set(%d,false)">wrong</button> %.2f</figure>
"""


def write_page(
    folder: StrPath, images: StrPath, page: StrPath, *, count: int = 200, threshold: float = 0.5, seed: int = 0
) -> int:
    """Write one HTML file with up to `count` random labels of a run that score above `threshold`; returns how many.

    images: folder or tar of the pictures, or a folder of the tars that were labelled. A seed gives the same labels.
    Raises DataError when there is nothing to show or a picture is missing.
    """
    picked = _sample(Path(folder), count, threshold, seed)
    if not picked:
        raise DataError(f"{folder}: no label scores above {threshold}")
    pictures = _Pictures(Path(images))
    figures, labels = [], []
    for i, (shard, line, region) in enumerate(picked):
        begin, end = region["tokens_positive"][0]
        caption = line["grounding"]["caption"]
        marked = "".join(
            (
                html.escape(caption[:begin]),
                "<mark>",
                html.escape(caption[begin:end]),
                "</mark>",
                html.escape(caption[end:]),
            )
        )
        picture = _picture(pictures.content(shard, line["filename"]), region)
        figures.append(_FIGURE % (i, picture, marked, i, i, region["score"]))
        labels.append({"filename": line["filename"], "word": head_word(region["phrase"]), **region})
    with whole_file(page) as file:
        file.write(_PAGE % ("".join(figures), json.dumps(labels, ensure_ascii=False).replace("<", "\\u003c")))
    return len(picked)


def read_answers(path: StrPath) -> list[dict[str, Any]]:
    """Per word, and first for all together: checked, right, precision and its 95% interval (Wilson's).

    Raises DataError when the file holds no answers.
    """
    top = read_json(path)
    labels = top.get("labels") if isinstance(top, dict) else None
    answers = (
        [x for x in labels if isinstance(x, dict) and isinstance(x.get("answer"), bool)]
        if isinstance(labels, list)
        else []
    )
    if not answers:
        raise DataError(f"{path}: no answers in it: check labels on the page and save them")
    words: dict[str, list[bool]] = {"all words": [x["answer"] for x in answers]}
    for x in answers:
        words.setdefault(str(x.get("word")), []).append(x["answer"])
    return [
        _estimate(word, given)
        for word, given in sorted(words.items(), key=lambda w: (-len(w[1]), w[0] != "all words", w[0]))
    ]


def interval(right: int, checked: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share: of use for few answers and for shares near 0 and 1 too."""
    share, squared = right / checked, z * z / checked
    middle = (share + squared / 2) / (1 + squared)
    half = z * math.sqrt(share * (1 - share) / checked + squared / (4 * checked)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def head_word(phrase: str) -> str:
    """The last word of a phrase, in small letters: what "a young woman" is about."""
    return (re.findall(r"[\w'-]+", phrase.lower()) or [phrase])[-1]


def _estimate(word: str, given: list[bool]) -> dict[str, Any]:
    low, high = interval(sum(given), len(given))
    share = sum(given) / len(given)
    return {"word": word, "checked": len(given), "right": sum(given), "precision": share, "low": low, "high": high}


def _sample(folder: Path, count: int, threshold: float, seed: int) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """A uniform sample of the labels of a run in one pass (Vitter's reservoir), in the order of the run."""
    generator, kept = random.Random(seed), []
    for number, label in enumerate(_labels(folder, threshold)):
        if number < count:
            kept.append((number, *label))
        elif (place := generator.randint(0, number)) < count:
            kept[place] = (number, *label)
    return [(shard, line, region) for _, shard, line, region in sorted(kept, key=lambda k: k[0])]


def _labels(folder: Path, threshold: float) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for shard in Manifest.load(folder).shards:
        with open(folder / "shards" / f"{shard}.jsonl", encoding="utf-8") as file:
            for text in file:
                line = json.loads(text)
                yield from ((shard, line, r) for r in line["grounding"]["regions"] if r["score"] > threshold)


class _Pictures:
    """Pictures by shard and name: in a folder, a tar, or the tars that were labelled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: dict[str, Files] = {}

    def content(self, shard: str, name: str) -> bytes:
        tar = self.path / f"{shard}.tar"
        place = tar if tar.is_file() else self.path
        if str(place) not in self._opened:
            self._opened = {str(place): Files(place)}
        return image_content(self._opened[str(place)].reference(name))


def _picture(content: bytes, region: dict[str, Any]) -> str:
    image = Image.fromarray(read_image(content))
    factor = _SIDE / max(image.size)
    small = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    boxes = np.array([region["bbox"]], float) * np.tile(np.array(small.size) / np.array(image.size), 2)
    file = io.BytesIO()
    draw(small, boxes, [0], [region["phrase"]]).save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode()
