"""Features of phrases for a model that reads each by itself: each is encoded once, in batches of equal length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from openglip.errors import PromptError
from openglip.model.head import TextFeatures
from openglip.predict.text import EncodedPrompt, EncodedText
from openglip.prompts.tokens import tokenize

PHRASES = 4096  # that are kept: some 20 MB
_ROOM = 512  # tokens of one batch


class PhraseBook:
    """Remembers phrases' features. Which phrases shared a batch shows in the last bits of their features: what is
    learned in the same order after `forget` is the same."""

    def __init__(self, detector: Any) -> None:
        self.detector, self.model = detector, detector.model
        self._known: dict[str, Tensor] = {}

    def forget(self) -> None:
        self._known.clear()

    def learn(self, phrases: Iterable[str]) -> None:
        """Encode those that are not known yet. Raises PromptError for one without a word piece or too long."""
        phrases = dict.fromkeys(phrases)
        if len(self._known.keys() | phrases) > PHRASES:
            self.forget()
        by_length: dict[int, dict[str, tuple[int, ...]]] = {}
        for phrase in (p for p in phrases if p not in self._known):
            ids = tokenize(phrase, self.model.max_tokens).ids
            if len(ids) < 3:
                raise PromptError(f"phrase {phrase!r} has no letter that the text encoder knows")
            by_length.setdefault(len(ids), {})[phrase] = ids
        for length, group in by_length.items():
            for batch in _runs(list(group.items()), max(1, _ROOM // length)):
                self._encode(dict(batch))

    def text(self, phrases: Sequence[str]) -> EncodedText:
        """Learned phrases as the words to look for on a picture, in prompts of at most the model's tokens."""
        prompts, begin, room = [], 0, self.model.max_tokens
        for i, phrase in enumerate(phrases):
            room -= len(self._known[phrase])
            if room < 0 < i:
                prompts.append(self._prompt(phrases, begin, i))
                begin, room = i, self.model.max_tokens - len(self._known[phrase])
        return EncodedText(self.detector, tuple(phrases), (*prompts, self._prompt(phrases, begin, len(phrases))))

    def _encode(self, batch: dict[str, tuple[int, ...]]) -> None:
        ids = torch.tensor(list(batch.values()), device=self.detector.device)
        with self.detector.inference():
            hidden = self.model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool)).hidden
        self._known.update(zip(batch, hidden[:, 1:-1], strict=True))

    def _prompt(self, phrases: Sequence[str], begin: int, end: int) -> EncodedPrompt:
        parts = [self._known[p] for p in phrases[begin:end]]
        places, start = [], 0
        for part in parts:
            places.append(tuple(range(start, start + len(part))))
            start += len(part)
        hidden = torch.cat(parts)
        features = TextFeatures(hidden, torch.ones(len(hidden), dtype=torch.bool, device=hidden.device))
        return EncodedPrompt(features, tuple(places), torch.arange(begin, end), phrases=True)


def _runs(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[b : b + size] for b in range(0, len(items), size))
