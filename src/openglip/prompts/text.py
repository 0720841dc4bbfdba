"""Category names or a caption become a prompt: one text plus the character spans of each name or phrase."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from operator import index
from typing import Any

from openglip.errors import PromptError
from openglip.prompts.tokens import MAX_TOKENS, tokenize

SEPARATOR = ". "
Span = tuple[int, int]
Spans = tuple[Span, ...]


@dataclass(frozen=True)
class Prompt:
    """A text and where its names or phrases stand in it.

    names: the caller's own strings, one per entry. spans: per entry its half-open character ranges in `caption`.
    """

    caption: str
    names: tuple[str, ...]
    spans: tuple[Spans, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.spans):
            raise PromptError(f"{len(self.names)} names but {len(self.spans)} lists of spans")


def clean_name(name: str) -> str:
    """Write a category name as GLIP puts it into a caption: "bow_(weapon)" becomes "bow ". Source: GLIP_SPEC 3.1.

    Everything from the first "(" to the last ")" goes, "_" becomes a blank, each pair of blanks one blank, once.
    Nothing is stripped: the blanks left over are part of what the released weights have seen.
    """
    begin, end = name.find("("), name.rfind(")")
    if 0 <= begin < end:
        name = name[:begin] + name[end + 1 :]
    return name.replace("_", " ").replace("  ", " ")


def part_names(text: str) -> list[str]:
    """Part one string into names at full stops before a blank or the end, and at commas: "cat. dog, v2.0 box"."""
    return [name for part in re.split(r"\.(?=\s|$)|,", text) if (name := part.strip())]


def check_names(names: Sequence[str], one: str = "category", many: str = "categories") -> None:
    """Refuse names that are empty (after cleaning too) or identical; warn once of names that clean to the same text.

    one, many: what the names are called in messages. Raises PromptError with the position, counted from 0.
    """
    places: dict[str, int] = {}
    looks: dict[str, str] = {}
    alike: list[str] = []
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise PromptError(f"{one} {i} is a {type(name).__name__}, not a string: {name!r}")
        look = clean_name(name).strip().casefold()
        if not look:
            raise PromptError(f"{one} {i} is empty after cleaning: {name!r}; leave it out or name it")
        if name in places:
            raise PromptError(f"{many} {places[name]} and {i} are the same: {name!r}; leave one out")
        places[name] = i
        if look in looks:
            alike.append(f"{looks[look]!r} and {name!r}")
        looks.setdefault(look, name)
    if alike:
        warnings.warn(f"the model can't tell apart {', '.join(alike)}: all are kept", stacklevel=3)


def join_names(
    names: Sequence[str], separator: str = SEPARATOR, *, extra: Sequence[str] = (), closed: bool = False
) -> tuple[str, list[Span]]:
    """Join texts as they are and say where each stands. `extra` texts follow without a span.

    closed: the separator also ends the caption (GLIP's interactive form, with " . ").
    """
    spans: list[Span] = []
    begin = 0
    for name in names:
        spans.append((begin, begin + len(name)))
        begin += len(name) + len(separator)
    return separator.join([*names, *extra]) + (separator if closed else ""), spans


def detection_prompt(
    names: Sequence[str],
    separator: str = SEPARATOR,
    *,
    wordings: Sequence[tuple[str, str, str]] | None = None,
    extra: Sequence[str] = (),
) -> Prompt:
    """Prompt for category names: cleaned, joined, each with the span of its cleaned name.

    wordings: per name (prefix, words, suffix) used as they are instead of the cleaned name; the span covers the words.
    extra: names that take part in the prompt but have no span (distractors).
    Raises PromptError when a name is empty after cleaning or a wording is missing.
    """
    if wordings is None:
        wordings = [("", clean_name(name), "") for name in names]
    if len(wordings) != len(names):
        raise PromptError(f"{len(names)} names but {len(wordings)} wordings: give one (prefix, words, suffix) per name")
    for i, (_, words, _) in enumerate(wordings):
        if not words.strip():
            raise PromptError(f"category {i} is empty after cleaning: {names[i]!r}; leave it out or name it")
    caption, spans = join_names(["".join(w) for w in wordings], separator, extra=[clean_name(e) for e in extra])
    inner = [(b + len(pre), e - len(post)) for (b, e), (pre, _, post) in zip(spans, wordings, strict=True)]
    return Prompt(caption, tuple(names), tuple((span,) for span in inner))


def grounding_prompt(caption: str, phrase_spans: Sequence[Span | Sequence[Span]]) -> Prompt:
    """Prompt for a caption whose phrases are given as half-open character spans, one or several per phrase.

    Raises PromptError when a phrase has no span or a span is empty or leaves the caption.
    """
    spans = tuple(_as_spans(item, i) for i, item in enumerate(phrase_spans))
    for i, phrase in enumerate(spans):
        if not phrase:
            raise PromptError(f"phrase {i} has no span")
        for begin, end in phrase:
            if not 0 <= begin < end <= len(caption):
                raise PromptError(f"phrase {i} has span ({begin}, {end}) in a caption of {len(caption)} characters")
            if not caption[begin:end].strip():
                raise PromptError(f"phrase {i} has span ({begin}, {end}), which holds only blanks")
    names = tuple(" ".join(caption[b:e] for b, e in phrase) for phrase in spans)
    return Prompt(caption, names, spans)


def locate_phrases(caption: str, phrases: Sequence[str | Span | Sequence[Span]]) -> list[Spans]:
    """Character spans of phrases that may be given as text; each next equal text takes the next place in the caption.

    Text is matched as whole words, in the caller's case first, then in any case. Raises PromptError with the position
    of a phrase that is not in the caption (or not that often), or is neither text nor spans.
    """
    if isinstance(phrases, str):
        raise PromptError(f"phrases is one string, {phrases!r:.60}: give a list of strings or spans")
    found: list[Spans] = []
    used: set[Span] = set()
    for i, phrase in enumerate(phrases):
        if not isinstance(phrase, str):
            found.append(_as_spans(phrase, i))
            continue
        if not phrase.strip():
            raise PromptError(f"phrase {i} is empty")
        pattern = r"(?<!\w)" + re.escape(phrase.strip()) + r"(?!\w)"
        places = [m.span() for flags in (0, re.IGNORECASE) for m in re.finditer(pattern, caption, flags)]
        place = next((p for p in places if p not in used), None)
        if place is None:
            often = " that often" if places else ""
            raise PromptError(f"phrase {i}, {phrase!r}, is not in the caption{often}: {caption!r}")
        used.add(place)
        found.append((place,))
    return found


def split_names(
    names: Sequence[str],
    *,
    chunk_size: int | None = None,
    max_tokens: int = MAX_TOKENS,
    separator: str = SEPARATOR,
    extra: Sequence[str] = (),
) -> list[range]:
    """Cut a vocabulary into runs whose prompts fit `max_tokens`: as few as possible, their lengths balanced.

    chunk_size: runs of this many names instead (40 in GLIP's LVIS evaluation); they must fit.
    extra: names that stand in every prompt. Raises PromptError with the position of a name that can't fit or that has
    no word piece.
    """
    gap = _count(separator)
    room = max_tokens - 2 - sum(_count(clean_name(e)) + gap for e in extra)
    lengths = [_count(clean_name(name)) for name in names]
    for i, n in enumerate(lengths):
        if n == 0:
            raise PromptError(f"category {i}, {names[i]!r}, has no letter that the text encoder knows")
        if n > room:
            raise PromptError(
                f"category {i}, {names[i][:60]!r}, has {n} tokens, but there is room for {room}: shorten it"
            )
    if chunk_size is not None:
        return _fixed_runs(names, lengths, gap, room, chunk_size)
    if not names:
        return []
    fewest = len(_greedy(lengths, gap, room))
    low, high = max(lengths), room
    while low < high:  # the smallest room that still needs no more prompts gives balanced ones
        middle = (low + high) // 2
        if len(_greedy(lengths, gap, middle)) <= fewest:
            high = middle
        else:
            low = middle + 1
    return _greedy(lengths, gap, high)


def _fixed_runs(names: Sequence[str], lengths: list[int], gap: int, room: int, chunk_size: int) -> list[range]:
    if chunk_size < 1:
        raise PromptError(f"chunk_size is {chunk_size}; it must be at least 1")
    runs = [range(b, min(b + chunk_size, len(names))) for b in range(0, len(names), chunk_size)]
    for run in runs:
        need = sum(lengths[i] + gap for i in run) - gap
        if need > room:
            raise PromptError(
                f"the {len(run)} categories from {run[0]} ({names[run[0]]!r}) on have {need} tokens, but there is room "
                f"for {room}: use a smaller chunk_size, or None"
            )
    return runs


def _greedy(lengths: list[int], gap: int, room: int) -> list[range]:
    cuts, used = [0], 0
    for i, n in enumerate(lengths):
        if i > cuts[-1] and used + gap + n > room:
            cuts.append(i)
        used = n if i == cuts[-1] else used + gap + n
    return [range(b, e) for b, e in pairwise([*cuts, len(lengths)])]


def _count(text: str) -> int:
    return len(tokenize(text, max_tokens=None).ids) - 2


def _as_spans(item: Any, place: int) -> Spans:
    """One span or several as several; whole numbers of any library count."""
    try:
        several = [item] if len(item) == 2 and all(isinstance(x, Integral) for x in item) else item
        return tuple((index(begin), index(end)) for begin, end in several)
    except (TypeError, ValueError) as error:
        way_out = "give text of the caption, a span (start, end), or a list of spans"
        raise PromptError(f"phrase {place} is {item!r:.60}: {way_out}") from error
