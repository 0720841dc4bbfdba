"""Drawing: boxes with their names, and a caption whose phrases are underlined in the colours of their boxes."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from openglip.structures.sample import Span

Colour = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
Rect = tuple[float, float, float, float]

_COLOURS = "e6194b 3cb44b 4363d8 f58231 911eb4 00a5a5 f032e6 9a6324 808000 000075 d4a017 469990 800000 1e90ff ff69b4"
_PALETTE = [(int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in _COLOURS.split()]
_GREY: Colour = (150, 150, 150)
_LEAST_SIDE = 640  # images with a shorter long side are enlarged to it, so that names can be read
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "msgothic.ttc")


def colour_of(label: int) -> Colour:
    """The colour of a label: fifteen are chosen by hand, the hues of further ones are the golden ratio apart."""
    if label < len(_PALETTE):
        return _PALETTE[label]
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 0.8)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(
    image: Image.Image | np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    vocabulary: Sequence[str],
    scores: Sequence[float] | np.ndarray | None = None,
    *,
    caption: str | None = None,
    phrase_spans: Sequence[Sequence[Span]] | None = None,
) -> Image.Image:
    """Draw boxes with their names on a copy of an image.

    Small images are enlarged. Names for which there is no room at their box are listed in a legend below.

    Args:
        image: RGB, PIL or H x W x 3 uint8.
        boxes: N x 4 xyxy in pixels of the image, best first.
        labels: N indices into the vocabulary.
        vocabulary: The names or phrases.
        scores: N numbers to write after the names.
        caption: A text to write below the image.
        phrase_spans: The character ranges of each phrase of the vocabulary in the caption; they are underlined in the
            colour of its boxes, or in grey if it has none.

    Returns:
        The drawing, RGB.
    """
    drawing = (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")
    factor = max(1.0, _LEAST_SIDE / max(drawing.size))
    if factor > 1:
        size = (max(1, round(drawing.width * factor)), max(1, round(drawing.height * factor)))
        drawing = drawing.resize(size, Image.Resampling.BICUBIC)
    else:
        drawing = drawing.copy()
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4) * factor
    labels = [int(label) for label in labels]
    text_size = _text_size(drawing.size, len(boxes))
    _draw_boxes(drawing, boxes, labels, text_size)
    names = [vocabulary[label] for label in labels]
    tags = names if scores is None else [f"{name} {s:.2f}" for name, s in zip(names, scores, strict=True)]
    untagged = _draw_tags(drawing, boxes, labels, tags, text_size)
    panel_size = max(15, text_size)
    if caption is not None:
        drawing = _below(drawing, _caption_panel(drawing.width, caption, phrase_spans or (), set(labels), panel_size))
    if untagged:
        counts = Counter(labels[i] for i in untagged)
        drawing = _below(drawing, _legend(drawing.width, counts, vocabulary, panel_size))
    return drawing


def _text_size(size: tuple[int, int], count: int) -> int:
    side = (size[0] * size[1]) ** 0.5
    crowded = 1.0 if count <= 12 else 0.85 if count <= 40 else 0.7
    return round(max(11, side / 36 * crowded))


def _draw_boxes(drawing: Image.Image, boxes: np.ndarray, labels: list[int], text_size: int) -> None:
    width = max(2, round(text_size / 7))
    fill = 30 if len(boxes) <= 12 else 0
    pen = ImageDraw.Draw(drawing, "RGBA")
    for box, label in zip(boxes[::-1], labels[::-1], strict=True):  # the best come last, on top
        x1, y1, x2, y2 = _inside(box, drawing.size)
        colour = colour_of(label)
        pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(255, 255, 255, 150), width=width + 2)
        pen.rectangle((x1, y1, x2, y2), fill=(*colour, fill), outline=(*colour, 255), width=width)


def _draw_tags(
    drawing: Image.Image, boxes: np.ndarray, labels: list[int], tags: list[str], text_size: int
) -> list[int]:
    """Write a tag at each box where it covers no earlier tag; returns the indices of boxes without a tag."""
    pen = ImageDraw.Draw(drawing, "RGBA")
    pad = max(2, text_size // 5)
    rectangles: list[Rect] = []
    untagged: list[int] = []
    for i, (box, label, tag) in enumerate(zip(boxes, labels, tags, strict=True)):
        tag = _shortened(tag, drawing.width - 2 * pad, text_size)
        font = _font(text_size, tag)
        width, height = font.getlength(tag) + 2 * pad, text_size * 1.25 + pad
        rectangle = _free_rectangle(_inside(box, drawing.size), width, height, drawing.size, rectangles)
        if rectangle is None:
            untagged.append(i)
            continue
        rectangles.append(rectangle)
        colour = colour_of(label)
        pen.rounded_rectangle(rectangle, radius=pad, fill=(*colour, 235))
        middle = (rectangle[1] + rectangle[3]) / 2
        pen.text((rectangle[0] + pad, middle), tag, font=font, fill=_text_colour(colour), anchor="lm")
    return untagged


def _free_rectangle(box: Rect, width: float, height: float, size: tuple[int, int], taken: list[Rect]) -> Rect | None:
    """A rectangle at a corner of the box that overlaps none of those taken; None if there is none."""
    x1, y1, x2, y2 = box
    corners = [
        (x1, y1 - height),  # above, inside at the top, below, inside at the bottom; left and then right
        (x1, y1),
        (x1, y2),
        (x1, y2 - height),
        (x2 - width, y1 - height),
        (x2 - width, y1),
        (x2 - width, y2),
        (x2 - width, y2 - height),
    ]
    for left, top in corners:
        left = min(max(left, 0), size[0] - width)
        if not 0 <= top <= size[1] - height:
            continue
        free = (left, top, left + width, top + height)
        if all(free[2] <= t[0] or t[2] <= free[0] or free[3] <= t[1] or t[3] <= free[1] for t in taken):
            return free
    return None


def _caption_panel(
    width: int, caption: str, phrase_spans: Sequence[Sequence[Span]], labels: set[int], text_size: int
) -> Image.Image:
    """The caption in lines; below each character one bar per phrase that covers it, grey if it has no box."""
    font = _font(text_size, caption)
    rows = [[i for i, spans in enumerate(phrase_spans) for b, e in spans if b <= c < e] for c in range(len(caption))]
    bar = max(3, text_size // 5)
    deepest = max((len(r) for r in rows), default=0)
    step = round(text_size * 1.35) + deepest * (bar + 1) + bar
    margin = text_size // 2
    lines = _lines(caption, font, width - 2 * margin)
    panel = Image.new("RGB", (width, len(lines) * step + margin), "white")
    pen = ImageDraw.Draw(panel)
    for number, (begin, end) in enumerate(lines):
        top = margin // 2 + number * step
        pen.text((margin, top), caption[begin:end], font=font, fill=(25, 25, 25))
        for c in range(begin, end):
            # from right to left, and where letters join, a text may be shorter with one letter more
            left, right = sorted(margin + font.getlength(caption[begin:x]) for x in (c, c + 1))
            for depth, phrase in enumerate(rows[c]):
                y = top + text_size * 1.3 + depth * (bar + 1)
                pen.rectangle((left, y, right, y + bar - 1), fill=colour_of(phrase) if phrase in labels else _GREY)
    return panel


def _lines(text: str, font: Font, width: float) -> list[tuple[int, int]]:
    """Character ranges of the lines of a text, broken at blanks, or within a word that is wider than a line."""
    lines: list[tuple[int, int]] = []
    begin = 0
    while begin < len(text):
        end = begin + 1
        while end < len(text) and text[end] != "\n" and font.getlength(text[begin : end + 1]) <= width:
            end += 1
        if end < len(text) and not text[end].isspace():
            blank = text.rfind(" ", begin + 1, end)
            end = blank if blank > 0 else end
        lines.append((begin, end))
        begin = end + 1 if end < len(text) and text[end].isspace() else end
    return lines or [(0, 0)]


def _legend(width: int, counts: Counter[int], vocabulary: Sequence[str], text_size: int) -> Image.Image:
    """Colours, names and numbers of the boxes without a tag."""
    margin, step = text_size // 2, round(text_size * 1.6)
    entries: list[tuple[int, int, int, str]] = []
    x = y = margin
    for label, count in counts.most_common():
        entry = _shortened(f"{vocabulary[label]} ({count})", width - 3 * text_size, text_size)
        length = _font(text_size, entry).getlength(entry) + 2.5 * text_size
        if x > margin and x + length > width:
            x, y = margin, y + step
        entries.append((x, y, label, entry))
        x += round(length)
    panel = Image.new("RGB", (width, y + step + margin), "white")
    pen = ImageDraw.Draw(panel)
    for x, y, label, entry in entries:
        pen.rectangle((x, y + 2, x + text_size, y + text_size + 2), fill=colour_of(label))
        pen.text((x + round(1.4 * text_size), y), entry, font=_font(text_size, entry), fill=(25, 25, 25))
    return panel


def _below(drawing: Image.Image, panel: Image.Image) -> Image.Image:
    joined = Image.new("RGB", (drawing.width, drawing.height + panel.height), "white")
    joined.paste(drawing, (0, 0))
    joined.paste(panel, (0, drawing.height))
    return joined


def _shortened(text: str, width: float, text_size: int) -> str:
    font = _font(text_size, text)
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _font(size: int, text: str) -> Font:
    """Pillow's font; for text beyond Latin letters a font of the machine, if it has one of those listed."""
    if any(ord(c) > 0x24F for c in text):
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _text_colour(colour: Colour) -> Colour:
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    return (0, 0, 0) if bright > 150 else (255, 255, 255)


def _inside(box: np.ndarray, size: tuple[int, int]) -> Rect:
    x1, x2 = sorted(np.clip(box[[0, 2]], 0, size[0] - 1).tolist())
    y1, y2 = sorted(np.clip(box[[1, 3]], 0, size[1] - 1).tolist())
    return x1, y1, x2, y2
