"""From category names or a caption to a prompt: a text with the character ranges of each name or phrase."""

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
from openglip.prompts.tables import Wording
from openglip.prompts.tokens import MAX_TOKENS, token_count, word_pieces
from openglip.structures.sample import Span, Spans

SEPARATOR = ". "


@dataclass(frozen=True)
class Prompt:
    """A text and the position of its names or phrases in it.

    Attributes:
        caption: The text.
        names: The caller's strings, one per entry.
        spans: Character ranges of each entry in `caption`.
    """

    caption: str
    names: tuple[str, ...]
    spans: tuple[Spans, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.spans):
            raise PromptError(f"{len(self.names)} names but {len(self.spans)} lists of spans")


def clean_name(name: str) -> str:
    """A category name as GLIP writes it into a caption: "bow_(weapon)" becomes "bow ". Source: docs/spec.md 3.1.

    Everything from the first "(" to the last ")" is removed, "_" becomes a blank, and each pair of blanks becomes one,
    once. Blanks at the ends stay: the released weights were trained with them.
    """
    begin, end = name.find("("), name.rfind(")")
    if 0 <= begin < end:
        name = name[:begin] + name[end + 1 :]
    return name.replace("_", " ").replace("  ", " ")


# A full stop separates before a blank or at the end, in lists of names not after an initial or "St".
_SEPARATORS = r",;\n\r\v\f\x85\u2028\u2029\u060c\u061b\u3001\u3002\uff0c\uff0e\uff1b\uff61\uff64"
_SEPARATOR = re.compile(rf"[{_SEPARATORS}]|\.+(?=\s|$)")
_SEPARATOR_IN_NAME = re.compile(rf"[{_SEPARATORS}]|(?<!\b[A-Z])(?<!\b[A-Z]\w)\.(?=\s|$)")


def parse_names(text: str) -> list[str]:
    """The names in one string: "cat. dog, v2.0 box" holds three.

    Names are separated by commas, semicolons (full-width, Chinese and Arabic ones too), line breaks and full stops. A
    full stop separates only before a blank or at the end; a warning names words that are joined by one.
    """
    names = [name for part in _SEPARATOR.split(text) if (name := part.strip())]
    if joined := [name for name in names if re.search(r"[^\W\d_]{2}\.[^\W\d_]{2}", name)]:
        warnings.warn(f"{_listed(joined)} is one name: write a blank after a full stop that separates", stacklevel=2)
    return names


def warn_of_separators(names: Sequence[str]) -> None:
    """Warn once of names in a list that look like several."""
    if several := [name for name in names if isinstance(name, str) and _SEPARATOR_IN_NAME.search(name)]:
        warnings.warn(f"{_listed(several)} is one name of the list, although it holds a separator", stacklevel=3)


def _listed(names: Sequence[str]) -> str:
    more = f" (and {len(names) - 3} more)" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def check_names(names: Sequence[str], one: str = "category", many: str = "categories") -> None:
    """Refuse names that are empty or identical, and warn once of names that have the same word pieces.

    Args:
        names: The names.
        one: What a name is called in messages.
        many: The same in the plural.

    Raises:
        PromptError: The message has the position of the name, counted from 0.
    """
    positions: dict[str, int] = {}
    originals: dict[tuple[str, ...], str] = {}  # by word pieces
    alike: list[str] = []
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise PromptError(f"{one} {i} is a {type(name).__name__}, not a string: {name!r}")
        cleaned = clean_name(name)
        if not cleaned.strip():
            raise PromptError(f"{one} {i} is empty after cleaning: {name!r}; leave it out or name it")
        if name in positions:
            raise PromptError(f"{many} {positions[name]} and {i} are the same: {name!r}; leave one out")
        positions[name] = i
        pieces = word_pieces(cleaned)
        if pieces in originals:
            alike.append(f"{originals[pieces]!r} and {name!r}")
        originals.setdefault(pieces, name)
    if alike:
        warnings.warn(f"the model can't tell apart {', '.join(alike)}: all are kept", stacklevel=3)


def join_names(
    names: Sequence[str], separator: str = SEPARATOR, *, distractors: Sequence[str] = ()
) -> tuple[str, list[Span]]:
    """Join names as they are.

    Args:
        names: The names.
        separator: The text between them.
        distractors: Further names at the end, without a span.

    Returns:
        The caption, and the span of each name in it.
    """
    spans: list[Span] = []
    begin = 0
    for name in names:
        spans.append((begin, begin + len(name)))
        begin += len(name) + len(separator)
    return separator.join([*names, *distractors]), spans


def detection_prompt(
    names: Sequence[str],
    separator: str = SEPARATOR,
    *,
    wordings: Sequence[Wording] | None = None,
    distractors: Sequence[str] = (),
) -> Prompt:
    """The prompt for category names: the cleaned names, joined, each with its span.

    Args:
        names: The names.
        separator: The text between them.
        wordings: (prefix, words, suffix) of each name, used as they are in place of the cleaned name; the span covers
            the words.
        distractors: Names that take part in the prompt but have no span.

    Raises:
        PromptError: A name is empty after cleaning, or a wording is missing.
    """
    if wordings is None:
        wordings = [wording_of(name) for name in names]
    if len(wordings) != len(names):
        raise PromptError(f"{len(names)} names but {len(wordings)} wordings: give one (prefix, words, suffix) per name")
    for i, (_, words, _) in enumerate(wordings):
        if not words.strip():
            raise PromptError(f"category {i} is empty after cleaning: {names[i]!r}; leave it out or name it")
    caption, spans = join_wordings(wordings, separator, distractors=[clean_name(name) for name in distractors])
    return Prompt(caption, tuple(names), tuple((span,) for span in spans))


def wording_of(name: str) -> Wording:
    """The wording of a name that has none: its cleaned text, with nothing around it."""
    return "", clean_name(name), ""


def join_wordings(
    wordings: Sequence[Wording], separator: str = SEPARATOR, *, distractors: Sequence[str] = ()
) -> tuple[str, list[Span]]:
    """The caption for wordings, which are used as they are, and the span of the words of each."""
    caption, spans = join_names(["".join(wording) for wording in wordings], separator, distractors=distractors)
    inner = [(b + len(before), e - len(after)) for (b, e), (before, _, after) in zip(spans, wordings, strict=True)]
    return caption, inner


def grounding_prompt(caption: str, phrase_spans: Sequence[Span | Sequence[Span]]) -> Prompt:
    """The prompt for a caption with phrases.

    Args:
        caption: The caption.
        phrase_spans: Per phrase one character range, or several.

    Raises:
        PromptError: A phrase has no span, or a span is empty, blank or outside of the caption.
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
    """Character ranges of phrases that may be given as text.

    A text is matched as whole words, first in its own case, then in any case. Of equal texts the second one gets the
    second match, and so on.

    Args:
        caption: The caption.
        phrases: Texts, spans, or lists of spans.

    Raises:
        PromptError: A phrase is not in the caption, not that often, or neither text nor spans.
    """
    if isinstance(phrases, str):
        raise PromptError(f"phrases is one string, {phrases!r:.60}: give a list of strings or spans")
    located: list[Spans] = []
    used: set[Span] = set()
    for i, phrase in enumerate(phrases):
        if not isinstance(phrase, str):
            located.append(_as_spans(phrase, i))
            continue
        if not phrase.strip():
            raise PromptError(f"phrase {i} is empty")
        pattern = r"(?<!\w)" + re.escape(phrase.strip()) + r"(?!\w)"
        matches = [m.span() for flags in (0, re.IGNORECASE) for m in re.finditer(pattern, caption, flags)]
        span = next((m for m in matches if m not in used), None)
        if span is None:
            often = " that often" if matches else ""
            raise PromptError(f"phrase {i}, {phrase!r}, is not in the caption{often}: {caption!r}")
        used.add(span)
        located.append((span,))
    return located


def split_names(
    names: Sequence[str],
    *,
    chunk_size: int | None = None,
    max_tokens: int = MAX_TOKENS,
    separator: str = SEPARATOR,
    distractors: Sequence[str] = (),
) -> list[range]:
    """Split a vocabulary into chunks whose prompts fit the text encoder: as few as possible, of similar lengths.

    Args:
        names: The names.
        chunk_size: Names per chunk (40 in GLIP's LVIS evaluation); None: as many as fit.
        max_tokens: Limit of tokens per prompt.
        separator: The text between names.
        distractors: Names that are part of every prompt.

    Returns:
        The indices of the names of each chunk.

    Raises:
        PromptError: A name can't fit or has no word piece, or a chunk of `chunk_size` does not fit.
    """
    gap = token_count(separator)
    room = max_tokens - 2 - sum(token_count(clean_name(name)) + gap for name in distractors)
    lengths = [token_count(clean_name(name)) for name in names]
    for i, length in enumerate(lengths):
        if length == 0:
            raise PromptError(f"category {i}, {names[i]!r}, has no letter that the text encoder knows")
        if length > room:
            raise PromptError(
                f"category {i}, {names[i][:60]!r}, has {length} tokens, but there is room for {room}: shorten it"
            )
    if chunk_size is not None:
        return _chunks_of(chunk_size, names, lengths, gap, room)
    if not names:
        return []
    fewest = len(_greedy(lengths, gap, room))
    low, high = max(lengths), room
    while low < high:  # the smallest room that needs no more chunks balances them
        middle = (low + high) // 2
        if len(_greedy(lengths, gap, middle)) <= fewest:
            high = middle
        else:
            low = middle + 1
    return _greedy(lengths, gap, high)


def _chunks_of(size: int, names: Sequence[str], lengths: list[int], gap: int, room: int) -> list[range]:
    if size < 1:
        raise PromptError(f"chunk_size is {size}; it must be at least 1")
    chunks = [range(b, min(b + size, len(names))) for b in range(0, len(names), size)]
    for chunk in chunks:
        count = sum(lengths[i] + gap for i in chunk) - gap
        if count > room:
            raise PromptError(
                f"the {len(chunk)} categories from {chunk[0]} ({names[chunk[0]]!r}) on have {count} tokens, but there "
                f"is room for {room}: use a smaller chunk_size, or None"
            )
    return chunks


def _greedy(lengths: list[int], gap: int, room: int) -> list[range]:
    """Chunks that each hold as many of the next names as fit."""
    cuts, used = [0], 0
    for i, length in enumerate(lengths):
        if i > cuts[-1] and used + gap + length > room:
            cuts.append(i)
        used = length if i == cuts[-1] else used + gap + length
    return [range(b, e) for b, e in pairwise([*cuts, len(lengths)])]


def _as_spans(item: Any, position: int) -> Spans:
    """One span or several as several; integers of any library count."""
    try:
        several = [item] if len(item) == 2 and all(isinstance(x, Integral) for x in item) else item
        return tuple((index(begin), index(end)) for begin, end in several)
    except (TypeError, ValueError) as error:
        advice = "give text of the caption, a span (start, end), or a list of spans"
        raise PromptError(f"phrase {position} is {item!r:.60}: {advice}") from error
