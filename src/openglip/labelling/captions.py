"""The phrases of web captions that are worth looking for, each with its span; each dropped phrase with its reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from openglip.prompts.phrases import Chunker, may_be_noun, noun_phrases, noun_phrases_of
from openglip.prompts.spans import span_tokens
from openglip.prompts.tokens import MAX_TOKENS, Tokens, tokenize
from openglip.structures.sample import Span

_MEDIA = "illustrations?|images?|photos?|photographs?|photography|pictures?|vectors?|footage|videos?|clip ?arts?|art"
BOILERPLATE = re.compile(
    rf"\broyalty[- ]free(?: (?:stock|{_MEDIA}))*|\b(?:free )?stock (?:{_MEDIA})(?: (?:{_MEDIA}))*|"
    rf"\b(?:vector|cartoon|3d|hand drawn) (?:{_MEDIA})\b|\bclip ?arts?\b|"
    r"\b(?:hd|4k|desktop|phone) (?:wallpapers?|backgrounds?)|"
    r"\bfree download\b|\beps ?10\b|(?:©|\bcopyright\b|\bphoto(?:graph)? by\b|\bimage credit\b|\bcredit:)[^.]*|"
    r"\b(?:getty images|shutterstock|istock(?:photo)?|alamy|dreamstime|depositphotos|123rf)\b|https?://\S+",
    re.IGNORECASE,
)
# Head nouns that name nothing one could draw a box around: the image itself, positions in it, thoughts, time.
NON_VISUAL = frozenset((files("openglip.labelling") / "non_visual.txt").read_text("utf-8").split())
_FUNCTION_WORDS = """
a an the this that these those my your his her its our their some any each every no all both of in on at to for with by
from and or as is are was were be it he she they we you i not very so such own
"""
_STOP = frozenset(_FUNCTION_WORDS.split())
_DASH = re.compile(r"(?<=\s)[-–—|•](?=\s)")
_SENTENCE = re.compile(r"[^.!?;\n]+(?:[.!?;](?!\s|$)[^.!?;\n]*)*")


@dataclass(frozen=True)
class CaptionPhrases:
    """The phrases to look for in one caption.

    Attributes:
        caption: The caption as it was given.
        spans: Half-open character ranges of the phrases, in order.
        chunks: Ranges that divide the caption so that each fits one prompt and no phrase is cut.
        dropped: Numbers of dropped phrases by reason.
    """

    caption: str
    spans: tuple[Span, ...]
    chunks: tuple[Span, ...]
    dropped: Counter[str] = field(default_factory=Counter)

    def used_chunks(self) -> list[Span]:
        """The chunks that hold a phrase."""
        return [(b, e) for b, e in self.chunks if any(b <= begin and end <= e for begin, end in self.spans)]


def find_phrases(
    captions: Sequence[str],
    *,
    chunker: Chunker = "auto",
    max_phrases: int = 20,
    max_words: int = 8,
    max_tokens: int = MAX_TOKENS,
) -> list[CaptionPhrases]:
    """Find the phrases of captions. Several captions at once only save time, with spaCy.

    Boilerplate of stock photos is ignored. Lists of five or more short items are split at the commas. Heads that name
    nothing visible are cut off where a noun precedes them ("lunchbox ideas"), otherwise the phrase is dropped.

    Args:
        captions: The captions.
        chunker: What finds noun phrases; see `prompts.phrases.noun_phrases`.
        max_phrases: Phrases per caption.
        max_words: Words per phrase.
        max_tokens: Tokens per prompt, with both ends.
    """
    masked = [
        _blank(caption, [m.span() for p in (BOILERPLATE, _DASH) for m in p.finditer(caption)]) for caption in captions
    ]
    items = [list(_keyword_items(text)) for text in masked]
    prose = noun_phrases_of([_blank(t, i) for t, i in zip(masked, items, strict=True)], chunker)
    results = []
    for caption, text, spans, caption_items in zip(captions, masked, prose, items, strict=True):
        spans = [*spans, *(span for item in caption_items for span in _phrases_of_item(text, item))]
        results.append(_select(caption, text, spans, max_phrases, max_words, max_tokens))
    return results


def _select(
    caption: str, text: str, spans: list[Span], max_phrases: int, max_words: int, max_tokens: int
) -> CaptionPhrases:
    """Keep the spans that name something visible, and divide the caption into chunks.

    Args:
        caption: The caption.
        text: The caption with boilerplate blanked out.
        spans: Candidates, in any order.
        max_phrases: Phrases to keep.
        max_words: Words per phrase.
        max_tokens: Tokens per chunk.
    """
    dropped = Counter({"boiler-plate": n} if (n := len(BOILERPLATE.findall(caption))) else {})
    tokens = tokenize(caption, max_tokens=None)
    selected = []
    for begin, end in sorted(set(spans)):
        span = _visible_part(text, begin, end)
        reason = _drop_reason(text, span, tokens, max_words)
        if reason is None and len(selected) == max_phrases:
            reason = "over the cap"
        if reason is None and span is not None:
            selected.append(span)
        else:
            dropped[reason or ""] += 1
    return CaptionPhrases(caption, tuple(selected), tuple(_chunks(caption, selected, tokens, max_tokens)), dropped)


def _drop_reason(text: str, span: Span | None, tokens: Tokens, max_words: int) -> str | None:
    """Why a phrase is dropped; None when it is kept."""
    if span is None:
        return "nothing to see"
    words = text[slice(*span)].lower().split()
    if len(words) > max_words:
        return "too many words"
    if len(words) == 1 and not may_be_noun(words[0]) and words[0].endswith("ing"):
        return "no noun"
    if sum(w in _STOP for w in words[1:]) > 0.4 * len(words):
        return "stop words"
    return None if span_tokens(tokens, *span) else "no word piece"


def _visible_part(text: str, begin: int, end: int) -> Span | None:
    """The phrase without heads that name nothing visible; None when no noun is left."""
    words = [(m.start() + begin, m.end() + begin, m[0].lower()) for m in re.finditer(r"\S+", text[begin:end])]
    cut = False
    while words and _is_non_visual(words[-1][2]):
        words.pop()
        cut = True
    if not words or words[-1][2] in _STOP or (cut and not may_be_noun(words[-1][2])):
        return None
    return words[0][0], words[-1][1]


def _is_non_visual(word: str) -> bool:
    singulars = (word, word.removesuffix("s"), word.removesuffix("es"), re.sub("ies$", "y", word))
    return any(w in NON_VISUAL for w in singulars)


def _keyword_items(text: str) -> Iterator[Span]:
    """Ranges of the items of sentences that are lists of keywords: five or more, short ones."""
    for sentence in _SENTENCE.finditer(text):
        items = [(m.start() + sentence.start(), m.end() + sentence.start()) for m in re.finditer("[^,]+", sentence[0])]
        lengths = sorted(len(text[b:e].split()) for b, e in items)
        if len(items) >= 5 and lengths[len(lengths) // 2] <= 3 and lengths[-1] <= 5:
            yield from items


def _phrases_of_item(text: str, item: Span) -> list[Span]:
    return [(item[0] + b, item[0] + e) for b, e in noun_phrases(text[slice(*item)], "rules")]


def _blank(text: str, spans: Sequence[Span]) -> str:
    """The text with ranges overwritten by a full stop and blanks; every other character keeps its position."""
    for begin, end in spans:
        text = text[:begin] + "." + " " * (end - begin - 1) + text[end:]
    return text


def _chunks(caption: str, spans: Sequence[Span], tokens: Tokens, max_tokens: int) -> Iterator[Span]:
    """Divide a caption into ranges of at most `max_tokens`, preferably after a sentence, never inside a phrase."""
    starts = [offset[0] for offset in tokens.offsets[1:-1]]
    inside = {c for b, e in spans for c in range(b + 1, e)}
    begin, first, room = 0, 0, max_tokens - 2
    while len(starts) - first > room:
        window = range(first + 1, first + room + 1)
        candidates = [i for i in window if starts[i] not in inside and not _is_in_word(caption, starts[i])]
        first = max(candidates, key=lambda i: (_cut_quality(caption, starts[i]), i), default=first + room)
        yield begin, starts[first]
        begin = starts[first]
    yield begin, len(caption)


def _is_in_word(caption: str, position: int) -> bool:
    return caption[position - 1].isalnum() and caption[position].isalnum()


def _cut_quality(caption: str, position: int) -> int:
    """Best is a cut after a sentence, then after a comma, then after a blank, then between any two tokens."""
    before = caption[:position].rstrip()[-1:]
    if not caption[position - 1].isspace():
        return 0
    return 3 if before in ".!?;" else 2 if before == "," else 1
