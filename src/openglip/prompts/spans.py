"""From character spans to token positions: the only place that decides which tokens belong to a name or phrase.

Source: docs/spec.md 3.3.
"""

from __future__ import annotations

from openglip.prompts.text import Prompt
from openglip.prompts.tokens import Tokens
from openglip.structures.sample import Spans


def char_to_token(tokens: Tokens, char: int) -> int | None:
    """Position of the first token that covers a character; None for blanks and characters outside of all tokens."""
    for i, (begin, end) in enumerate(tokens.offsets[1:-1], start=1):
        if begin <= char < end:
            return i
    return None


def span_tokens(tokens: Tokens, begin: int, end: int) -> list[int]:
    """Positions of the tokens of a half-open character span; empty if it has none.

    If the span begins with blanks, up to two characters are skipped, and likewise at its end, as GLIP does.
    """
    first = _first_token(tokens, (begin, begin + 1, begin + 2))
    last = _first_token(tokens, (end - 1, end - 2, end - 3))
    return [] if first is None or last is None else list(range(first, last + 1))


def token_map(prompt: Prompt, tokens: Tokens) -> list[list[int]]:
    """Positions of the tokens of each name or phrase of a prompt, ascending; those of several spans are united."""
    return [phrase_tokens(tokens, spans) for spans in prompt.spans]


def phrase_tokens(tokens: Tokens, spans: Spans) -> list[int]:
    """Positions of the tokens of one name or phrase, ascending; those of several spans are united."""
    return sorted({position for span in spans for position in span_tokens(tokens, *span)})


def _first_token(tokens: Tokens, chars: tuple[int, ...]) -> int | None:
    return next((t for c in chars if (t := char_to_token(tokens, c)) is not None), None)
