"""Flickr30k Entities as distributed.

    ROOT/Sentences/ID.txt      five lines: "[/EN#chain/type words] words [/EN#chain/type/type words] ."
    ROOT/Annotations/ID.xml    <size>, and <object> with <name>chain</name> (one or several) and <bndbox>
    ROOT/images/ID.jpg         or flickr30k-images/, or a folder or tar given; any suffix
    ROOT/UNRELATED_CAPTIONS    optional (also one level up): "image sentence" of sentences that don't fit, from 1

Sentences and Annotations may be uncompressed tars (Sentences.tar). A phrase has the boxes of every object that bears
its chain's name; chain 0 is not annotated; <nobndbox> and <scene> objects have no box. Corners are used as they stand.
Stored pictures may be smaller than <size>: boxes are in pixels of <size> and follow when a picture is loaded.
Source: github.com/BryanPlummer/flickr30k_entities.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from openglip.data.files import Files, read_lines
from openglip.data.findings import Findings
from openglip.data.readers.annotations import usable_boxes
from openglip.errors import DataError
from openglip.files import StrPath
from openglip.structures.sample import Sample, Span

PHRASE = re.compile(r"\[/EN#(\d+)((?:/[^/\s\]]+)+) ([^\]]+)\]")


def read_flickr30k(
    root: StrPath,
    images: StrPath | None = None,
    *,
    ids: Collection[str] | StrPath | None = None,
    findings: Findings | None = None,
) -> Iterator[Sample]:
    """One sample per sentence that has a boxed phrase, five at most per picture, by rising file name.

    Each (phrase, box) pair is a row of `boxes` with the phrase's span. image_id is "ID/sentence", counted from 0.
    ids: image ids to use, or a file with one a line; None: all. findings: collects what is left out; None: logged.
    Recorded: unparsable (one file of a picture). Raises DataError with the file.
    """
    report = findings if findings is not None else Findings(keep=False)
    root = Path(root)
    pictures = Files(images or _first_there(root, ("images", "flickr30k-images", "images.tar"))).by_stem()
    wanted = set(read_lines(ids)) if isinstance(ids, str | Path) else None if ids is None else set(ids)  # type: ignore[arg-type]
    bad_boxes, bad_sentences = dict[str, DataError](), dict[str, DataError]()
    boxes_of = dict(Files(_first_there(root, ("Annotations", "Annotations.tar"))).texts(".xml", bad_boxes))
    unrelated = _unrelated(root)
    sentences = Files(_first_there(root, ("Sentences", "Sentences.tar"))).texts(".txt", bad_sentences)
    for stem, text in sentences:
        if wanted is not None and stem not in wanted:
            continue
        if stem in bad_boxes:
            report.add("unparsable", f"{root}/Annotations/{stem}.xml", stem, str(bad_boxes[stem]))
            continue
        if stem not in boxes_of:
            report.add("missing_annotation", root, stem, f"there is no {stem}.xml for {stem}.txt")
            continue
        file = f"{root}/Annotations/{stem}.xml"
        try:
            size, chains = parse_boxes(boxes_of[stem], file)
        except DataError as error:
            report.add("unparsable", file, stem, str(error))
            continue
        for number, line in enumerate(text.splitlines()):
            own = f"{stem}/{number}"
            if (stem, number) in unrelated:
                report.add("unrelated_caption", root, own, "the sentence does not describe the picture")
                continue
            caption, phrases = parse_sentence(line)
            rows = [(box, span) for chain, _, span in phrases for box in chains.get(chain, [])]
            without = sum(1 for chain, _, _ in phrases if not chains.get(chain))
            if without:
                report.add("phrase_without_box", file, own, "phrases without a box", without)
            boxes, kept = usable_boxes([box for box, _ in rows], size, report, file, own)
            if not len(kept):
                report.add("caption_without_box", file, own, "no phrase of the sentence has a box")
                continue
            image = pictures.get(stem, str(root / "images" / f"{stem}.jpg"))
            spans = tuple((rows[i][1],) for i in kept)
            yield Sample(image, size, boxes, caption, spans, image_id=own, source="flickr30k")
    for stem, error in bad_sentences.items():
        if wanted is None or stem in wanted:
            report.add("unparsable", f"{root}/Sentences/{stem}.txt", stem, str(error))
    if findings is None:
        report.log(root)


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


def parse_boxes(xml: str, file: object) -> tuple[tuple[int, int], dict[str, list[list[float]]]]:
    """(height, width) of the annotated picture, and the xyxy boxes per chain."""
    try:
        tree = ElementTree.fromstring(xml)
        size = int(tree.findtext("size/height", "")), int(tree.findtext("size/width", ""))
        chains: dict[str, list[list[float]]] = defaultdict(list)
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


def _first_there(root: Path, names: tuple[str, ...]) -> Path:
    found = next((root / name for name in names if (root / name).exists()), None)
    if found is None:
        raise DataError(f"{root}: not a Flickr30k Entities root: no {' or '.join(names)}")
    return found


def _unrelated(root: Path) -> set[tuple[str, int]]:
    file = next((f for f in (root / "UNRELATED_CAPTIONS", root.parent / "UNRELATED_CAPTIONS") if f.is_file()), None)
    rows = [line.split() for line in read_lines(file)] if file else []
    return {(row[0], int(row[1]) - 1) for row in rows if len(row) == 2 and row[1].isdigit()}
