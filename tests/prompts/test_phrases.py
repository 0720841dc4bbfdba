from __future__ import annotations

import itertools
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglip.errors import ConfigError, MissingExtraError
from openglip.prompts import phrases
from openglip.prompts.phrases import noun_phrases, noun_phrases_of, resolve_chunker

CASES = {
    "a woman in a red coat crosses the road": ["a woman", "a red coat", "the road"],
    "A smiling man jumps over two parked cars .": ["A smiling man", "two parked cars"],
    "the man's dog and a black and white cat run": ["the man's dog", "a black and white cat"],
    "a red, white and blue flag": ["a red, white and blue flag"],
    "a group of people stands in front of a house": ["a group of people", "a house"],
    "a boy jumps into the water": ["a boy", "the water"],
    "two dogs run on a snow covered hill": ["two dogs", "a snow covered hill"],
    "a girl dressed in red": ["a girl", "red"],
    "they look at each other": [],
    "person battles with person": ["person", "person"],
    "Vintage Ford Mustang near the Eiffel Tower, Paris": ["Vintage Ford Mustang", "the Eiffel Tower", "Paris"],
    "classic t-shirt": ["classic t-shirt"],
    "": [],
}


@pytest.mark.parametrize("caption", CASES)
def test_rules(caption: str) -> None:
    assert [caption[b:e] for b, e in noun_phrases(caption, "rules")] == CASES[caption]


def test_equal_and_overlapping_words_keep_their_own_spans() -> None:
    assert noun_phrases("a hot dog and a dog and a dog", "rules") == [(0, 9), (14, 19), (24, 29)]


@given(st.text(max_size=80))
def test_spans_are_ordered_apart_and_not_blank(caption: str) -> None:
    spans = noun_phrases(caption, "rules")
    assert all(0 <= b < e <= len(caption) and caption[b:e] == caption[b:e].strip() for b, e in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_rules_are_fast() -> None:
    captions = ["a young woman in a red coat crosses the busy road with two small dogs"] * 2000
    begin = time.perf_counter()
    list(noun_phrases_of(captions, "rules"))
    assert time.perf_counter() - begin < 2


def test_names_of_chunkers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_chunker("rules") == "rules"
    with pytest.raises(ConfigError, match="no chunker 'nltk': use auto, rules, spacy, grammar"):
        noun_phrases("a cat", "nltk")  # type: ignore[arg-type]
    monkeypatch.setattr(phrases, "_spacy_model", lambda: None)
    assert resolve_chunker("auto") == "rules"
    assert noun_phrases("a cat") == [(0, 5)]
    for chunker in ("spacy", "grammar"):
        with pytest.raises(MissingExtraError, match=r"openglip\[label\]"):
            noun_phrases("a cat", chunker)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "spacy.util", None)
    assert resolve_chunker("auto") == "rules"


def test_spacy_and_grammar() -> None:
    pytest.importorskip("spacy")
    if phrases._spacy_model() is None:
        pytest.skip("no English model of spaCy is installed")
    caption = "a young man with a t-shirt sees a group of people and he sees the man's dog"
    phrases_found = [caption[b:e] for b, e in noun_phrases(caption, "spacy")]
    assert phrases_found == ["a young man", "a t-shirt", "a group of people", "the man's dog"]
    phrases_found = [caption[b:e] for b, e in noun_phrases(caption, "grammar")]
    assert phrases_found == ["a young man", "a t-shirt", "a group of people", "the man", "dog"]
    captions = ["a cat", "", "two dogs run", caption]
    for chunker in ("spacy", "grammar"):
        assert list(noun_phrases_of(captions, chunker)) == [noun_phrases(c, chunker) for c in captions]
    assert resolve_chunker("spacy") == resolve_chunker("auto")
    assert resolve_chunker("grammar").startswith("grammar:en_")
