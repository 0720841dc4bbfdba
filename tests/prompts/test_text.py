from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompts.golden import table

from openglip.errors import PromptError
from openglip.prompts.spans import token_map
from openglip.prompts.text import (
    Prompt,
    check_names,
    clean_name,
    detection_prompt,
    grounding_prompt,
    join_names,
    locate_phrases,
    parse_names,
    split_names,
    warn_of_separators,
)
from openglip.prompts.tokens import tokenize

WORDS = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=30).filter(
        lambda s: s.isprintable()
    ),
    min_size=1,
    max_size=120,
)


def test_parse_names() -> None:
    assert parse_names("cat. remote control") == ["cat", "remote control"]
    assert parse_names("cat, dog . v2.0 box.") == ["cat", "dog", "v2.0 box"]
    assert parse_names(" . , ") == []


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


def test_distractors_take_room_in_every_prompt() -> None:
    names, distractors = [f"thing{i}" for i in range(100)], ["wall", "floor", "sky"]
    for run in split_names(names, distractors=distractors):
        prompt = detection_prompt(names[run.start : run.stop], distractors=distractors)
        assert prompt.caption.endswith(". wall. floor. sky")
        assert len(tokenize(prompt.caption)) <= 256


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


def positions(prompt: Prompt, labels: list[int]) -> dict[str, list[int]]:
    positions_of_names = token_map(prompt, tokenize(prompt.caption, max_tokens=None))
    return {str(label): tokens for label, tokens in zip(labels, positions_of_names, strict=True) if tokens}


def test_clean_name(request: pytest.FixtureRequest) -> None:
    cases = table("clean_name.json", request)["cases"]
    assert len(cases) > 200
    assert [clean_name(name) for name, _ in cases] == [cleaned for _, cleaned in cases]


def test_vocabularies(request: pytest.FixtureRequest) -> None:
    stored = table("vocabularies.json", request)
    assert len(stored["vocabularies"]) == 18
    for key, row in stored["vocabularies"].items():
        cleaned = [clean_name(name) for name in row["names"]]
        assert cleaned == row["cleaned"], key
        caption, spans = join_names(cleaned, stored["separation_tokens"])
        assert caption == row["caption"], key
        assert [list(s) for s in spans] == row["char_spans"], key
        tokens = tokenize(caption, max_tokens=None)
        assert list(tokens.ids) == row["input_ids_untruncated"], key
        prompt = Prompt(caption, tuple(row["names"]), tuple((s,) for s in spans))
        assert positions(prompt, row["labels"]) == row["label_to_tokens"], key
        if "" in cleaned:
            with pytest.raises(PromptError, match=f"category {cleaned.index('')} is empty"):
                detection_prompt(row["names"])
        else:
            assert detection_prompt(row["names"]) == prompt, key


def test_chunks(request: pytest.FixtureRequest) -> None:
    for key, row in table("chunks.json", request).items():
        labels, names = zip(*sorted(zip(row["labels"], row["names"], strict=True)), strict=True)
        runs = split_names(names, chunk_size=row["chunk"] if row["chunk"] > 0 else None)
        assert len(runs) == len(row["captions"]), key
        for run, caption, positions_of_names, n in zip(
            runs, row["captions"], row["label_to_tokens"], row["num_tokens"], strict=True
        ):
            prompt = detection_prompt(names[run.start : run.stop])
            assert prompt.caption == caption, key
            assert positions(prompt, list(labels[run.start : run.stop])) == positions_of_names, key
            assert len(tokenize(caption)) == n, key


def test_prompt_variants(request: pytest.FixtureRequest) -> None:
    stored = table("prompt_variants.json", request)
    row = stored["caption_prompt"]
    wordings = [(w["prefix"], w["name"], w["suffix"]) for w in row["caption_prompt"]]
    prompts = [
        (row, detection_prompt(row["names"], wordings=wordings)),
        (row := stored["suppress_query"], detection_prompt(row["names"], distractors=row["additional"])),
        (row := stored["separator_space"], detection_prompt(row["names"], separator=row["separation"])),
    ]
    for row, prompt in prompts:
        assert prompt.caption == row["caption"]
        assert [list(s) for (s,) in prompt.spans] == row["char_spans"]
        assert positions(prompt, row["labels"]) == row["label_to_tokens"]
        assert list(tokenize(prompt.caption).ids) == row["input_ids_untruncated"]
    for row in stored["demo_list"]:
        caption, spans = join_names(row["names"], " . ")
        caption += " . "
        assert caption == row["caption"]
        assert [[list(s)] for s in spans] == row["tokens_positive"]
        assert list(tokenize(caption).ids) == row["input_ids"]
        prompt = grounding_prompt(caption, spans)
        assert positions(prompt, list(range(1, len(spans) + 1))) == row["label_to_tokens_plus1"]


SEPARATORS = [",", ";", "\n", "\r\n", "\u2028", "，", "、", "；", "。", "．", "،", "؛", ". ", ".. ", "...\n"]


@pytest.mark.parametrize("separator", SEPARATORS)
def test_every_separator_splits_one_string_and_is_warned_of_in_a_list(separator: str) -> None:
    assert parse_names(f"cup{separator}dining table{separator}") == ["cup", "dining table"]
    with pytest.warns(UserWarning, match="is one name of the list") as caught:
        warn_of_separators(["cup", f"cup{separator}table", "cup, dog", "a, b", "c, d"])
    assert len(caught) == 1
    assert "(and 1 more)" in str(caught[0].message)


def test_only_dots_are_no_name() -> None:
    assert parse_names("... , .. ;\n。") == []


def test_words_joined_by_a_full_stop_are_one_name_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="'cup.table' is one name: write a blank"):
        assert parse_names("cup.table, dog") == ["cup.table", "dog"]


def test_names_with_dots_that_separate_nothing_are_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_names("v2.0 box, U.S. flag") == ["v2.0 box", "U.S", "flag"]
        warn_of_separators(["St. Bernard", "v2.0 box", "U.S. flag", "traffic-light", "J. R. Smith"])


def test_names_with_the_same_word_pieces_are_named_and_unknown_words_are_not() -> None:
    with pytest.warns(UserWarning, match="'café' and 'Cafe'"):
        check_names(["café", "Cafe", "猫", "狗"])
