from __future__ import annotations

import numpy as np
import pytest

from openglip.errors import PromptError
from openglip.predict.detector import load
from openglip.predict.phrase_book import PhraseBook


def test_what_was_learned_is_bounded_and_long_lists_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, encoded = load("nano", device="cpu"), []
    encode_text = detector.model.encode_text
    monkeypatch.setattr(detector.model, "encode_text", lambda ids, mask: encoded.extend(ids) or encode_text(ids, mask))
    monkeypatch.setattr("openglip.predict.phrase_book.MAX_PHRASES", 100)
    book = PhraseBook(detector.backend, detector.id)
    words = [f"a thing {i}" for i in range(90)]
    for _ in range(2):
        book.learn(words)
    assert len(encoded) == 90
    text = book.text(words)
    assert [len(p.tokens.mask) <= 256 for p in text.prompts if p.tokens] == [True, True]
    assert np.concatenate([p.labels for p in text.prompts]).tolist() == list(range(90))
    book.learn([f"another {i}" for i in range(20)])
    with pytest.raises(KeyError):
        book.text(words)
    with pytest.raises(PromptError, match="no letter"):
        book.learn(["a cat", " "])
