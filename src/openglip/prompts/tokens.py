"""Word pieces of a text with their character ranges (BERT base uncased; the vocabulary is part of the package)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

from openglip.errors import PromptError
from openglip.structures.sample import Span

MAX_TOKENS = 256
UNKNOWN = 100  # the id of [UNK]
VOCABULARY = Path(__file__).with_name("vocab.txt")


@dataclass(frozen=True)
class Tokens:
    """A tokenised text.

    Attributes:
        ids: Of [CLS], the word pieces, [SEP].
        offsets: Character range of each token, (0, 0) for [CLS] and [SEP].
        truncated: Whether the text was cut to fit the limit.
    """

    ids: tuple[int, ...]
    offsets: tuple[Span, ...]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.ids)


@cache
def _tokenizer() -> Tokenizer:
    return BertWordPieceTokenizer(str(VOCABULARY), lowercase=True)._tokenizer


def tokenize(text: str, max_tokens: int | None = MAX_TOKENS, *, truncate: bool = False) -> Tokens:
    """Split a text into word pieces, without padding. May be called from several threads.

    Words like "[SEP]" become the special tokens, as in GLIP. Source: docs/spec.md 3.2.

    Args:
        text: The text.
        max_tokens: Limit that counts [CLS] and [SEP]; None: no limit.
        truncate: Cut a text over the limit instead of refusing it.

    Raises:
        PromptError: The text is over the limit or is no valid unicode.
    """
    try:
        encoding = _tokenizer().encode(text)
    except (TypeError, UnicodeEncodeError) as error:  # lone surrogates; the error depends on the library's version
        raise PromptError(f"not a valid unicode string: {text!r:.80}") from error
    ids, offsets = encoding.ids, encoding.offsets
    if max_tokens is None or len(ids) <= max_tokens:
        return Tokens(tuple(ids), tuple(offsets))
    if not truncate:
        begin = offsets[max_tokens - 1][0]
        raise PromptError(
            f"the text has {len(ids)} tokens, the limit is {max_tokens}: shorten or split it "
            f"(the first word that does not fit is at character {begin}: {text[begin : begin + 20]!r})"
        )
    return Tokens((*ids[: max_tokens - 1], ids[-1]), (*offsets[: max_tokens - 1], offsets[-1]), truncated=True)


@lru_cache(maxsize=100_000)
def token_count(text: str) -> int:
    """How many word pieces a text has, without [CLS] and [SEP]."""
    return len(tokenize(text, max_tokens=None)) - 2


def word_pieces(text: str) -> tuple[str, ...]:
    """The word pieces of a text; a word that the vocabulary lacks is there as it is."""
    tokens = tokenize(text, None)
    return tuple(
        text[begin:end] if token == UNKNOWN else str(token)
        for token, (begin, end) in zip(tokens.ids, tokens.offsets, strict=True)
    )


def unknown_words(text: str) -> list[str]:
    """The words that the vocabulary lacks: each becomes [UNK], the same for all of them."""
    tokens = tokenize(text, None)
    return [text[b:e] for token, (b, e) in zip(tokens.ids, tokens.offsets, strict=True) if token == UNKNOWN]
