"""What each benchmark is made of: pictures to look at, what to ask, and how predictions are scored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from openglip.errors import ConfigError
from openglip.evaluation.coco import Scores, coco, coco_ov
from openglip.evaluation.custom import custom
from openglip.evaluation.flickr import Sentence, flickr, read_sentences
from openglip.evaluation.lvis import in_minival, lvis
from openglip.evaluation.odinw import find_sets, names_and_wordings, predictions_of
from openglip.evaluation.read import Annotations, Source, describe, read_annotations, read_results, results
from openglip.evaluation.refcoco import as_annotations, read_expressions, refcoco
from openglip.prompts.tables import PromptTable, coco_ov_split

if TYPE_CHECKING:
    from openglip.evaluation.predict import Ask, Picture

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
    "split": ("lvis", "odinw", "refcoco"),
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

    image_ids: of what is judged. protocol: rules known beforehand. asked: rules of asking a model. pictures: opens them
    below the folder given. score: judges predictions. boxes: annotations for pictures of the result, where it has boxes
    of categories.
    """

    name: str
    image_ids: Sequence[object]
    protocol: Mapping[str, object]
    asked: Mapping[str, object]
    pictures: Callable[[str | PathLike[str]], Sequence[Picture]]
    ask: Callable[[], Ask]
    score: Callable[[Source], Scores]
    annotations: Annotations | None = None


def make_tasks(benchmark: Benchmark, source: Source, ids: Sequence[object] | None, options: Options) -> list[Task]:
    """The tasks of a benchmark; one, but for ODinW one per set.

    Raises ConfigError for an option of another benchmark, DataError for annotations that can't be used.
    """
    for name, benchmarks in BELONGS.items():
        if getattr(options, name) != Options.__dataclass_fields__[name].default and benchmark not in benchmarks:
            raise ConfigError(f"{name} belongs to {', '.join(benchmarks)}, not to {benchmark}")
    if benchmark in ("flickr30k", "refcoco", "odinw") and not isinstance(source, (str, PathLike)):
        raise ConfigError(f"{benchmark} needs a path, not parsed annotations")
    makers: dict[str, Callable[..., list[Task]]] = {
        "coco": _coco,
        "custom": _custom,
        "coco-ov": _coco_ov,
        "lvis": _lvis,
        "flickr30k": _flickr,
        "odinw": _odinw,
        "refcoco": _refcoco,
    }
    return makers[benchmark](source, ids, options)


def _boxes(
    annotations: Annotations,
    score: Callable[[Source], Scores],
    options: Options,
    *,
    name: str = "predictions",
    names: Sequence[str] | None = None,
    wordings: Sequence[tuple[str, str, str]] | None = None,
    only: Collection[str] | None = None,
    protocol: Mapping[str, object] | None = None,
) -> Task:
    """A task with categories. names: what to ask for instead of the file's. only: the names that are asked for."""
    words = annotations.names if names is None else names
    pairs = [(w, c["id"]) for w, c in zip(words, annotations.categories, strict=True) if only is None or w in only]

    def ask() -> Ask:
        from openglip.evaluation.predict import ask_categories

        asked, ids = zip(*pairs, strict=True)
        sizes = {"chunk_size": options.chunk_size, "batch_size": options.batch_size}
        return ask_categories(asked, ids, wordings=wordings, **sizes)

    asked = {
        "names": [w for w, _ in pairs],
        "prompt": ["".join(w) for w in wordings] if wordings else 'names cleaned and joined by ". "',
        "chunk_size": options.chunk_size or "as many names as fit a prompt",
        "threshold": "0: the model's own cut before centerness alone",
        "batch_size": options.batch_size,
    }
    return Task(
        name,
        [i["id"] for i in annotations.images],
        {"images": len(annotations.images), "objects": len(annotations.truth.image), **(protocol or {})},
        asked,
        lambda folder: _open(folder, {i["id"]: str(i.get("file_name", i["id"])) for i in annotations.images}),
        ask,
        score,
        annotations,
    )


def _open(folder: str | PathLike[str], names: Mapping[object, str], any_suffix: bool = False) -> Sequence[Picture]:
    from openglip.evaluation.predict import find_pictures

    return find_pictures(folder, names, any_suffix=any_suffix)


def _coco(source: Source, ids: Sequence[object] | None, options: Options) -> list[Task]:
    annotations = read_annotations(source, ids)

    def score(predictions: Source) -> Scores:
        return coco(annotations, read_results(predictions, annotations), plus_one=options.plus_one)

    return [_boxes(annotations, score, options)]


def _custom(source: Source, ids: Sequence[object] | None, options: Options) -> list[Task]:
    annotations = read_annotations(source, ids)
    return [_boxes(annotations, lambda p: custom(annotations, read_results(p, annotations)), options)]


def _coco_ov(source: Source, ids: Sequence[object] | None, options: Options) -> list[Task]:
    annotations = read_annotations(source, ids)
    split = {name for part in coco_ov_split().values() for name in part}

    def score(predictions: Source) -> Scores:
        return coco_ov(annotations, read_results(predictions, annotations), labelled_only=options.labelled_only)

    return [_boxes(annotations, score, options, only=split)]


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

    task = _boxes(annotations, lambda p: lvis(annotations, results(p, annotations)), options)
    split = "minival: the images whose url lies in val2017" if minival else "all images of the file"
    return [
        replace(
            task,
            protocol={**task.protocol, "split": split},
            asked={**task.asked, "chunk_size": chunk, "boxes_per_prompt": 300},
            ask=ask,
            pictures=lambda folder: _open(folder, {i["id"]: name(i) for i in annotations.images}),
        )
    ]


def _flickr(source: str | PathLike[str], ids: Sequence[object] | None, options: Options) -> list[Task]:
    sentences, known = read_sentences(Path(source), ids)

    own: dict[object, list[Sentence]] = {}
    for sentence in sentences:
        own.setdefault(sentence.image_id, []).append(sentence)

    def pictures(folder: str | PathLike[str]) -> Sequence[Picture]:
        found = _open(folder, {i: f"{i}.jpg" for i in own}, any_suffix=True)
        return [replace(p, about=own[p.id]) for p in found]

    def ask() -> Ask:
        from openglip.evaluation.predict import ask_sentences

        return ask_sentences

    asked = {
        "prompt": "the sentence, its phrases from the annotated spans",
        "cap": "100 boxes over all phrases of a sentence",
    }
    return [Task("predictions", list(own), {}, asked, pictures, ask, lambda p: flickr(sentences, known, p))]


def _odinw(source: str | PathLike[str], ids: Sequence[object] | None, options: Options) -> list[Task]:
    if ids is not None:
        raise ConfigError("odinw takes no list of ids: its sets are judged whole")
    places, missing = find_sets(Path(source), options.sets, options.split)
    tasks = []
    for place in places:
        annotations = read_annotations(place.annotations)
        table = options.prompts or "original"
        names, wordings = names_and_wordings(place.info, annotations.names, table)

        def score(predictions: Source, place=place, annotations=annotations) -> Scores:
            own = predictions_of(predictions, place.name, alone=len(places) == 1)
            return coco(annotations, read_results(own, annotations))

        protocol = {
            "annotations": str(place.annotations),
            "split": place.split,
            "prompts": table,
            "sets_missing": missing,
        }
        task = _boxes(annotations, score, options, name=place.name, names=names, wordings=wordings, protocol=protocol)
        tasks.append(replace(task, pictures=lambda folder, task=task, place=place: task.pictures(place.images)))
    return tasks


def _refcoco(source: str | PathLike[str], ids: Sequence[object] | None, options: Options) -> list[Task]:
    expressions = read_expressions(Path(source), options.split, ids)
    annotations = as_annotations(expressions, describe(source, "annotations"))

    def pictures(folder: str | PathLike[str]) -> Sequence[Picture]:
        found = _open(folder, {e.id: e.file_name for e in expressions})
        return [replace(p, about=e) for p, e in zip(found, expressions, strict=True)]

    def ask() -> Ask:
        from openglip.evaluation.predict import ask_expressions

        return ask_expressions

    def score(predictions: Source) -> Scores:
        return refcoco(annotations, read_results(predictions, annotations, key="ref_id"))

    asked = {"prompt": "the expression as one phrase", "cap": "10 boxes of an expression"}
    return [Task("predictions", [e.id for e in expressions], {}, asked, pictures, ask, score)]
