"""The text side of a detection: from names or a caption to encoded prompts, which are cached for the next image."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, TypeAlias, cast

import numpy as np

from openglip.errors import ConfigError, PromptError
from openglip.predict.backends.base import Backend, EncodedTokens
from openglip.prompts.phrases import noun_phrases
from openglip.prompts.spans import token_map
from openglip.prompts.text import (
    Prompt,
    Span,
    Spans,
    check_names,
    clean_name,
    detection_prompt,
    grounding_prompt,
    locate_phrases,
    parse_names,
    split_names,
    warn_of_separators,
)
from openglip.prompts.tokens import tokenize, unknown_words

# Encoded prompts that a detector keeps: 64 prompts of 256 tokens are 50 MB for GLIP.
CACHED_PROMPTS = 64

Phrase: TypeAlias = "str | Span | Sequence[Span]"
Phrases: TypeAlias = "Sequence[Phrase] | None"


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt of a vocabulary.

    Attributes:
        tokens: Features of its tokens; None for a model with fixed categories.
        token_map: For each entry the positions of its tokens.
        labels: For each entry its index into the vocabulary, int64.
        phrases: Whether the entries are phrases of captions.
    """

    tokens: EncodedTokens | None
    token_map: tuple[tuple[int, ...], ...]
    labels: np.ndarray
    phrases: bool = False


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A vocabulary, or a caption's phrases, ready for any number of images of the detector that encoded it."""

    detector_id: str
    vocabulary: tuple[str, ...]
    prompts: tuple[EncodedPrompt, ...]
    caption: str | None = None
    phrase_spans: tuple[Spans, ...] | None = None


Categories: TypeAlias = "str | EncodedText | Sequence[str] | Sequence[Sequence[str] | EncodedText]"


class TextEncoder:
    """Makes `EncodedText` for one backend and keeps the last prompts' features. Safe to call from several threads."""

    def __init__(self, backend: Backend, detector_id: str) -> None:
        self.backend, self.detector_id = backend, detector_id
        self._cache: OrderedDict[str, EncodedTokens] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"backend": self.backend, "detector_id": self.detector_id}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    # ---- one text

    def categories(
        self,
        names: str | Sequence[str],
        distractors: Sequence[str] = (),
        chunk_size: int | None = None,
        warned: set[str] | None = None,
    ) -> EncodedText:
        """Encode category names, in several prompts where they do not fit one.

        Warns when the names need several prompts and no `chunk_size` asks for them, of words that the text encoder does
        not know, and of names in a list that look like several.

        Args:
            names: A list of names, or one string, which is split.
            distractors: Words that take part in the prompts only.
            chunk_size: Names per prompt; None: as many as fit.
            warned: Unknown words of which there was a warning; new ones are added.

        Raises:
            PromptError: A name is empty, doubled or too long, or not one of the classes of a closed-set model.
        """
        if isinstance(names, str):
            names = parse_names(names)
        else:
            names = as_list(names, "categories")
            warn_of_separators(names)
        names, distractors = tuple(names), tuple(as_list(distractors, "distractors"))
        if not names:
            raise PromptError("no categories: give at least one name")
        check_names(names)
        check_names(distractors, "distractor", "distractors")
        if both := [name for name in distractors if name in names]:
            raise PromptError(f"{both[0]!r} is a category and a distractor: leave it out of one of them")
        if self.backend.categories is not None:
            return self._closed_set(names, self.backend.categories)
        _warn_of_unknown_words(map(clean_name, (*names, *distractors)), set() if warned is None else warned)
        max_tokens = self.backend.max_tokens
        runs = split_names(names, chunk_size=chunk_size, max_tokens=max_tokens, distractors=distractors)
        if len(runs) > 1 and chunk_size is None:
            warnings.warn(
                f"{len(names)} categories do not fit one prompt of {max_tokens} tokens: asked in {len(runs)} prompts",
                stacklevel=2,
            )
        prompts: list[EncodedPrompt] = []
        for run in runs:
            prompt = detection_prompt([names[i] for i in run], distractors=distractors)
            prompts.append(self._encode(prompt, np.array(run, np.int64)))
        return EncodedText(self.detector_id, names, tuple(prompts))

    def caption(self, caption: str, phrases: Phrases = None, warned: set[str] | None = None) -> EncodedText:
        """Encode a caption and its phrases.

        Args:
            caption: The text.
            phrases: Strings, character spans or lists of spans; None: the caption's noun phrases.
            warned: As for `categories`.

        Raises:
            PromptError: The caption is empty or too long, or a phrase is not in it.
        """
        if self.backend.categories is not None:
            raise PromptError(f"{self.backend.name} knows a closed set of classes and reads no captions: use detect")
        if not isinstance(caption, str):  # pyright: ignore[reportUnnecessaryIsInstance]  callers are not all typed
            raise PromptError(f"a caption is a string, not a {type(caption).__name__}")
        if not caption.strip():
            raise PromptError("the caption is empty: say what to find")
        tokens = tokenize(caption, self.backend.max_tokens)  # first: spaCy must not see what this refuses
        spans = locate_phrases(caption, phrases) if phrases is not None else [(s,) for s in noun_phrases(caption)]
        if not spans:
            if phrases is not None:
                raise PromptError("the list of phrases is empty: leave it out to find the caption's noun phrases")
            begin = len(caption) - len(caption.lstrip())
            spans = [((begin, len(caption.rstrip())),)]
        prompt = grounding_prompt(caption, spans)
        for i, positions in enumerate(token_map(prompt, tokens)):
            if not positions:
                raise PromptError(f"phrase {i}, {prompt.names[i]!r}, has no letter that the text encoder knows")
        _warn_of_unknown_words([caption], set() if warned is None else warned)
        if self.backend.reads_phrases_alone:
            prompts = self.phrases_alone(prompt.names)
        else:
            prompts = (self._encode(prompt, np.arange(len(spans)), phrases=True),)
        return EncodedText(self.detector_id, prompt.names, prompts, caption, prompt.spans)

    def phrases_alone(self, phrases: Sequence[str]) -> tuple[EncodedPrompt, ...]:
        """Phrases without the caption around them, for a model that was trained to read them so."""
        prompts: list[EncodedPrompt] = []
        for run in split_names(phrases, max_tokens=self.backend.max_tokens):
            texts = [phrases[i] for i in run]
            prompt = detection_prompt(texts, wordings=[("", text, "") for text in texts])
            prompts.append(self._encode(prompt, np.array(run, np.int64), phrases=True))
        return tuple(prompts)

    def _closed_set(self, names: tuple[str, ...], classes: tuple[str, ...]) -> EncodedText:
        columns = {name: i for i, name in enumerate(classes)}
        for i, name in enumerate(names):
            if name not in columns:
                raise PromptError(
                    f"category {i}, {name!r}, is not one of the {len(columns)} classes of {self.backend.name}; "
                    "a model with a text encoder takes any name"
                )
        prompt = EncodedPrompt(None, tuple((columns[name],) for name in names), np.arange(len(names)))
        return EncodedText(self.detector_id, names, (prompt,))

    def _encode(self, prompt: Prompt, labels: np.ndarray, *, phrases: bool = False) -> EncodedPrompt:
        tokens = tokenize(prompt.caption, self.backend.max_tokens)
        with self._lock:
            features = self._cache.get(prompt.caption)
            if features is not None:
                self._cache.move_to_end(prompt.caption)
        if features is None:
            features = self.backend.encode_text([tokens.ids])[0]
            with self._lock:
                self._cache[prompt.caption] = features
                while len(self._cache) > CACHED_PROMPTS:
                    self._cache.popitem(last=False)
        positions = [tuple(entry) for entry in token_map(prompt, tokens)]
        if self.backend.tokens_are_independent:
            used = sorted({token for entry in positions for token in entry}) or [0]
            features = self.backend.select_tokens([features], [used])
            rank = {token: i for i, token in enumerate(used)}
            positions = [tuple(rank[token] for token in entry) for entry in positions]
        return EncodedPrompt(features, tuple(positions), labels, phrases)

    # ---- a text per image

    def category_texts(
        self, categories: Categories, distractors: Sequence[str], chunk_size: int | None, images: int | None
    ) -> Iterator[EncodedText]:
        """An endless series of one vocabulary, or one vocabulary per image.

        Args:
            categories: See `Detector.detect`.
            distractors: Words that take part in the prompts only.
            chunk_size: Names per prompt.
            images: How many images there are; None when that is not known.

        Raises:
            PromptError: The categories can't become prompts, or there are not as many lists of them as images.
            ConfigError: They were encoded by another detector.
        """
        warned: set[str] = set()

        def encode(item: Any) -> EncodedText:
            if not isinstance(item, EncodedText):
                return self.categories(item, distractors, chunk_size, warned)
            if chunk_size is not None or distractors:
                raise ConfigError("these words are encoded already: give distractors and chunk_size to encode_text")
            check_detector(item.detector_id, self.detector_id)
            return item

        if isinstance(categories, (str, EncodedText)):
            return repeat(encode(categories))
        items = as_list(categories, "categories")
        if not items or not all(isinstance(item, (list, tuple, EncodedText)) for item in items):
            return repeat(encode(items))  # names; one that is no string is refused with its position
        _check_count(len(items), "lists of categories", images)
        return (encode(item) for item in items)

    def caption_texts(
        self, captions: str | Iterable[str], phrases: Iterable[Any] | None, images: int | None
    ) -> Iterator[EncodedText]:
        """An endless series of one caption, or one caption per image; arguments as of `category_texts`."""
        per_image = None if phrases is None else as_list(phrases, "phrases")
        encode = partial(self.caption, warned=set())
        if isinstance(captions, str):
            if per_image is None or not _is_nested(per_image):
                return repeat(encode(captions, per_image))
            captions = [captions] * len(per_image)
        captions = as_list(captions, "captions")
        _check_count(len(captions), "captions", images)
        if per_image is not None and len(per_image) != len(captions):
            raise PromptError(
                f"{len(captions)} captions but {len(per_image)} lists of phrases: give one list per caption"
            )
        return map(encode, captions, per_image or [None] * len(captions))


def _warn_of_unknown_words(texts: Iterable[str], warned: set[str]) -> None:
    """Warn of the words that the text encoder can't tell apart, of each once."""
    words = list(dict.fromkeys(w for text in texts for w in unknown_words(text) if w not in warned))
    if words:
        warned.update(words)
        listed = ", ".join(map(repr, words[:10])) + (", ..." if len(words) > 10 else "")
        warnings.warn(
            f"the text encoder does not know {listed}: all such words are the same to the model; use English ones",
            stacklevel=4,
        )


def check_detector(detector_id: str, expected: str) -> None:
    """Raise ConfigError when something was encoded by another detector."""
    if detector_id != expected:
        raise ConfigError("this was encoded by another detector: encode it with the one that uses it")


def as_list(items: Any, what: str) -> list[Any]:
    """The items as a list. Raises PromptError for one string, which would be split into its letters."""
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise PromptError(f"{what} must be a list, not {items!r:.60}")
    return list(cast("Iterable[Any]", items))


def _check_count(count: int, what: str, images: int | None) -> None:
    if images is not None and count != images:
        raise PromptError(f"{count} {what} for {images} images: give one per image, or one for all")


def _is_nested(phrases: list[Any]) -> bool:
    """Whether this is one list of phrases per image: every item is itself a list with a string inside."""
    return bool(phrases) and all(
        isinstance(item, (list, tuple)) and any(isinstance(x, str) for x in cast("Sequence[Any]", item))
        for item in phrases
    )
