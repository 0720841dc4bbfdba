"""The teacher's side of the ladder: captions in, labels by caption out, and the same labels as pictures to train on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from labelling_at_scale import lines_of
from packing import Phrase, Picture

from openglip.data.files import Files
from openglip.data.formats.flickr30k import parse_sentence
from openglip.files import whole_file
from openglip.structures.boxes import iou


def captions_of(root: Path, ids: set[str]) -> Iterator[tuple[str, list[str]]]:
    """File name and captions (without mark-up, each with its full stop) of these photos."""
    for stem, text in Files(root / "Sentences.tar").texts(".txt"):
        if stem in ids:
            captions = [parse_sentence(line)[0].strip(" .") + " ." for line in text.splitlines()]
            yield f"images/{stem}.webp", captions


def by_caption(run: Path, output: Path, captions: dict[str, list[str]]) -> None:
    """A photo's captions are asked as one text, as one pass is cheaper than five; here each gets its own line again."""
    (output / "shards").mkdir(parents=True, exist_ok=True)
    (output / "manifest.json").write_bytes((run / "manifest.json").read_bytes())
    with whole_file(output / "shards" / "000000.jsonl") as file:
        for line in lines_of(run):
            begin = 0
            for i, caption in enumerate(captions[line["filename"]]):
                end = begin + len(caption)
                regions = [
                    {**r, "tokens_positive": [[b - begin, e - begin]]}
                    for r in line["grounding"]["regions"]
                    for b, e in r["tokens_positive"][:1]
                    if begin <= b < end
                ]
                own = {**line, "id": f"{line['id']}/{i}", "grounding": {"caption": caption, "regions": regions}}
                file.write(json.dumps(own) + "\n")
                begin = end + 1


def f1(row: Mapping[str, float]) -> float:
    return 2 * row["precision"] * row["recall"] / max(row["precision"] + row["recall"], 1e-9)


def known_by(lines: Sequence[Mapping], threshold: float, merge: float = 0.7) -> dict[str, Picture]:
    """A teacher's labels as pictures, by id.

    A box that overlaps a better one of other words by more than `merge` is the same thing seen from another caption.
    """
    by_image: dict[str, list[Mapping]] = {}
    for line in lines:
        by_image.setdefault(str(line["id"]).partition("/")[0], []).append(line)
    found = {}
    for image, own in by_image.items():
        scale = np.tile([own[0]["width"], own[0]["height"]], 2)
        regions = [(r["score"], n, r) for n, line in enumerate(own) for r in line["grounding"]["regions"]]
        boxes: list[np.ndarray] = []
        rows: dict[tuple[int, int, int], list[int]] = {}
        for score, n, region in sorted(regions, key=lambda item: -item[0]):
            begin, end = region["tokens_positive"][0]
            mine = rows.setdefault((n, begin, end), [])
            if score <= threshold:
                continue
            box = np.array(region["bbox"], float)
            same = iou(box[None], np.array(boxes).reshape(-1, 4))[0] if boxes else np.zeros(0)
            if len(same) and same.max() > merge:
                mine.append(int(same.argmax()))
            else:
                mine.append(len(boxes))
                boxes.append(box)
        found[image] = _picture(image, own, rows, [(box / scale).tolist() for box in boxes])
    return found


def _picture(
    image: str, lines: Sequence[Mapping], rows: Mapping[tuple[int, int, int], list[int]], boxes: list[list[float]]
) -> Picture:
    captions = tuple(
        (
            line["grounding"]["caption"].lower(),
            tuple(Phrase(b, e, tuple(dict.fromkeys(own)), ()) for (k, b, e), own in rows.items() if k == n),
        )
        for n, line in enumerate(lines)
    )
    return Picture("captions", image, boxes, captions)
