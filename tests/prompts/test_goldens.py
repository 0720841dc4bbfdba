"""Names, captions and token positions against the official code's tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from openglip.errors import PromptError
from openglip.prompts.spans import positive_map, span_tokens, token_labels, token_map
from openglip.prompts.text import (
    Prompt,
    clean_name,
    detection_prompt,
    grounding_prompt,
    join_names,
    split_names,
)
from openglip.prompts.tokens import pieces, tokenize

COMMITTED = Path(__file__).parents[1] / "goldens" / "prompt"


def table(name: str, request: pytest.FixtureRequest) -> dict:
    path = COMMITTED / name
    if not path.exists():
        path = request.getfixturevalue("goldens") / "prompt" / name
    return json.loads(path.read_text(encoding="utf-8"))


def positions(prompt: Prompt, labels: list[int]) -> dict[str, list[int]]:
    found = token_map(prompt, tokenize(prompt.caption, max_tokens=None))
    return {str(label): tokens for label, tokens in zip(labels, found, strict=True) if tokens}


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
        assert [pieces()[i] for i in tokens.ids] == row["tokens"], key
        prompt = Prompt(caption, tuple(row["names"]), tuple((s,) for s in spans))
        assert positions(prompt, row["labels"]) == row["label_to_tokens"], key
        labels = token_labels(token_map(prompt, tokens), row["labels"], len(tokens))
        assert {str(i): int(x) for i, x in enumerate(labels) if x >= 0} == row["token_to_label"], key
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
        for run, caption, found, n in zip(
            runs, row["captions"], row["label_to_tokens"], row["num_tokens"], strict=True
        ):
            prompt = detection_prompt(names[run.start : run.stop])
            assert prompt.caption == caption, key
            assert positions(prompt, list(labels[run.start : run.stop])) == found, key
            assert len(tokenize(caption)) == n, key


def test_prompt_variants(request: pytest.FixtureRequest) -> None:
    stored = table("prompt_variants.json", request)
    row = stored["caption_prompt"]
    wordings = [(w["prefix"], w["name"], w["suffix"]) for w in row["caption_prompt"]]
    prompts = [
        (row, detection_prompt(row["names"], wordings=wordings)),
        (row := stored["suppress_query"], detection_prompt(row["names"], extra=row["additional"])),
        (row := stored["separator_space"], detection_prompt(row["names"], separator=row["separation"])),
    ]
    for row, prompt in prompts:
        assert prompt.caption == row["caption"]
        assert [list(s) for (s,) in prompt.spans] == row["char_spans"]
        assert positions(prompt, row["labels"]) == row["label_to_tokens"]
        assert list(tokenize(prompt.caption).ids) == row["input_ids_untruncated"]
    for row in stored["demo_list"]:
        caption, spans = join_names(row["names"], " . ", closed=True)
        assert caption == row["caption"]
        assert [[list(s)] for s in spans] == row["tokens_positive"]
        assert list(tokenize(caption).ids) == row["input_ids"]
        prompt = grounding_prompt(caption, spans)
        assert positions(prompt, list(range(1, len(spans) + 1))) == row["label_to_tokens_plus1"]


def test_captions(request: pytest.FixtureRequest) -> None:
    stored = table("captions.json", request)
    for row in stored["rows"]:
        tokens = tokenize(row["caption"], stored["max_length"], truncate=True)
        padding = [stored["pad_id"]] * (stored["max_length"] - len(tokens))
        assert [*tokens.ids, *padding] == row["input_ids"], row["name"]
        assert len(tokens) == row["attention_mask_sum"], row["name"]
        assert [list(o) for o in tokens.offsets] == row["offsets"][: len(tokens)], row["name"]
        assert tokens.truncated == (row["name"] == "truncated")
        found = [sorted({t for b, e in spans for t in span_tokens(tokens, b, e)}) for spans in row["tokens_positive"]]
        assert found == [r["tokens"] for r in row["positive_map_rows"]], row["name"]
        for values, positive in zip(positive_map(found), row["positive_map_rows"], strict=True):
            expected = np.zeros(256, np.float32)
            expected[positive["tokens"]] = positive["value"]
            np.testing.assert_array_equal(values, expected)


def test_token_labels(request: pytest.FixtureRequest) -> None:
    row = table("token_labels.json", request)
    labels, spans = zip(*((int(k), tuple(v)) for k, v in row["label_to_char_span"].items()), strict=True)
    prompt = grounding_prompt(row["caption"], spans)
    found = token_labels(token_map(prompt, tokenize(row["caption"])), labels)
    assert found[:12].tolist() == row["labels_of_first_12_tokens"]
    assert set(found[12:].tolist()) == set(row["rest"])
