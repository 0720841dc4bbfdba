"""Flickr30k Entities: Recall@1/5/10 and its upper bound, any-box and merged-box, over all phrases and per type.

A phrase is hit at k when one of its k best boxes has an IoU of 0.5 (plain widths) with any of its true boxes (any-box,
GLIP's table) or with the box around all of them (merged-box). Phrases without boxes do not count. Source: MDETR's
evaluator, as GLIP uses it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openglip.data.findings import Findings
from openglip.data.formats.coco import load_coco
from openglip.data.formats.flickr30k import Entities, parse_boxes
from openglip.errors import DataError
from openglip.evaluation.coco import Figures, Scores
from openglip.evaluation.read import STRICT, JsonSource, chosen_ids, iterate_entries, source_name
from openglip.files import StrPath
from openglip.structures import boxes as bx
from openglip.structures.sample import Span

TYPES = ("people", "clothing", "bodyparts", "animals", "vehicles", "instruments", "scene", "other")
RANKS: dict[str, int | None] = {"R@1": 1, "R@5": 5, "R@10": 10, "R@all": None}
IOU = 0.5


@dataclass(frozen=True)
class Phrase:
    """A phrase of a caption that has a box.

    Attributes:
        spans: Its character ranges in the caption.
        types: Its types, none where the source has none.
        boxes: N x 4 xyxy in pixels of the annotated size, N > 0.
    """

    spans: tuple[Span, ...]
    types: tuple[str, ...]
    boxes: np.ndarray


@dataclass(frozen=True)
class Sentence:
    """One sentence about an image.

    Attributes:
        image_id: The image.
        number: The sentence's line, counted from 0.
        caption: Its text.
        size: (height, width) of the annotated image.
        phrases: Its phrases that have a box, in order.
    """

    image_id: int | str
    number: int
    caption: str
    size: tuple[int, int]
    phrases: tuple[Phrase, ...]


def read_sentences(source: StrPath, ids: Collection[object] | None = None) -> tuple[list[Sentence], frozenset[str]]:
    """Sentences that have a phrase to find.

    Args:
        source: A Flickr30k Entities root (`Sentences/`, `Annotations/`), or an MDETR JSON, which has no types.
        ids: Ids of the images to use; None uses all.

    Returns:
        The sentences, and the ids of all images of the source.

    Raises:
        DataError: There is nothing to find, or the source lacks one of `ids`.
    """
    source = Path(source)
    sentences = list(_from_root(source) if source.is_dir() else _from_mdetr(source))
    image_ids = frozenset(str(s.image_id) for s in sentences)
    chosen = chosen_ids(ids, image_ids, source)
    sentences = [s for s in sentences if s.phrases and str(s.image_id) in chosen]
    if not sentences:
        raise DataError(f"{source}: no sentence has a phrase with a box")
    return sentences, image_ids


def _from_root(root: Path) -> Iterator[Sentence]:
    entities = Entities(root)
    annotations = entities.annotations()
    for image_id, sentences in entities.sentences():
        if image_id not in annotations:
            raise DataError(f"{root}: no Annotations/{image_id}.xml for Sentences/{image_id}.txt")
        size, chains = parse_boxes(annotations[image_id], entities.annotation_file(image_id))
        for line in sentences:
            # not the boxes of samples: a recall counts them as they are annotated, also where they leave the image
            phrases = (Phrase((span,), types, np.array(chains[c])) for c, types, span in line.phrases if chains.get(c))
            yield Sentence(_number(image_id), line.number, line.caption, size, tuple(phrases))


def _from_mdetr(path: Path) -> Iterator[Sentence]:
    """One image record per sentence; a phrase's boxes are the annotations whose text spans share a span with it."""
    file = load_coco(path, Findings(fatal=STRICT))
    try:
        for image in file.images:
            phrases = []
            for spans in image["tokens_positive_eval"]:
                spans = tuple((int(b), int(e)) for b, e in spans)
                rows = file.annotations.get(image["id"], [])
                boxes = [row["bbox"] for row in rows if {tuple(s) for s in row["tokens_positive"]} & set(spans)]
                if boxes:
                    phrases.append(Phrase(spans, (), bx.xywh_to_xyxy(np.array(boxes, float))))
            image_id = _number(str(image.get("original_img_id", Path(str(image["file_name"])).stem)))
            size = int(image["height"]), int(image["width"])
            yield Sentence(image_id, int(image["sentence_id"]), str(image["caption"]), size, tuple(phrases))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not an MDETR Flickr30k file: {type(error).__name__} {error}") from error


def _number(stem: str) -> int | str:
    return int(stem) if re.fullmatch(r"\d+", stem) else stem


def score_flickr(sentences: Sequence[Sentence], image_ids: Collection[str], predictions: JsonSource) -> Scores:
    """Recalls of ranked boxes.

    Args:
        sentences: The sentences to judge.
        image_ids: Ids of all images of their source; predictions on the other images are skipped.
        predictions: A file, or a list, of `{"image_id", "sentence_id", "boxes"}`, where `boxes` has a list
            `[[x1, y1, x2, y2], ...]`, best first, for each phrase.

    Raises:
        DataError: A sentence is missing, unknown or there twice, has another number of phrases, or a box that is not
            finite. The message names file and sentence.
    """
    source = source_name(predictions, "predictions")
    boxes_of = _read(predictions, source, {(str(s.image_id), s.number): s for s in sentences}, image_ids)
    hits: dict[tuple[str, ...], list[bool]] = {}
    for sentence in sentences:
        key = str(sentence.image_id), sentence.number
        if key not in boxes_of:
            raise DataError(f"{source}: sentence {sentence.number} of image {sentence.image_id} is missing")
        for phrase, boxes in zip(sentence.phrases, boxes_of[key], strict=True):
            merged = np.concatenate([phrase.boxes[:, :2].min(0), phrase.boxes[:, 2:].max(0)])[None]
            for target, true in (("any_box", phrase.boxes), ("merged_box", merged)):
                near = np.any(bx.iou(boxes, true) >= IOU, axis=1)
                for rank, k in RANKS.items():
                    for group in ((), *((t,) for t in phrase.types)):
                        hits.setdefault((target, rank, *group), []).append(bool(near[:k].any()))
    types = sorted({*TYPES, *(t for s in sentences for p in s.phrases for t in p.types)})
    groups = [
        (target, rank, *group)
        for target in ("any_box", "merged_box")
        for group in ((), *((t,) for t in types))
        for rank in RANKS
    ]
    figures: Figures = {"/".join(g): float(np.mean(hits[g])) if g in hits else -1.0 for g in groups}
    protocol = {
        "metric": f"recall of phrases at IoU {IOU}, plain widths; any_box: any of the boxes, merged_box: their union",
        "images": len({s.image_id for s in sentences}),
        "sentences": len(sentences),
        "phrases": sum(len(s.phrases) for s in sentences),
    }
    return Scores(figures, {}, protocol)


def _read(
    predictions: JsonSource, source: str, expected: Mapping[tuple[str, int], Sentence], image_ids: Collection[str]
) -> dict[tuple[str, int], list[np.ndarray]]:
    """The boxes for each phrase of each sentence, by image id and number."""
    boxes_of: dict[tuple[str, int], list[np.ndarray]] = {}
    judged = {image_id for image_id, _ in expected}
    for number, row in enumerate(iterate_entries(predictions)):
        try:
            key, lists = (str(row["image_id"]), int(row["sentence_id"])), row["boxes"]  # type: ignore[index, call-overload]
            tables = [np.array(boxes, np.float64).reshape(-1, 4) for boxes in lists]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{source}: entry {number} is not a sentence with boxes: {error!r}") from error
        name = f"{source}: entry {number} (image {key[0]}, sentence {key[1]})"
        if key[0] not in image_ids:
            raise DataError(f"{name}: no such image in the annotations")
        if key[0] not in judged:
            continue
        if key in boxes_of:
            raise DataError(f"{name}: the sentence is there twice")
        count = len(expected[key].phrases) if key in expected else 0
        if len(tables) != count:
            raise DataError(f"{name}: {len(tables)} lists of boxes for {count} phrases that have a box")
        if not all(np.isfinite(table).all() for table in tables):
            raise DataError(f"{name}: a box is not finite")
        boxes_of[key] = tables
    return boxes_of
