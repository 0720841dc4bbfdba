from __future__ import annotations

import threading
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openglip.errors import PromptError
from openglip.prompts.spans import span_tokens, token_map
from openglip.prompts.text import (
    check_names,
    detection_prompt,
    grounding_prompt,
    locate_phrases,
    part_names,
    split_names,
)
from openglip.prompts.tokens import tokenize

WORDS = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=30).filter(
        lambda s: s.isprintable()
    ),
    min_size=1,
    max_size=120,
)


def test_part_names() -> None:
    assert part_names("cat. remote control") == ["cat", "remote control"]
    assert part_names("cat, dog . v2.0 box.") == ["cat", "dog", "v2.0 box"]
    assert part_names(" . , ") == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", ""], "category 1 is empty"),
        (["(only)"], "category 0 is empty"),
        (["cat", "_"], "category 1 is empty"),
        (["cat", "dog", "cat"], "categories 0 and 2 are the same"),
        ([3], "category 0 is a int"),
    ],
)
def test_bad_names_are_refused_with_their_position(names: list, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        check_names(names)


def test_names_that_look_alike_are_kept_with_one_warning() -> None:
    with pytest.warns(UserWarning, match="'bow_.weapon.' and 'bow_.ribbon.', 'Dog' and 'dog'") as caught:
        check_names(["bow_(weapon)", "bow_(ribbon)", "Dog", "dog"])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_names(["cat", "hot dog", "dog"])


@given(WORDS, st.integers(40, 256))
def test_splits_fit_are_balanced_and_lose_nothing(names: list[str], limit: int) -> None:
    try:
        runs = split_names(names, max_tokens=limit)
        prompts = [detection_prompt(names[r.start : r.stop]) for r in runs]
    except PromptError:
        return
    assert [i for r in runs for i in r] == list(range(len(names)))
    tokens = [tokenize(p.caption, limit) for p in prompts]  # raises when one does not fit
    assert all(m for p, t in zip(prompts, tokens, strict=True) for m in token_map(p, t))


def test_split_is_balanced() -> None:
    names = [f"thing{i}" for i in range(150)]
    sizes = [len(tokenize(detection_prompt(names[r.start : r.stop]).caption)) for r in split_names(names)]
    assert len(sizes) == 3
    assert max(sizes) - min(sizes) <= 8


def test_a_name_that_can_not_fit_is_named() -> None:
    with pytest.raises(PromptError, match=r"category 1, 'word word.* has 300 tokens, but there is room for 254"):
        split_names(["cat", "word " * 300])
    with pytest.raises(PromptError, match=r"the 40 categories from 0 .* use a smaller chunk_size"):
        split_names(["a rather long name of a thing that nobody needs"] * 80, chunk_size=40)
    with pytest.raises(PromptError, match=r"category 1, .* no letter"):
        split_names(["cat", "\u200b"])


def test_extra_names_take_room_in_every_prompt() -> None:
    names, extra = [f"thing{i}" for i in range(100)], ["wall", "floor", "sky"]
    for run in split_names(names, extra=extra):
        prompt = detection_prompt(names[run.start : run.stop], extra=extra)
        assert prompt.caption.endswith(". wall. floor. sky")
        assert len(tokenize(prompt.caption)) <= 256


def test_too_long_a_caption_is_an_error_unless_truncation_is_asked() -> None:
    caption = "cat . " * 200
    with pytest.raises(PromptError, match=r"has 402 tokens, the limit is 256.* character 762"):
        tokenize(caption)
    tokens = tokenize(caption, truncate=True)
    assert (len(tokens), tokens.truncated, tokens.ids[-1]) == (256, True, 102)
    assert not tokenize("cat", truncate=True).truncated
    with pytest.raises(PromptError, match="not a valid unicode"):
        tokenize("a \ud800 b")


def test_grounding_keeps_the_spans_of_repeated_and_overlapping_phrases() -> None:
    caption = "a hot dog and a dog"
    prompt = grounding_prompt(caption, [(2, 9), (6, 9), [(16, 19), (2, 5)]])
    assert prompt.names == ("hot dog", "dog", "dog hot")
    assert token_map(prompt, tokenize(caption)) == [[2, 3], [3], [2, 6]]
    assert locate_phrases(caption, ["dog", "Dog", (0, 1)]) == [((6, 9),), ((16, 19),), ((0, 1),)]
    assert locate_phrases("cargo and car", ["car"]) == [((10, 13),)]


@pytest.mark.parametrize(
    ("spans", "message"), [([(0, 1), (3, 3)], "phrase 1"), ([(0, 99)], "phrase 0"), ([[]], "no span"), ([(1, 2)], "bl")]
)
def test_bad_spans_are_refused(spans: list, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        grounding_prompt("a cat", spans)


@pytest.mark.parametrize(
    ("phrases", "message"), [(["dog"], "phrase 0"), (["cat", "cat"], "that often"), ([" "], "empty")]
)
def test_phrases_that_are_not_there(phrases: list, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        locate_phrases("a cat", phrases)


@given(st.text(max_size=60), st.integers(-2, 62), st.integers(-2, 62))
def test_span_tokens_are_real_positions(text: str, begin: int, end: int) -> None:
    try:
        tokens = tokenize(text)
    except PromptError:
        return
    assert set(span_tokens(tokens, begin, end)) <= set(range(1, len(tokens) - 1))


def test_threads_agree() -> None:
    captions = [f"thing {i} " * 20 for i in range(40)]
    expected = [tokenize(c) for c in captions]
    found: list = [None] * len(captions)

    def work(i: int) -> None:
        found[i] = tokenize(captions[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(captions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
