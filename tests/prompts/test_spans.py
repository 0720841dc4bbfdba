from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompts.golden import table

from openglip.errors import PromptError
from openglip.prompts.spans import span_tokens, token_map
from openglip.prompts.text import grounding_prompt
from openglip.prompts.tokens import tokenize


@given(st.text(max_size=60), st.integers(-2, 62), st.integers(-2, 62))
def test_span_tokens_are_real_positions(text: str, begin: int, end: int) -> None:
    try:
        tokens = tokenize(text)
    except PromptError:
        return
    assert set(span_tokens(tokens, begin, end)) <= set(range(1, len(tokens) - 1))


def test_captions_have_the_official_tokens(request: pytest.FixtureRequest) -> None:
    stored = table("captions.json", request)
    for row in stored["rows"]:
        tokens = tokenize(row["caption"], stored["max_length"], truncate=True)
        padding = [stored["pad_id"]] * (stored["max_length"] - len(tokens))
        assert [*tokens.ids, *padding] == row["input_ids"], row["name"]
        assert len(tokens) == row["attention_mask_sum"], row["name"]
        assert [list(o) for o in tokens.offsets] == row["offsets"][: len(tokens)], row["name"]
        assert tokens.truncated == (row["name"] == "truncated")
        positions = [
            sorted({t for b, e in spans for t in span_tokens(tokens, b, e)}) for spans in row["tokens_positive"]
        ]
        assert positions == [r["tokens"] for r in row["positive_map_rows"]], row["name"]


def test_labels_of_tokens_are_the_official_ones(request: pytest.FixtureRequest) -> None:
    row = table("token_labels.json", request)
    labels, spans = zip(*((int(k), tuple(v)) for k, v in row["label_to_char_span"].items()), strict=True)
    prompt = grounding_prompt(row["caption"], spans)
    label_of = {}
    for label, positions in zip(labels, token_map(prompt, tokenize(row["caption"])), strict=True):
        label_of |= dict.fromkeys(positions, label)
    assert [label_of.get(i, -1) for i in range(12)] == row["labels_of_first_12_tokens"]
    assert {label_of.get(i, -1) for i in range(12, 256)} == set(row["rest"])
