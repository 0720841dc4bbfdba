"""What each benchmark consists of: the images, the prompts for a detector, and how predictions are scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Literal

from openglip.errors import ConfigError
from openglip.evaluation.coco import Scores, ov_boxes, ov_categories, score_coco, score_coco_ov
from openglip.evaluation.custom import judged_predictions, score_custom
from openglip.evaluation.flickr import Sentence, read_sentences, score_flickr
from openglip.evaluation.inference import (
    Predictor,
    predict_categories,
    predict_chunks,
    predict_expressions,
    predict_sentences,
)
from openglip.evaluation.lvis import in_minival, score_lvis, standard_boxes
from openglip.evaluation.matching import GroundTruth, Predictions
from openglip.evaluation.odinw import find_sets, names_and_wordings, predictions_of
from openglip.evaluation.read import (
    Annotations,
    JsonSource,
    iterate_results,
    read_annotations,
    read_results,
    source_sha256,
)
from openglip.evaluation.refcoco import as_annotations, read_expressions, score_refcoco
from openglip.evaluation.samples import read_custom
from openglip.files import StrPath
from openglip.predict.options import DetectOptions
from openglip.prompts.tables import PromptTable
from openglip.structures.sample import ImageReference

Benchmark = Literal["coco", "coco-ov", "lvis", "flickr30k", "odinw", "refcoco", "custom"]
Ids = Sequence[object] | None
LVIS_CHUNK = 40  # names per prompt in GLIP's evaluation
DETECT = DetectOptions(batch_size=1)  # what an evaluation uses by default


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of `openglip.evaluate` that some benchmarks have, and those of detection; see there."""

    split: str | None = None
    prompts: PromptTable | None = None
    sets: str | None = None
    labelled_only: bool = False
    plus_one: bool = False
    detect: DetectOptions = DETECT


FIXED = ("threshold", "top_k", "on_error")  # by the protocols of the benchmarks
BENCHMARKS_WITH: dict[str, tuple[Benchmark, ...]] = {
    "split": ("lvis", "odinw", "refcoco", "custom"),
    "prompts": ("odinw",),
    "sets": ("odinw",),
    "labelled_only": ("coco-ov",),
    "plus_one": ("coco",),
    "chunk_size": ("coco", "lvis", "odinw", "custom"),
    "batch_size": ("coco", "coco-ov", "odinw", "custom"),
    "distractors": ("coco", "coco-ov", "lvis", "odinw", "custom"),
}


@dataclass(frozen=True)
class BenchmarkSet:
    """One set of images of a benchmark. ODinW has several, the others have one.

    Attributes:
        name: Name of the set, and of its file of predictions.
        files: File names by image id (for RefCOCO by the id of the expression), with or without suffix.
        protocol: Scoring settings, for the report.
        inference: Inference settings, for the report.
        predictor: Runs a detector.
        score: Scores predictions, in a file or parsed.
        annotations: The annotations, of benchmarks with categories and RefCOCO.
        scored_boxes: The true and the predicted boxes that are scored, of benchmarks with categories.
        prompts: Sentences or the text of the expression to ground, by image id.
        folder: Folder of the images, where the annotations imply it.
        references: Where images are, by image id, where the annotations say it.
        digest: Digest of the annotations where they are not one file.
    """

    name: str
    files: Mapping[object, str]
    protocol: Mapping[str, object]
    inference: Mapping[str, object]
    predictor: Predictor
    score: Callable[[JsonSource], Scores]
    annotations: Annotations | None = None
    scored_boxes: Callable[[JsonSource], tuple[GroundTruth, Predictions]] | None = None
    prompts: Mapping[object, object] = field(default_factory=dict)
    folder: Path | None = None
    references: Mapping[object, ImageReference] = field(default_factory=dict)
    digest: str | None = None


def benchmark_sets(
    benchmark: Benchmark, source: JsonSource, ids: Ids, options: BenchmarkOptions, images: StrPath | None = None
) -> list[BenchmarkSet]:
    """The sets of a benchmark.

    Args:
        benchmark: Name of the benchmark.
        source: The annotations.
        ids: Ids of the images to evaluate; None takes all.
        options: Options of the benchmark.
        images: Folder or tar of the images, for formats whose reader needs it.

    Raises:
        ConfigError: An option is fixed, or belongs to other benchmarks.
        DataError: The annotations can't be used.
    """
    for name in [*_changed(options), *_changed(options.detect)]:
        if name in FIXED:
            raise ConfigError(f"{name} is fixed by the protocol of {benchmark}: leave it out")
        if name in BENCHMARKS_WITH and benchmark not in BENCHMARKS_WITH[name]:
            raise ConfigError(f"{name} is an option of {', '.join(BENCHMARKS_WITH[name])}, not of {benchmark}")
    if benchmark in ("flickr30k", "refcoco", "odinw") and not isinstance(source, (str, PathLike)):
        raise ConfigError(f"{benchmark} needs a path, not parsed annotations")
    makers: dict[Benchmark, Callable[..., BenchmarkSet | list[BenchmarkSet]]] = {
        **{"coco": _coco, "coco-ov": _coco_ov, "lvis": _lvis, "custom": _custom},
        **{"flickr30k": _flickr, "odinw": _odinw, "refcoco": _refcoco},
    }
    sets = makers[benchmark](source, ids, options, images)
    return sets if isinstance(sets, list) else [sets]


def _changed(options: BenchmarkOptions | DetectOptions) -> list[str]:
    """Names of the options that do not have their default values."""
    default = DETECT if isinstance(options, DetectOptions) else BenchmarkOptions()
    names = [option.name for option in fields(options)]
    return [n for n in names if n != "detect" and getattr(options, n) != getattr(default, n)]


def _inference(options: DetectOptions, **settings: object) -> dict[str, object]:
    """Inference settings for the report: those given, and the options of detection that were changed."""
    changed = {name: getattr(options, name) for name in _changed(options) if name not in ("chunk_size", "batch_size")}
    return {**settings, **changed}


def _category_set(
    annotations: Annotations,
    score: Callable[[Annotations, Predictions], Scores],
    options: BenchmarkOptions,
    *,
    name: str = "predictions",
    names: Sequence[str] | None = None,
    wordings: Sequence[tuple[str, str, str]] | None = None,
    categories: Collection[int] | None = None,
    select: Callable[[JsonSource], JsonSource] = lambda predictions: predictions,
    scored: Callable[[Annotations, Predictions], tuple[GroundTruth, Predictions]] = lambda a, p: (a.truth, p),
) -> BenchmarkSet:
    """A set with categories.

    Args:
        annotations: Images, categories and boxes.
        score: Scores predicted boxes.
        options: Options of the benchmark.
        name: Name of the set.
        names: Names to search for, per category; None takes those of the annotations.
        wordings: What the caption says for each name: prefix, words, suffix.
        categories: Indices of the categories to search for; None takes all.
        select: Takes the predictions of this set from those of the benchmark.
        scored: The true and the predicted boxes that are scored, from those of the files.
    """
    names = annotations.names if names is None else names
    indices = sorted(range(len(names)) if categories is None else categories)
    searched, ids = [names[k] for k in indices], [annotations.categories[k]["id"] for k in indices]

    def read(predictions: JsonSource) -> Predictions:
        return read_results(select(predictions), annotations)

    detect = options.detect
    inference = _inference(
        detect,
        names=searched,
        prompt=["".join(w) for w in wordings] if wordings else 'names cleaned and joined by ". "',
        chunk_size=detect.chunk_size or "as many names as fit a prompt",
        threshold="0: the model's own cut before centerness alone",
        batch_size=detect.batch_size,
    )
    return BenchmarkSet(
        name=name,
        files={image["id"]: str(image.get("file_name", image["id"])) for image in annotations.images},
        protocol={"images": len(annotations.images), "objects": len(annotations.truth)},
        inference=inference,
        predictor=predict_categories(searched, ids, detect, wordings=wordings),
        score=lambda predictions: score(annotations, read(predictions)),
        annotations=annotations,
        scored_boxes=lambda predictions: scored(annotations, read(predictions)),
    )


def _coco(source: JsonSource, ids: Ids, options: BenchmarkOptions, images: StrPath | None) -> BenchmarkSet:
    return _category_set(read_annotations(source, ids), partial(score_coco, plus_one=options.plus_one), options)


def _custom(source: JsonSource, ids: Ids, options: BenchmarkOptions, images: StrPath | None) -> BenchmarkSet:
    annotations, references = read_custom(source, ids, options.split, images)
    whole = _category_set(annotations, score_custom, options, scored=lambda a, p: (a.truth, judged_predictions(a, p)))
    return replace(whole, references=references)


def _coco_ov(source: JsonSource, ids: Ids, options: BenchmarkOptions, images: StrPath | None) -> BenchmarkSet:
    annotations = read_annotations(source, ids)
    base, novel = ov_categories(annotations)
    score = partial(score_coco_ov, labelled_only=options.labelled_only)
    scored = partial(ov_boxes, labelled_only=options.labelled_only)
    return _category_set(annotations, score, options, categories=base + novel, scored=scored)


def _lvis(source: JsonSource, ids: Ids, options: BenchmarkOptions, images: StrPath | None) -> BenchmarkSet:
    if options.split not in (None, "val", "minival"):
        raise ConfigError(f"lvis has the splits val (all images of the file) and minival, not {options.split!r}")
    minival = options.split == "minival"
    annotations = read_annotations(source, ids, keep=in_minival if minival else lambda image: True, federated=True)
    chunk_size = options.detect.chunk_size or LVIS_CHUNK
    category_ids = [category["id"] for category in annotations.categories]
    urls = {image["id"]: str(image.get("coco_url") or image.get("file_name")) for image in annotations.images}
    split = "minival: the images whose url lies in val2017" if minival else "all images of the file"
    whole = _category_set(annotations, score_coco, options)
    return replace(
        whole,
        files={image_id: "/".join(url.split("/")[-2:]) for image_id, url in urls.items()},
        protocol={**whole.protocol, "split": split},
        inference={**whole.inference, "chunk_size": chunk_size, "boxes_per_prompt": 300},
        predictor=predict_chunks(annotations.names, category_ids, options.detect, chunk_size),
        score=lambda predictions: score_lvis(annotations, iterate_results(predictions, annotations)),
        scored_boxes=lambda predictions: standard_boxes(annotations, iterate_results(predictions, annotations)),
    )


def _flickr(source: StrPath, ids: Ids, options: BenchmarkOptions, images: StrPath | None) -> BenchmarkSet:
    sentences, all_ids = read_sentences(source, ids)
    by_image: dict[object, list[Sentence]] = {}
    for sentence in sentences:
        by_image.setdefault(sentence.image_id, []).append(sentence)
    prompt, cap = "the sentence, its phrases from the annotated spans", "100 boxes over all phrases of a sentence"
    return BenchmarkSet(
        name="predictions",
        files={image_id: str(image_id) for image_id in by_image},
        protocol={},
        inference=_inference(options.detect, prompt=prompt, cap=cap),
        predictor=predict_sentences(options.detect),
        score=lambda predictions: score_flickr(sentences, all_ids, predictions),
        prompts=by_image,
        digest=_digest(sentences),
    )


def _odinw(source: StrPath, ids: Ids, options: BenchmarkOptions, images: StrPath | None) -> list[BenchmarkSet]:
    if ids is not None:
        raise ConfigError("odinw takes no list of ids: its sets are evaluated as a whole")
    set_files, missing = find_sets(Path(source), options.sets, options.split)
    table = options.prompts or "original"
    result = []
    for files in set_files:
        annotations = read_annotations(files.annotations)
        names, wordings = names_and_wordings(files.info, annotations.names, table)
        select = partial(predictions_of, name=files.name, alone=len(set_files) == 1)
        whole = _category_set(
            annotations, score_coco, options, name=files.name, names=names, wordings=wordings, select=select
        )
        origin = {"annotations": str(files.annotations), "split": files.split, "prompts": table}
        protocol = {**whole.protocol, **origin, "sets_missing": missing}
        digest = source_sha256(files.annotations)
        result.append(replace(whole, protocol=protocol, folder=files.images, digest=digest))
    return result


def _refcoco(source: StrPath, ids: Ids, options: BenchmarkOptions, images: StrPath | None) -> BenchmarkSet:
    expressions = read_expressions(source, options.split, ids)
    annotations = as_annotations(expressions, str(source))
    return BenchmarkSet(
        name="predictions",
        files={expression.id: expression.file_name for expression in expressions},
        protocol={"split": options.split} if options.split else {},
        inference=_inference(options.detect, prompt="the expression as one phrase", cap="10 boxes of an expression"),
        predictor=predict_expressions(options.detect),
        score=lambda predictions: score_refcoco(annotations, read_results(predictions, annotations, key="ref_id")),
        prompts={expression.id: expression.text for expression in expressions},
        digest=_digest(expressions),
    )


def _digest(records: Sequence[object]) -> str:
    return hashlib.sha256("\n".join(map(repr, records)).encode()).hexdigest()
