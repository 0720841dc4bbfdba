from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglip.labelling.captions import find_phrases
from openglip.prompts import phrases
from openglip.prompts.tokens import tokenize

CHUNKERS = ["rules", "spacy", "grammar"]

# web captions of the paper's talk: what must be found, what must not, as whole words of some phrase
DECK = [
    (
        "sketch illustration - female hands write with a pen. arm, art, background, black, care, concept, counting, "
        "design, drawing, finger, fingers, five, gesture royalty free illustration",
        ["female hands", "pen", "arm", "finger"],
        ["royalty", "free", "illustration", "concept", "counting", "five"],
    ),
    (
        "dwarf fruit trees are perfect for small spaces. here are 10 dwarf fruit trees which you can easily grow on "
        "your porch, or in containers or on the terrace. banana plants, fruit plants, fruit garden, garden trees, "
        "fruit and veg, fruits and vegetables, fresh fruit, apple plant, guava tree",
        ["dwarf fruit trees", "porch", "containers", "terrace", "banana plants", "guava tree"],
        ["here", "you"],
    ),
    (
        "hard times teach us valuable lessons. handwriting on a napkin with a cup of coffee stock photos",
        ["napkin", "cup of coffee"],
        ["hard", "times", "lessons", "stock", "photos", "us"],
    ),
    ("person battles with person in the production sedans", ["person", "sedans"], ["battles"]),
    ("save the straws classic t-shirt", ["classic t-shirt"], ["save"]),
    (
        "this week i'm going to share 20 ideas with you. 20 different lunchbox ideas. packing school lunch is about "
        "nourishment.",
        ["school lunch", "lunchbox"],
        ["week", "nourishment", "going"],
    ),
]


@pytest.fixture(params=CHUNKERS)
def chunker(request: pytest.FixtureRequest) -> Any:
    if request.param != "rules" and phrases._spacy_model() is None:
        pytest.skip("no English model of spaCy is installed")
    return request.param


@pytest.mark.parametrize("case", DECK, ids=lambda case: case[0][:20])
def test_captions_of_the_talk(case: tuple[str, list[str], list[str]], chunker: Any) -> None:
    caption, must, must_not = case
    found = find_phrases([caption], chunker=chunker)[0]
    words = [f" {caption[b:e]} " for b, e in found.spans]
    for expected in must:
        assert any(f" {expected} " in w for w in words), (expected, words)
    for unwanted in must_not:
        assert not any(f" {unwanted} " in w for w in words), (unwanted, words)


def test_repeated_words_keep_their_spans(chunker: Any) -> None:
    caption = DECK[3][0]
    spans = find_phrases([caption], chunker=chunker)[0].spans
    assert [s for s in spans if caption[slice(*s)] == "person"] == [(0, 6), (20, 26)]


def test_every_drop_is_counted_by_its_reason() -> None:
    found = find_phrases(
        ["a photo of the idea. a cat, a dog, a cow and a man in 30 days stock photos"], chunker="rules", max_phrases=3
    )[0]
    assert [found.caption[b:e] for b, e in found.spans] == ["a cat", "a dog", "a cow"]
    assert found.dropped == {"boiler-plate": 1, "nothing to see": 3, "over the cap": 1}


def test_a_caption_longer_than_a_prompt_is_split_and_nothing_is_lost() -> None:
    caption = "A red fox, two dogs. " * 75
    found = find_phrases([caption], chunker="rules", max_phrases=1000)[0]
    assert len(found.spans) == 150
    assert len(found.chunks) == 3
    assert found.chunks[0][0] == 0
    assert found.chunks[-1][1] == len(caption)
    assert all(a[1] == b[0] for a, b in zip(found.chunks, found.chunks[1:], strict=False))
    for begin, end in found.chunks:
        tokenize(caption[begin:end])  # fits
        assert caption[:begin].rstrip()[-1:] in ("", ".")
    assert all(any(p[0] <= b and e <= p[1] for p in found.chunks) for b, e in found.spans)


@given(st.lists(st.text(max_size=300), max_size=4), st.integers(105, 120))
def test_any_text(captions: list[str], limit: int) -> None:
    for caption, found in zip(captions, find_phrases(captions, chunker="rules", max_tokens=limit), strict=True):
        assert found.caption == caption
        assert "".join(caption[b:e] for b, e in found.chunks).strip() == caption.strip()
        for begin, end in found.chunks:
            assert len(tokenize(caption[begin:end], max_tokens=None)) <= limit
        assert all(caption[b:e].strip() == caption[b:e] != "" for b, e in found.spans)
        assert [find_phrases([caption], chunker="rules", max_tokens=limit)[0]] == [found]
