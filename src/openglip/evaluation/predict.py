"""A detector's predictions for a benchmark: what it is asked, and files that are whole or not there.

Pictures are cut into parts of a fixed size; each part is one file and depends on nothing else, so that any number of
processes (torchrun), killed and started again, give the same file in the end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openglip.data.files import Files, read_json
from openglip.errors import ConfigError, DataError
from openglip.evaluation.coco import CAP
from openglip.evaluation.flickr import Sentence
from openglip.evaluation.refcoco import Expression
from openglip.files import whole_file
from openglip.predict.detector import Detector
from openglip.prompts.text import clean_name, detection_prompt
from openglip.runtime import rank, wait_for_others, world_size
from openglip.structures.detections import Detections
from openglip.structures.sample import FileSlice, ImageReference

PART = 32  # pictures of one file of predictions
PER_PROMPT, PER_SENTENCE, PER_EXPRESSION = 300, 100, 10  # boxes kept
Record = dict[str, Any]
Ask = Callable[[Detector, Sequence["Picture"]], Iterator[list[Record]]]


@dataclass(frozen=True)
class Picture:
    """What a model looks at. about: what is asked of it alone (sentences, an expression)."""

    id: object
    image: ImageReference
    about: Any = field(default=None, compare=False)

    def open(self) -> str | bytes:
        return self.image.read() if isinstance(self.image, FileSlice) else self.image


def find_pictures(
    images: str | os.PathLike[str] | None,
    names: Mapping[object, str],
    about: Mapping[object, object],
    known: Mapping[object, ImageReference],
    *,
    any_suffix: bool = False,
) -> list[Picture]:
    """Pictures by id and file name; any_suffix: what comes after the last dot does not matter.

    images: folder or tar; known: places that need no search. Raises DataError naming an id whose file is missing.
    """
    if images is None and not names.keys() <= known.keys():
        raise ConfigError("a model needs images: the folder or tar of the pictures")
    files = Files(images) if images is not None else None
    stems = files.by_stem() if files and any_suffix else {}
    pictures = []
    for key, name in names.items():
        place = known.get(key) or (stems.get(Path(name).stem) if any_suffix else files.find(name) if files else None)
        if place is None:
            raise DataError(f"{images}: no {name}, the picture of image {key}")
        pictures.append(Picture(key, place, about.get(key)))
    return pictures


def ask_categories(
    names: Sequence[str],
    ids: Sequence[object],
    *,
    wordings: Sequence[tuple[str, str, str]] | None = None,
    chunk_size: int | None = None,
    batch_size: int = 1,
) -> Ask:
    """All names on every picture, the official 100 best boxes; blank names can't be asked for and are left out.

    wordings: per name what the caption says instead (prefix, words, suffix). chunk_size: names a prompt.
    """
    kept = [k for k, name in enumerate(names) if clean_name(name).strip()]
    names, ids = [names[k] for k in kept], [ids[k] for k in kept]
    common: dict[str, Any] = {"threshold": 0, "top_k": CAP, "batch_size": batch_size}

    def ask(detector: Detector, pictures: Sequence[Picture]) -> Iterator[list[Record]]:
        opened = (p.open() for p in pictures)
        if wordings is None:
            found = detector.stream(opened, detector.encode_text(names, chunk_size=chunk_size), **common)
        else:
            prompt = detection_prompt(names, wordings=[wordings[k] for k in kept])
            found = detector.stream(opened, captions=prompt.caption, phrases=[list(s) for s in prompt.spans], **common)
        for picture, detections in zip(pictures, found, strict=True):
            yield _rows(picture.id, detections, ids)

    return ask


def ask_chunks(names: Sequence[str], ids: Sequence[object], chunk_size: int) -> Ask:
    """Names in prompts of a fixed size, 300 boxes for each prompt and no joint cap; the picture is encoded once."""

    def ask(detector: Detector, pictures: Sequence[Picture]) -> Iterator[list[Record]]:
        begins = range(0, len(names), chunk_size)
        texts = [(detector.encode_text(names[b : b + chunk_size]), ids[b : b + chunk_size]) for b in begins]
        for picture in pictures:
            encoded = detector.encode(picture.open())
            found = ((detector.detect(encoded, text, threshold=0, top_k=PER_PROMPT), own) for text, own in texts)
            yield [row for detections, own in found for row in _rows(picture.id, detections, own)]

    return ask


def ask_sentences(detector: Detector, pictures: Sequence[Picture]) -> Iterator[list[Record]]:
    """Flickr30k: each sentence with its given phrases, 100 boxes over all phrases, in pixels of the annotated size."""
    for picture in pictures:
        encoded = detector.encode(picture.open())
        rows: list[Record] = []
        for sentence in picture.about:
            assert isinstance(sentence, Sentence)
            phrases = [list(phrase.spans) for phrase in sentence.phrases]
            found = detector.ground(encoded, sentence.caption, phrases=phrases, threshold=0, top_k=PER_SENTENCE)
            assert found.image_size is not None
            scale = [new / old for new, old in zip(sentence.size[::-1], found.image_size[::-1], strict=True)] * 2
            boxes: list[list[list[float]]] = [[] for _ in phrases]
            for box, label in zip((found.boxes.astype(float) * scale).tolist(), found.labels.tolist(), strict=True):
                boxes[label].append(box)
            rows.append({"image_id": sentence.image_id, "sentence_id": sentence.number, "boxes": boxes})
        yield rows


def ask_expressions(detector: Detector, pictures: Sequence[Picture]) -> Iterator[list[Record]]:
    """RefCOCO: the whole expression is one phrase."""
    for picture in pictures:
        expression = picture.about
        assert isinstance(expression, Expression)
        whole = [(0, len(expression.text))]
        found = detector.ground(
            picture.open(), expression.text, phrases=[whole], threshold=0, top_k=PER_EXPRESSION, batch_size=1
        )
        rows = _rows(picture.id, found, [None])
        yield [{"ref_id": r["image_id"], "bbox": r["bbox"], "score": r["score"]} for r in rows]


def _rows(image_id: object, found: Detections, ids: Sequence[object]) -> list[Record]:
    rows = []
    for (x1, y1, x2, y2), score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        rows.append(
            {"image_id": image_id, "category_id": ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        )
    return rows


def check_settings(folder: Path, settings: Mapping[str, object]) -> None:
    """Write what the predictions of a folder depend on, or refuse a folder that was begun with something else."""
    path, settings = folder / "settings.json", json.loads(json.dumps(settings))
    if path.is_file():
        before = read_json(path)
        assert isinstance(before, dict)
        for key in settings:
            if before.get(key) != settings[key]:
                was, now = f"{before.get(key)!r:.80}", f"{settings[key]!r:.80}"
                raise ConfigError(f"{folder} holds a run with another {key} ({was}, now {now}): give another --output")
        return
    with whole_file(path) as file:
        json.dump(settings, file, indent=1)


def predict(
    name: str,
    pictures: Sequence[Picture],
    ask: Ask,
    detector: Detector,
    folder: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Predictions of all pictures in `folder/NAME.json`; what an earlier run left in `folder/parts` is not done again.

    progress: called with name, pictures done, pictures in all.
    """
    parts = [folder / "parts" / f"{name}-{n:05d}.json" for n in range(-(-len(pictures) // PART))]
    for number, path in enumerate(parts):
        if number % world_size() == rank() and not path.is_file():
            rows = [row for found in ask(detector, pictures[number * PART : (number + 1) * PART]) for row in found]
            with whole_file(path) as file:
                json.dump(rows, file)
        if progress and rank() == 0:
            progress(name, min((number + 1) * PART, len(pictures)), len(pictures))
    wait_for_others()
    whole = folder / f"{name}.json"
    if rank() == 0:
        with whole_file(whole) as file:
            file.write("[")
            texts = (path.read_text("utf-8")[1:-1] for path in parts)
            for i, text in enumerate(t for t in texts if t):
                file.write((",\n" if i else "\n") + text)
            file.write("\n]\n")
    wait_for_others()
    return whole
