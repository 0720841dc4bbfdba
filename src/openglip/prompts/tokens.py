"""Word pieces of a text with their character offsets (BERT base uncased; the vocabulary is bundled)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

from openglip.errors import PromptError

MAX_TOKENS = 256
VOCABULARY = Path(__file__).with_name("vocab.txt")


@dataclass(frozen=True)
class Tokens:
    """ids of [CLS], the word pieces, [SEP]; offsets: half-open character range of each, (0, 0) for the two ends."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.ids)


@cache
def _tokenizer() -> Tokenizer:
    return BertWordPieceTokenizer(str(VOCABULARY), lowercase=True)._tokenizer


def tokenize(text: str, max_tokens: int | None = MAX_TOKENS, *, truncate: bool = False) -> Tokens:
    """Word pieces of `text`. Words like "[SEP]" become the special tokens, as in GLIP.

    max_tokens: limit that counts [CLS] and [SEP]; None: no limit. truncate: cut what is over the limit and say so in
    `truncated`; otherwise it is a PromptError. Not padded. Safe to call from several threads.
    """
    try:
        encoding = _tokenizer().encode(text)
    except (TypeError, UnicodeEncodeError) as error:  # lone surrogates; which one, the library's version says
        raise PromptError(f"not a valid unicode string: {text!r:.80}") from error
    ids, offsets = encoding.ids, encoding.offsets
    if max_tokens is None or len(ids) <= max_tokens:
        return Tokens(tuple(ids), tuple(offsets))
    if not truncate:
        place = offsets[max_tokens - 1][0]
        raise PromptError(
            f"the text has {len(ids)} tokens, the limit is {max_tokens}: shorten or split it "
            f"(the first word that does not fit is at character {place}: {text[place : place + 20]!r})"
        )
    return Tokens((*ids[: max_tokens - 1], ids[-1]), (*offsets[: max_tokens - 1], offsets[-1]), truncated=True)


@cache
def pieces() -> tuple[str, ...]:
    """The vocabulary in the order of its ids."""
    return tuple(VOCABULARY.read_text(encoding="utf-8").splitlines())
