"""Character spans become token positions: the one place that says which tokens belong to a name. GLIP_SPEC 3.3."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openglip.prompts.text import Prompt
from openglip.prompts.tokens import MAX_TOKENS, Tokens


def char_to_token(tokens: Tokens, char: int) -> int | None:
    """Position of the first token that covers a character; None for blanks and characters outside or cut off."""
    for i, (begin, end) in enumerate(tokens.offsets[1:-1], start=1):
        if begin <= char < end:
            return i
    return None


def span_tokens(tokens: Tokens, begin: int, end: int) -> list[int]:
    """Positions of the tokens of a half-open character span, empty when it has none.

    A span that starts on a blank is looked up one and two characters later, one that ends on a blank one and two
    characters earlier, as GLIP does.
    """
    first = _first_found(tokens, (begin, begin + 1, begin + 2))
    last = _first_found(tokens, (end - 1, end - 2, end - 3))
    return [] if first is None or last is None else list(range(first, last + 1))


def token_map(prompt: Prompt, tokens: Tokens) -> list[list[int]]:
    """Per name or phrase of the prompt the ascending positions of its tokens; several spans are united."""
    return [sorted({t for span in spans for t in span_tokens(tokens, *span)}) for spans in prompt.spans]


def positive_map(token_map: Sequence[Sequence[int]], length: int = MAX_TOKENS) -> np.ndarray:
    """N x length float32: row i is 1 / (n + 1e-6) on the n tokens of entry i. Positions beyond it are an error."""
    rows = np.zeros((len(token_map), length), np.float32)
    for row, positions in zip(rows, token_map, strict=True):
        row[list(positions)] = 1 / (np.float32(len(positions)) + np.float32(1e-6))  # in float32, as torch does
    return rows


def token_labels(token_map: Sequence[Sequence[int]], labels: Sequence[int], length: int = MAX_TOKENS) -> np.ndarray:
    """Label of each token, length int64, -1 where there is none; a later entry wins."""
    row = np.full(length, -1, np.int64)
    for positions, label in zip(token_map, labels, strict=True):
        row[list(positions)] = label
    return row


def _first_found(tokens: Tokens, chars: tuple[int, ...]) -> int | None:
    return next((t for c in chars if (t := char_to_token(tokens, c)) is not None), None)
