"""The text side of a detection: names or a caption become prompts with encoded tokens, kept for the next image."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openglip.errors import PromptError
from openglip.model.head import TextFeatures
from openglip.prompts.phrases import noun_phrases
from openglip.prompts.spans import token_map
from openglip.prompts.text import (
    Prompt,
    Spans,
    check_names,
    detection_prompt,
    grounding_prompt,
    locate_phrases,
    split_names,
)
from openglip.prompts.tokens import tokenize

# Encoded prompts that a detector keeps: 64 prompts of 256 tokens are 50 MB for GLIP.
CACHED_PROMPTS = 64


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt: its features (None for the closed set), each entry's tokens and place in the vocabulary.

    features: hidden L x D and mask L; where a model compares each word by itself, of the entries' tokens only.
    phrases: whether the entries are phrases of captions, whose boxes some models look at twice.
    """

    features: TextFeatures | None
    token_map: tuple[tuple[int, ...], ...]
    labels: Tensor
    phrases: bool = False


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A vocabulary or a caption's phrases, ready for any number of images of the detector that encoded it."""

    owner: object
    vocabulary: tuple[str, ...]
    prompts: tuple[EncodedPrompt, ...]
    caption: str | None = None
    phrase_spans: tuple[Spans, ...] | None = None


class TextEncoder:
    """Makes `EncodedText` for one model. Safe to call from several threads; keeps the last prompts' features."""

    def __init__(self, model: Any, owner: object) -> None:
        self.model, self.owner = model, owner
        self._features: OrderedDict[str, TextFeatures] = OrderedDict()
        self._lock = threading.Lock()

    def categories(
        self, names: Sequence[str], distractors: Sequence[str] = (), chunk_size: int | None = None
    ) -> EncodedText:
        """Encode category names, in several prompts where they do not fit one.

        Says so, once, when the names need several prompts and no `chunk_size` asks for them.
        Raises PromptError when a name is empty, doubled or too long, or not one of a closed-set model's.
        """
        names, distractors = tuple(names), tuple(distractors)
        if not names:
            raise PromptError("no categories: give at least one name")
        check_names(names)
        check_names(distractors, "distractor", "distractors")
        if both := [name for name in distractors if name in names]:
            raise PromptError(f"{both[0]!r} is a category and a distractor: leave it out of one of them")
        if getattr(self.model, "categories", None) is not None:
            return self._closed_set(names)
        prompts = []
        runs = split_names(names, chunk_size=chunk_size, max_tokens=self.model.max_tokens, extra=distractors)
        if len(runs) > 1 and chunk_size is None:
            limit = f"{self.model.max_tokens} tokens"
            warnings.warn(
                f"{len(names)} categories do not fit one prompt of {limit}: asked in {len(runs)} prompts", stacklevel=2
            )
        for run in runs:
            prompt = detection_prompt([names[i] for i in run], extra=distractors)
            prompts.append(self._encode(prompt, torch.tensor(list(run))))
        return EncodedText(self.owner, names, tuple(prompts))

    def caption(self, caption: str, phrases: Sequence[Any] | None = None) -> EncodedText:
        """Encode a caption and its phrases (strings, character spans, lists of spans; None: its noun phrases).

        Raises PromptError when the caption is empty or too long, or a phrase is not in it.
        """
        if getattr(self.model, "categories", None) is not None:
            raise PromptError(f"{self.model.name} knows a closed set of classes and reads no captions: use detect")
        if not isinstance(caption, str):
            raise PromptError(f"a caption is a string, not a {type(caption).__name__}")
        if not caption.strip():
            raise PromptError("the caption is empty: say what to find")
        tokens = tokenize(caption, self.model.max_tokens)  # first: what it refuses, spaCy must not see
        spans = locate_phrases(caption, phrases) if phrases is not None else [(s,) for s in noun_phrases(caption)]
        if not spans:
            if phrases is not None:
                raise PromptError("the list of phrases is empty: leave it out to find the caption's noun phrases")
            begin = len(caption) - len(caption.lstrip())
            spans = [((begin, len(caption.rstrip())),)]
        prompt = grounding_prompt(caption, spans)
        for i, found in enumerate(token_map(prompt, tokens)):
            if not found:
                raise PromptError(f"phrase {i}, {prompt.names[i]!r}, has no letter that the text encoder knows")
        if getattr(self.model, "phrases_alone", False):
            prompts = self.phrases(prompt.names)
        else:
            prompts = (self._encode(prompt, torch.arange(len(spans))),)
        return EncodedText(self.owner, prompt.names, prompts, caption, prompt.spans)

    def phrases(self, phrases: Sequence[str]) -> tuple[EncodedPrompt, ...]:
        """Phrases without the caption around them, for a model that was trained to read them so."""
        prompts = []
        for run in split_names(phrases, max_tokens=self.model.max_tokens):
            own = [phrases[i] for i in run]
            prompt = detection_prompt(own, wordings=[("", phrase, "") for phrase in own])
            prompts.append(replace(self._encode(prompt, torch.tensor(list(run))), phrases=True))
        return tuple(prompts)

    def _closed_set(self, names: tuple[str, ...]) -> EncodedText:
        known = {name: i for i, name in enumerate(self.model.categories)}
        for i, name in enumerate(names):
            if name not in known:
                raise PromptError(
                    f"category {i}, {name!r}, is not one of the {len(known)} classes of {self.model.name}; "
                    "a model with a text encoder takes any name"
                )
        columns = tuple((known[name],) for name in names)
        return EncodedText(self.owner, names, (EncodedPrompt(None, columns, torch.arange(len(names))),))

    def _encode(self, prompt: Prompt, labels: Tensor) -> EncodedPrompt:
        tokens = tokenize(prompt.caption, self.model.max_tokens)
        with self._lock:
            features = self._features.get(prompt.caption)
            if features is not None:
                self._features.move_to_end(prompt.caption)
        if features is None:
            ids = torch.tensor([tokens.ids], device=next(self.model.parameters()).device)
            encoded = self.model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))
            features = TextFeatures(encoded.hidden[0], encoded.mask[0])
            with self._lock:
                self._features[prompt.caption] = features
                while len(self._features) > CACHED_PROMPTS:
                    self._features.popitem(last=False)
        found = [tuple(t) for t in token_map(prompt, tokens)]
        if getattr(self.model, "words_alone", False):
            used = sorted({t for own in found for t in own}) or [0]
            features = TextFeatures(*(column[used] for column in features))
            place = {t: i for i, t in enumerate(used)}
            found = [tuple(place[t] for t in own) for own in found]
        return EncodedPrompt(features, tuple(found), labels)


def stack(prompts: Sequence[EncodedPrompt]) -> TextFeatures | None:
    """Features of several prompts as one batch, padded to the longest; None for the closed set."""
    features = [p.features for p in prompts]
    if features[0] is None:
        return None
    hidden = torch.nn.utils.rnn.pad_sequence([f.hidden for f in features if f is not None], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([f.mask for f in features if f is not None], batch_first=True)
    return TextFeatures(hidden, mask)
