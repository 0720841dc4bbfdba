from __future__ import annotations

import threading

import pytest

from openglip.errors import PromptError
from openglip.prompts.tokens import tokenize, unknown_words, word_pieces


def test_too_long_a_caption_is_an_error_unless_it_may_be_truncated() -> None:
    caption = "cat . " * 200
    with pytest.raises(PromptError, match=r"has 402 tokens, the limit is 256.* character 762"):
        tokenize(caption)
    tokens = tokenize(caption, truncate=True)
    assert (len(tokens), tokens.truncated, tokens.ids[-1]) == (256, True, 102)
    assert not tokenize("cat", truncate=True).truncated
    with pytest.raises(PromptError, match="not a valid unicode"):
        tokenize("a \ud800 b")


def test_threads_agree() -> None:
    captions = [f"thing {i} " * 20 for i in range(40)]
    expected = [tokenize(c) for c in captions]
    results: list = [None] * len(captions)

    def work(i: int) -> None:
        results[i] = tokenize(captions[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(captions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == expected


def test_unknown_words_are_those_that_all_become_the_same_piece() -> None:
    assert unknown_words("a 🐱 on the 猫, café") == ["🐱", "猫"]
    assert unknown_words("кошка, Katze, gato") == []
    assert word_pieces("猫") != word_pieces("狗")
    assert word_pieces("Café") == word_pieces("cafe")
