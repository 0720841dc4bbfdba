"""Flickr30k Entities as distributed.

    ROOT/Sentences/ID.txt      five lines: "[/EN#chain/type words] words [/EN#chain/type/type words] ."
    ROOT/Annotations/ID.xml    <size>, and <object> with <name>chain</name> (one or several) and <bndbox>
    ROOT/images/ID.jpg         or flickr30k-images/, or a folder or tar given; any suffix
    ROOT/UNRELATED_CAPTIONS    optional (also one level up): "image sentence" of sentences that don't fit, from 1

Sentences and Annotations may be uncompressed tars (Sentences.tar). A phrase has the boxes of every object that bears
its chain's name; chain 0 is not annotated; <nobndbox> and <scene> objects have no box. Corners are used as they are.
Stored images may be smaller than <size>: boxes are in pixels of <size> and follow when an image is loaded.
Source: github.com/BryanPlummer/flickr30k_entities.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from openglip.data.annotations import Boxes
from openglip.data.files import Files, read_lines
from openglip.data.findings import Findings, collector
from openglip.data.format import Candidate, Format, Pair
from openglip.errors import DataError
from openglip.files import FileSlice, StrPath
from openglip.structures.sample import Sample, Span

PHRASE = re.compile(r"\[/EN#(\d+)((?:/[^/\s\]]+)+) ([^\]]+)\]")
Chains = dict[str, list[list[float]]]
Errors = dict[str, DataError]


@dataclass(frozen=True)
class Sentence:
    """One line of an image's sentences.

    Attributes:
        image_id: The image's file name without suffix.
        number: The line, counted from 0.
        caption: The text without mark-up.
        phrases: Per phrase its chain, its types, and its half-open character span in the caption.
    """

    image_id: str
    number: int
    caption: str
    phrases: list[tuple[str, tuple[str, ...], Span]]

    @property
    def id(self) -> str:
        """The image's id and the line's number."""
        return f"{self.image_id}/{self.number}"


class Entities:
    """The files of a Flickr30k Entities root.

    Args:
        root: The folder that holds Sentences and Annotations, or tars of them.
        images: Folder or tar of the images; None searches in the root.
    """

    def __init__(self, root: StrPath, images: StrPath | None = None) -> None:
        self.root = Path(root)
        self._images = images

    def sentences(self, errors: Errors | None = None) -> Iterator[tuple[str, list[Sentence]]]:
        """Each image's id and its sentences, by rising file name.

        Args:
            errors: Takes the error of each file that can't be read under its image's id; None raises it.
        """
        for image_id, text in self._files("Sentences", "Sentences.tar").texts(".txt", errors):
            yield image_id, [Sentence(image_id, i, *parse_sentence(line)) for i, line in enumerate(text.splitlines())]

    def annotations(self, errors: Errors | None = None) -> dict[str, str]:
        """The XML of each image's boxes by the image's id, for `parse_boxes`. errors: as in `sentences`."""
        return dict(self._files("Annotations", "Annotations.tar").texts(".xml", errors))

    def annotation_file(self, image_id: str) -> str:
        """The name of an image's XML, for messages."""
        return f"{self.root}/Annotations/{image_id}.xml"

    @cached_property
    def images(self) -> dict[str, str | FileSlice]:
        """The images by their ids."""
        names = ("images", "flickr30k-images", "images.tar")
        return (self._files(*names) if self._images is None else Files(self._images)).by_stem()

    def image(self, image_id: str) -> str | FileSlice:
        """An image by its id, or the path where it should be."""
        return self.images.get(image_id, str(self.root / "images" / f"{image_id}.jpg"))

    def _files(self, *names: str) -> Files:
        path = next((self.root / name for name in names if (self.root / name).exists()), None)
        if path is None:
            raise DataError(f"{self.root}: not a Flickr30k Entities root: no {' or '.join(names)}")
        return Files(path)


def read_flickr30k(
    root: StrPath,
    images: StrPath | None = None,
    findings: Findings | None = None,
    *,
    ids: Collection[str] | StrPath | None = None,
) -> Iterator[Sample]:
    """One sample per sentence that has a boxed phrase, five at most per image, by rising file name.

    Each (phrase, box) pair is a row of `boxes` with the phrase's span. image_id is "ID/sentence", counted from 0.
    Recorded: unparsable (one file of an image), missing_annotation.

    Args:
        root: The folder that holds Sentences and Annotations.
        images: Folder or tar of the images; None searches in the root.
        findings: Collects what is left out; None logs it.
        ids: Image ids to use, or a file with one a line; None uses all.

    Raises:
        DataError: It is no Flickr30k Entities root.
    """
    report = collector(findings)
    entities = Entities(root, images)
    chosen = set(read_lines(ids) if isinstance(ids, str | Path) else ids) if ids is not None else None  # type: ignore[arg-type]
    unrelated = _unrelated(entities.root)
    bad_boxes, bad_sentences = Errors(), Errors()
    _ = entities.images  # where they are missing, that is reported first
    annotations = entities.annotations(bad_boxes)
    for image_id, sentences in entities.sentences(bad_sentences):
        if chosen is not None and image_id not in chosen:
            continue
        file = entities.annotation_file(image_id)
        if image_id not in annotations and image_id not in bad_boxes:
            report.add("missing_annotation", root, image_id, f"there is no {image_id}.xml for {image_id}.txt")
            continue
        try:
            if image_id in bad_boxes:
                raise bad_boxes[image_id]
            size, chains = parse_boxes(annotations[image_id], file)
        except DataError as error:
            report.add("unparsable", file, image_id, str(error))
            continue
        for sentence in sentences:
            if sentence.id in unrelated:
                report.add("unrelated_caption", root, sentence.id, "the sentence does not describe the image")
                continue
            boxes = Boxes(file, sentence.id, report)
            for chain, _, span in sentence.phrases:
                if not chains.get(chain):
                    boxes.report("phrase_without_box", "a phrase without a box")
                for box in chains.get(chain, []):
                    boxes.add(box, spans=[span])
            image = entities.image(image_id)
            sample = boxes.sample(image, size, caption=sentence.caption, source="flickr30k")
            if len(sample):
                yield sample
            else:
                boxes.report("caption_without_box", "no phrase of the sentence has a box")
    for image_id, error in bad_sentences.items():
        if chosen is None or image_id in chosen:
            report.add("unparsable", f"{root}/Sentences/{image_id}.txt", image_id, str(error))
    report.done(root)


def parse_sentence(line: str) -> tuple[str, list[tuple[str, tuple[str, ...], Span]]]:
    """The sentence without mark-up, and per phrase its chain, types and half-open character span."""
    caption, phrases, end = "", [], 0
    for match in PHRASE.finditer(line):
        caption += line[end : match.start()]
        words = match[3]
        phrases.append((match[1], tuple(match[2].strip("/").split("/")), (len(caption), len(caption) + len(words))))
        caption += words
        end = match.end()
    return caption + line[end:], phrases


def parse_boxes(xml: str, file: object) -> tuple[tuple[int, int], Chains]:
    """(height, width) of the annotated image, and the xyxy boxes per chain. Raises DataError that names the file."""
    try:
        tree = ElementTree.fromstring(xml)
        size = int(tree.findtext("size/height", "")), int(tree.findtext("size/width", ""))
        chains: Chains = defaultdict(list)
        for item in tree.findall("object"):
            box = item.find("bndbox")
            if box is None:
                continue
            corners = [float(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax")]
            for name in item.findall("name"):
                chains[str(name.text).strip()].append(corners)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file}: not a Flickr30k Entities annotation: {error}") from error
    return size, chains


def _unrelated(root: Path) -> set[str]:
    """Ids of the sentences that do not describe their image."""
    file = next((f for f in (root / "UNRELATED_CAPTIONS", root.parent / "UNRELATED_CAPTIONS") if f.is_file()), None)
    rows = [line.split() for line in read_lines(file)] if file else []
    return {f"{row[0]}/{int(row[1]) - 1}" for row in rows if len(row) == 2 and row[1].isdigit()}


def _pairs(root: Path, images: StrPath | None) -> Iterator[Pair]:
    """Every sentence of a root, whether its phrases have boxes or not; Annotations are not needed."""
    entities = Entities(root, images)
    for image_id, sentences in entities.sentences():
        image = entities.image(image_id)
        name = Path(image if isinstance(image, str) else image.name).name
        yield from (Pair(name, image, sentence.caption.strip(), sentence.id) for sentence in sentences)


def _is_flickr30k(candidate: Candidate) -> bool:
    has_sentences = not candidate.names.isdisjoint(("Sentences", "Sentences.tar"))
    return has_sentences and not candidate.names.isdisjoint(("Annotations", "Annotations.tar"))


FLICKR30K = Format("flickr30k", read_flickr30k, _is_flickr30k, pairs=_pairs, scaled=True, repeated=True)
