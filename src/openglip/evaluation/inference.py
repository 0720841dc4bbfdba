"""A detector's predictions for a benchmark: which prompts it gets, and files that are complete or absent.

Images are divided into runs of a fixed size. Each run is one file and depends on nothing else, so that any number of
processes (torchrun), killed and started again, end with the same file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openglip.data.files import Files, read_json
from openglip.errors import ConfigError, DataError
from openglip.evaluation.coco import MAX_DETECTIONS
from openglip.files import StrPath, whole_file
from openglip.predict.options import DetectOptions
from openglip.prompts.text import clean_name, detection_prompt
from openglip.runtime import Processes, Progress
from openglip.structures.sample import FileSlice, ImageReference

if TYPE_CHECKING:
    from openglip.predict.detector import Detector

IMAGES_PER_FILE = 32
PER_PROMPT, PER_SENTENCE, PER_EXPRESSION = 300, 100, 10  # boxes that remain
Record = dict[str, Any]
Predictor = Callable[["Detector", Sequence["EvaluatedImage"]], Iterator[list[Record]]]
"""Yields the predictions of each image, in the format that the benchmark's predictions have."""


@dataclass(frozen=True)
class EvaluatedImage:
    """An image to run the detector on.

    Attributes:
        id: Its id in the annotations.
        reference: Where it is.
        prompts: The sentences, or the text of the expression, to ground in it; for benchmarks that have them.
    """

    id: Any
    reference: ImageReference
    prompts: Any = field(default=None, compare=False)

    def open(self) -> str | bytes:
        """Its path, or its encoded content."""
        return self.reference.read() if isinstance(self.reference, FileSlice) else self.reference


def find_images(
    folder: StrPath | None,
    names: Mapping[object, str],
    prompts: Mapping[object, object],
    references: Mapping[object, ImageReference],
) -> list[EvaluatedImage]:
    """Find the images of a set.

    Args:
        folder: Folder or tar of the images.
        names: File names by image id, with or without suffix.
        prompts: What to ground in an image, by image id.
        references: Where images are, by image id; these are not searched for.

    Raises:
        ConfigError: There is no folder to search.
        DataError: A file is missing; the message names the image's id.
    """
    if folder is None and not names.keys() <= references.keys():
        raise ConfigError("a model needs images: the folder or tar of the images")
    files = Files(folder) if folder is not None else None
    by_stem = files.by_stem() if files and not all(Path(name).suffix for name in names.values()) else {}
    images = []
    for image_id, name in names.items():
        reference = references.get(image_id) or by_stem.get(name) or (files.find(name) if files else None)
        if reference is None:
            raise DataError(f"{folder}: no {name}, the file of image {image_id}")
        images.append(EvaluatedImage(image_id, reference, prompts.get(image_id)))
    return images


def predict_categories(
    names: Sequence[str],
    ids: Sequence[Any],
    options: DetectOptions,
    *,
    wordings: Sequence[tuple[str, str, str]] | None = None,
) -> Predictor:
    """Search every image for all names, and keep the 100 best boxes, as the official evaluation does.

    Args:
        names: The categories; blank names can't be searched for and are left out.
        ids: Their ids.
        options: Options of detection.
        wordings: What the caption says for each name: prefix, words, suffix.
    """
    rows = [k for k, name in enumerate(names) if clean_name(name).strip()]
    names, ids = [names[k] for k in rows], [ids[k] for k in rows]
    options = replace(options, threshold=0, top_k=MAX_DETECTIONS)

    def predict(detector: Detector, images: Sequence[EvaluatedImage]) -> Iterator[list[Record]]:
        opened = (image.open() for image in images)
        if wordings is None:
            results = detector.stream(opened, names, options=options)
        else:
            prompt = detection_prompt(names, wordings=[wordings[k] for k in rows])
            spans = [list(spans) for spans in prompt.spans]
            caption_options = replace(options, chunk_size=None)
            results = detector.stream(opened, captions=prompt.caption, phrases=spans, options=caption_options)
        for image, detections in zip(images, results, strict=True):
            yield detections.to_coco(image.id, ids)

    return predict


def predict_chunks(names: Sequence[str], ids: Sequence[Any], options: DetectOptions, chunk_size: int) -> Predictor:
    """Search for names in prompts of a fixed size, with 300 boxes per prompt; each image is encoded once."""
    chunks = [slice(begin, begin + chunk_size) for begin in range(0, len(names), chunk_size)]
    detect = replace(options, threshold=0, top_k=PER_PROMPT, chunk_size=None, distractors=())

    def predict(detector: Detector, images: Sequence[EvaluatedImage]) -> Iterator[list[Record]]:
        texts = [(detector.encode_text(names[c], distractors=options.distractors), ids[c]) for c in chunks]
        for image in images:
            encoded = detector.encode(image.open(), short_side=options.short_side, max_side=options.max_side)
            rows: list[Record] = []
            for text, chunk_ids in texts:
                rows += detector.detect(encoded, text, options=detect).to_coco(image.id, chunk_ids)
            yield rows

    return predict


def predict_sentences(options: DetectOptions) -> Predictor:
    """Flickr30k: ground the given phrases of each sentence, 100 boxes per sentence, in pixels of the annotated size."""
    ground = replace(options, threshold=0, top_k=PER_SENTENCE)

    def predict(detector: Detector, images: Sequence[EvaluatedImage]) -> Iterator[list[Record]]:
        for image in images:
            encoded = detector.encode(image.open(), short_side=options.short_side, max_side=options.max_side)
            rows: list[Record] = []
            for sentence in image.prompts:
                phrases = [list(phrase.spans) for phrase in sentence.phrases]
                detections = detector.ground(encoded, sentence.caption, phrases=phrases, options=ground)
                assert detections.image_size is not None
                scale = [a / b for a, b in zip(sentence.size[::-1], detections.image_size[::-1], strict=True)] * 2
                pixels = detections.boxes.astype(float) * scale
                boxes: list[list[list[float]]] = [[] for _ in phrases]
                for box, label in zip(pixels.tolist(), detections.labels.tolist(), strict=True):
                    boxes[label].append(box)
                rows.append({"image_id": sentence.image_id, "sentence_id": sentence.number, "boxes": boxes})
            yield rows

    return predict


def predict_expressions(options: DetectOptions) -> Predictor:
    """RefCOCO: ground each expression as one phrase."""
    options = replace(options, threshold=0, top_k=PER_EXPRESSION)

    def predict(detector: Detector, images: Sequence[EvaluatedImage]) -> Iterator[list[Record]]:
        for image in images:
            text = image.prompts
            rows = detector.ground(image.open(), text, phrases=[[(0, len(text))]], options=options).to_coco(image.id)
            yield [{"ref_id": row["image_id"], "bbox": row["bbox"], "score": row["score"]} for row in rows]

    return predict


def check_settings(folder: Path, settings: Mapping[str, object]) -> None:
    """Write down what the predictions in a folder depend on.

    Raises:
        ConfigError: The folder holds predictions with other settings.
    """
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


def write_predictions(
    name: str,
    images: Sequence[EvaluatedImage],
    predictor: Predictor,
    detector: Detector,
    folder: Path,
    processes: Processes,
    progress: Callable[[Progress], None] | None = None,
) -> Path:
    """Run a detector on the images of a set.

    Args:
        name: Name of the set.
        images: Its images.
        predictor: What the detector does with them.
        detector: The detector.
        folder: Gets `NAME.json`; what an earlier run left in its `parts` is not done again.
        processes: The processes that share the images.
        progress: Called after each run of images, by the first process.

    Returns:
        The path of `NAME.json`.
    """
    paths = [folder / "parts" / f"{name}-{n:05d}.json" for n in range(-(-len(images) // IMAGES_PER_FILE))]
    for number, path in enumerate(paths):
        end = min((number + 1) * IMAGES_PER_FILE, len(images))
        if number % processes.size == processes.rank and not path.is_file():
            rows = [row for result in predictor(detector, images[number * IMAGES_PER_FILE : end]) for row in result]
            with whole_file(path) as file:
                json.dump(rows, file)
        if progress and processes.rank == 0:
            progress(Progress(end, len(images), "images", name))
    processes.wait()
    whole = folder / f"{name}.json"
    if processes.rank == 0:
        with whole_file(whole) as file:
            file.write("[")
            texts = (path.read_text("utf-8")[1:-1] for path in paths)
            for i, text in enumerate(t for t in texts if t):
                file.write((",\n" if i else "\n") + text)
            file.write("\n]\n")
    processes.wait()
    return whole
