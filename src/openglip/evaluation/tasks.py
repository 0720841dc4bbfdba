"""What each benchmark is made of: pictures to look at, what to ask, and how predictions are scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from openglip.errors import ConfigError
from openglip.evaluation.coco import Scores, coco, coco_ov, ov_columns, ov_rows
from openglip.evaluation.custom import custom, judged_rows
from openglip.evaluation.flickr import Sentence, flickr, read_sentences
from openglip.evaluation.lvis import in_minival, lvis, standard_rows
from openglip.evaluation.matching import Found, Truth
from openglip.evaluation.odinw import find_sets, names_and_wordings, predictions_of
from openglip.evaluation.read import (
    Annotations,
    Source,
    describe,
    read_annotations,
    read_results,
    results,
    source_sha256,
)
from openglip.evaluation.refcoco import as_annotations, read_expressions, refcoco
from openglip.evaluation.samples import read_custom
from openglip.prompts.tables import PromptTable
from openglip.structures.sample import ImageReference

if TYPE_CHECKING:
    from openglip.evaluation.predict import Ask

Benchmark = Literal["coco", "coco-ov", "lvis", "flickr30k", "odinw", "refcoco", "custom"]
LVIS_CHUNK = 40  # names a prompt in GLIP's evaluation


@dataclass(frozen=True)
class Options:
    """What a run may be told beyond files. Each belongs to the benchmarks that `BELONGS` names.

    split: "minival" of LVIS; "val", "test", ... of ODinW and RefCOCO. prompts, sets: of ODinW. labelled_only: the 4,836
    images of open-vocabulary COCO. plus_one: the official widths on COCO. chunk_size: names a prompt.
    """

    split: str | None = None
    prompts: PromptTable | None = None
    sets: str | None = None
    labelled_only: bool = False
    plus_one: bool = False
    chunk_size: int | None = None
    batch_size: int = 1


BELONGS: dict[str, tuple[str, ...]] = {
    "split": ("lvis", "odinw", "refcoco", "custom"),
    "prompts": ("odinw",),
    "sets": ("odinw",),
    "labelled_only": ("coco-ov",),
    "plus_one": ("coco",),
    "chunk_size": ("coco", "lvis", "odinw", "custom"),
    "batch_size": ("coco", "coco-ov", "odinw", "custom"),
}


@dataclass(frozen=True)
class Task:
    """One set of pictures of a benchmark.

    files: id -> file name of what is judged. about: id -> what is asked of that picture alone. folder, pictures: where
    they lie, if the annotations say so. protocol: the rules; asked: those of asking a model. ask: what it does.
    digest: hash of the annotations where they are not one file. score: judges predictions. boxes: the true and found
    boxes as they are judged, where they have categories.
    """

    name: str
    files: Mapping[object, str]
    protocol: Mapping[str, object]
    asked: Mapping[str, object]
    ask: Callable[[], Ask]
    score: Callable[[Source], Scores]
    annotations: Annotations | None = None
    boxes: Callable[[Source], tuple[Truth, Found]] | None = None
    about: Mapping[object, object] = field(default_factory=dict)
    folder: Path | None = None
    pictures: Mapping[object, ImageReference] = field(default_factory=dict)
    digest: str | None = None
    any_suffix: bool = False


def make_tasks(
    benchmark: Benchmark,
    source: Source,
    ids: Sequence[object] | None,
    options: Options,
    images: str | PathLike[str] | None = None,
) -> list[Task]:
    """The tasks of a benchmark; one, but for ODinW one per set. images: for readers that look for the pictures.

    Raises ConfigError for an option of another benchmark, DataError for annotations that can't be used.
    """
    for name, benchmarks in BELONGS.items():
        if getattr(options, name) != Options.__dataclass_fields__[name].default and benchmark not in benchmarks:
            raise ConfigError(f"{name} belongs to {', '.join(benchmarks)}, not to {benchmark}")
    if benchmark in ("flickr30k", "refcoco", "odinw") and not isinstance(source, (str, PathLike)):
        raise ConfigError(f"{benchmark} needs a path, not parsed annotations")
    makers: dict[str, Callable[..., list[Task]]] = {
        "coco": _coco,
        "custom": partial(_custom, images=images),
        "coco-ov": _coco_ov,
        "lvis": _lvis,
        "flickr30k": _flickr,
        "odinw": _odinw,
        "refcoco": _refcoco,
    }
    return makers[benchmark](source, ids, options)


def _boxes(
    annotations: Annotations,
    judge: Callable[[Annotations, Found], Scores],
    options: Options,
    *,
    name: str = "predictions",
    names: Sequence[str] | None = None,
    wordings: Sequence[tuple[str, str, str]] | None = None,
    only: Collection[int] | None = None,
) -> Task:
    """A task with categories. names: what to ask for instead of the file's. only: the categories that are asked for."""
    words = annotations.names if names is None else names
    kept = [k for k in range(len(words)) if only is None or k in only]

    def ask() -> Ask:
        from openglip.evaluation.predict import ask_categories

        own, ids = [words[k] for k in kept], [annotations.categories[k]["id"] for k in kept]
        return ask_categories(own, ids, wordings=wordings, chunk_size=options.chunk_size, batch_size=options.batch_size)

    asked = {
        "names": [words[k] for k in kept],
        "prompt": ["".join(w) for w in wordings] if wordings else 'names cleaned and joined by ". "',
        "chunk_size": options.chunk_size or "as many names as fit a prompt",
        "threshold": "0: the model's own cut before centerness alone",
        "batch_size": options.batch_size,
    }
    return Task(
        name=name,
        files={i["id"]: str(i.get("file_name", i["id"])) for i in annotations.images},
        protocol={"images": len(annotations.images), "objects": len(annotations.truth.image)},
        asked=asked,
        ask=ask,
        score=lambda predictions: judge(annotations, read_results(predictions, annotations)),
        annotations=annotations,
        boxes=lambda predictions: (annotations.truth, read_results(predictions, annotations)),
    )


def _coco(source: Source, ids: Sequence[object] | None, options: Options) -> list[Task]:
    return [_boxes(read_annotations(source, ids), partial(coco, plus_one=options.plus_one), options)]


def _custom(
    source: Source, ids: Sequence[object] | None, options: Options, images: str | PathLike[str] | None
) -> list[Task]:
    annotations, pictures = read_custom(source, ids, options.split, images)
    task = _boxes(annotations, custom, options)

    def boxes(predictions: Source) -> tuple[Truth, Found]:
        return annotations.truth, judged_rows(annotations, read_results(predictions, annotations))

    return [replace(task, boxes=boxes, pictures=pictures)]


def _coco_ov(source: Source, ids: Sequence[object] | None, options: Options) -> list[Task]:
    annotations = read_annotations(source, ids)
    base, novel = ov_columns(annotations)
    task = _boxes(annotations, partial(coco_ov, labelled_only=options.labelled_only), options, only=base + novel)
    return [
        replace(task, boxes=lambda p: ov_rows(annotations, read_results(p, annotations), options.labelled_only)[:2])
    ]


def _lvis(source: Source, ids: Sequence[object] | None, options: Options) -> list[Task]:
    if options.split not in (None, "val", "minival"):
        raise ConfigError(f"lvis has the splits val (all images of the file) and minival, not {options.split!r}")
    minival = options.split == "minival"
    annotations = read_annotations(source, ids, keep=in_minival if minival else lambda image: True, federated=True)
    chunk = options.chunk_size or LVIS_CHUNK

    def ask() -> Ask:
        from openglip.evaluation.predict import ask_chunks

        return ask_chunks(annotations.names, [c["id"] for c in annotations.categories], chunk)

    def name(image: Mapping[str, object]) -> str:
        return "/".join(str(image.get("coco_url") or image.get("file_name")).split("/")[-2:])

    task = _boxes(annotations, coco, options)
    split = "minival: the images whose url lies in val2017" if minival else "all images of the file"
    return [
        replace(
            task,
            files={i["id"]: name(i) for i in annotations.images},
            protocol={**task.protocol, "split": split},
            asked={**task.asked, "chunk_size": chunk, "boxes_per_prompt": 300},
            ask=ask,
            score=lambda predictions: lvis(annotations, results(predictions, annotations)),
            boxes=lambda predictions: standard_rows(annotations, results(predictions, annotations)),
        )
    ]


def _flickr(source: str | PathLike[str], ids: Sequence[object] | None, options: Options) -> list[Task]:
    sentences, known = read_sentences(Path(source), ids)
    own: dict[object, list[Sentence]] = {}
    for sentence in sentences:
        own.setdefault(sentence.image_id, []).append(sentence)

    def ask() -> Ask:
        from openglip.evaluation.predict import ask_sentences

        return ask_sentences

    return [
        Task(
            name="predictions",
            files={i: f"{i}.jpg" for i in own},
            protocol={},
            asked={
                "prompt": "the sentence, its phrases from the annotated spans",
                "cap": "100 boxes over all phrases of a sentence",
            },
            ask=ask,
            score=lambda predictions: flickr(sentences, known, predictions),
            about=own,
            digest=_digest(sentences),
            any_suffix=True,
        )
    ]


def _odinw(source: str | PathLike[str], ids: Sequence[object] | None, options: Options) -> list[Task]:
    if ids is not None:
        raise ConfigError("odinw takes no list of ids: its sets are judged whole")
    places, missing = find_sets(Path(source), options.sets, options.split)
    table = options.prompts or "original"
    tasks = []
    for place in places:
        annotations = read_annotations(place.annotations)
        names, wordings = names_and_wordings(place.info, annotations.names, table)
        task = _boxes(annotations, coco, options, name=place.name, names=names, wordings=wordings)
        own = partial(predictions_of, name=place.name, alone=len(places) == 1)
        said = {"annotations": str(place.annotations), "split": place.split, "prompts": table, "sets_missing": missing}
        tasks.append(
            replace(
                task,
                protocol={**task.protocol, **said},
                score=lambda predictions, task=task, own=own: task.score(own(predictions)),
                boxes=lambda predictions, task=task, own=own: task.boxes(own(predictions)),  # type: ignore[misc]
                folder=place.images,
                digest=source_sha256(place.annotations),
            )
        )
    return tasks


def _refcoco(source: str | PathLike[str], ids: Sequence[object] | None, options: Options) -> list[Task]:
    expressions = read_expressions(Path(source), options.split, ids)
    annotations = as_annotations(expressions, describe(source, "annotations"))

    def ask() -> Ask:
        from openglip.evaluation.predict import ask_expressions

        return ask_expressions

    return [
        Task(
            name="predictions",
            files={e.id: e.file_name for e in expressions},
            protocol={"split": options.split} if options.split else {},
            asked={"prompt": "the expression as one phrase", "cap": "10 boxes of an expression"},
            ask=ask,
            score=lambda predictions: refcoco(annotations, read_results(predictions, annotations, key="ref_id")),
            about={e.id: e for e in expressions},
            digest=_digest(expressions),
        )
    ]


def _digest(records: Sequence[object]) -> str:
    return hashlib.sha256("\n".join(map(repr, records)).encode()).hexdigest()
