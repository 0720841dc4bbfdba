"""Features of phrases for a model that reads each by itself: each is encoded once, in batches of equal length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from openglip.errors import PromptError
from openglip.predict.backends.base import Backend, EncodedTokens
from openglip.predict.text import EncodedPrompt, EncodedText
from openglip.prompts.tokens import tokenize

MAX_PHRASES = 4096  # some 20 MB of features
TOKENS_PER_BATCH = 512

Item = TypeVar("Item")


class PhraseBook:
    """Remembers the features of phrases.

    Which phrases shared a batch shows in the last bits of their features: phrases that are learned in the same order
    after `forget` have the same features.

    Args:
        backend: Of a model that `reads_phrases_alone`.
        detector_id: Of the detector whose images will be searched.
    """

    def __init__(self, backend: Backend, detector_id: str) -> None:
        self.backend, self.detector_id = backend, detector_id
        self._features: dict[str, tuple[EncodedTokens, int]] = {}  # of each phrase, with its number of tokens

    def forget(self) -> None:
        """Drop all phrases."""
        self._features.clear()

    def learn(self, phrases: Iterable[str]) -> None:
        """Encode the phrases that are new.

        Raises:
            PromptError: A phrase is too long, or has no word piece.
        """
        phrases = dict.fromkeys(phrases)
        if len(self._features.keys() | phrases) > MAX_PHRASES:
            self.forget()
        by_length: dict[int, dict[str, tuple[int, ...]]] = {}
        for phrase in (p for p in phrases if p not in self._features):
            ids = tokenize(phrase, self.backend.max_tokens).ids
            if len(ids) < 3:
                raise PromptError(f"phrase {phrase!r} has no letter that the text encoder knows")
            by_length.setdefault(len(ids), {})[phrase] = ids
        for length, group in by_length.items():
            for batch in _runs(list(group.items()), max(1, TOKENS_PER_BATCH // length)):
                features = self.backend.encode_text([ids for _, ids in batch])
                self._features.update(
                    (phrase, (tokens, length - 2)) for (phrase, _), tokens in zip(batch, features, strict=True)
                )

    def text(self, phrases: Sequence[str]) -> EncodedText:
        """Learned phrases as the words to look for in an image, in prompts of at most the model's tokens."""
        prompts: list[EncodedPrompt] = []
        begin, room = 0, self.backend.max_tokens
        for i, phrase in enumerate(phrases):
            count = self._features[phrase][1]
            room -= count
            if room < 0 < i:
                prompts.append(self._prompt(phrases, begin, i))
                begin, room = i, self.backend.max_tokens - count
        return EncodedText(self.detector_id, tuple(phrases), (*prompts, self._prompt(phrases, begin, len(phrases))))

    def _prompt(self, phrases: Sequence[str], begin: int, end: int) -> EncodedPrompt:
        features = [self._features[phrase] for phrase in phrases[begin:end]]
        token_map: list[tuple[int, ...]] = []
        start = 0
        for _, count in features:
            token_map.append(tuple(range(start, start + count)))
            start += count
        inner = [range(1, count + 1) for _, count in features]  # without [CLS] and [SEP]
        tokens = self.backend.select_tokens([encoded for encoded, _ in features], inner)
        return EncodedPrompt(tokens, tuple(token_map), np.arange(begin, end), phrases=True)


def _runs(items: list[Item], size: int) -> Iterator[list[Item]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))
