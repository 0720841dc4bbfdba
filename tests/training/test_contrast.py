"""Options beyond the paper: words of all pictures as negatives, and names that are read by themselves."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import annotated

import openglip
from openglip.errors import ConfigError
from openglip.model.bert import Bert, sub_sentences
from openglip.prompts.tokens import tokenize
from openglip.training.assign import Normalisers, Targets
from openglip.training.batches import Batch
from openglip.training.contrast import ContrastFeatures, region_word_contrast, same_words
from openglip.training.run import find_recipe


def test_phrases_are_found_word_by_word_in_every_text() -> None:
    ids = torch.tensor([[101, 7, 8, 1012, 7, 102], [101, 8, 7, 8, 102, 0]])
    found = same_words(torch.tensor([[7, 8], [7, 0], [0, 0]]), ids)
    assert found[0].nonzero().tolist() == [[0, 1], [0, 2], [1, 2], [1, 3]]
    assert found[1].nonzero().tolist() == [[0, 1], [0, 4], [1, 2]]
    assert not found[2].any()


def features(regions: list[list[float]], words: list[list[list[float]]]) -> ContrastFeatures:
    rows = torch.tensor(regions)[:, None]  # one anchor per image
    return ContrastFeatures(rows.requires_grad_(), torch.tensor(words).requires_grad_(), torch.tensor(1.0))


def matched(*boxes: int) -> Targets:
    """Targets of one anchor per image with the box of this number, -1 for none."""
    counts = Normalisers(torch.tensor(2.0), torch.tensor(1.0))
    nothing = torch.zeros(0)
    return Targets(nothing, torch.tensor([[box] for box in boxes]), nothing, nothing, counts)


def texts(ids: list[list[int]], tokens: list[list[bool]]) -> Batch:
    maps = torch.tensor(tokens).view(-1, len(ids[0])).bool()
    words = torch.tensor(ids)
    return annotated(
        [torch.zeros(len(maps), 4)] * len(ids), [maps] * len(ids), torch.ones_like(words).bool(), ids=words
    )


def test_words_of_other_pictures_are_negatives_unless_they_are_the_same() -> None:
    """Two pictures, one region each; both texts have two words."""
    both = features([[1.0, 0], [0, 1.0]], [[[1.0, 0], [0, 0]], [[0, 1.0], [0, 0]]])
    targets = matched(0, 0)
    row = -(1 - math.log(math.e + 3))  # a region: its word has 1, the three others 0
    column = -(1 - math.log(math.e + 1))  # a word: its region has 1, the other 0
    loss = region_word_contrast(both, texts([[5, 6], [7, 8]], [[True, False]]), targets)
    assert loss.item() == pytest.approx((2 * row + 2 * column) / 2 / 2, rel=1e-6)
    loss.backward()
    assert both.regions.grad is not None
    same = region_word_contrast(both, texts([[5, 6], [5, 8]], [[True, False]]), targets)
    shared = -(0.5 - math.log(math.e + 3)), -(0.5 - math.log(math.e + 1))
    assert same.item() == pytest.approx((2 * shared[0] + 2 * shared[1]) / 2 / 2, rel=1e-6)


def test_pictures_without_a_region_give_nothing_but_a_gradient() -> None:
    one = features([[1.0, 0]], [[[1.0, 0]]])
    loss = region_word_contrast(one, texts([[5]], []), matched(-1))
    assert loss.item() == 0
    loss.backward()
    assert one.words.grad is not None


def test_parts_between_full_stops_and_their_places() -> None:
    ids = torch.tensor([[101, 7, 8, 1012, 9, 102, 0]])
    parts, places = sub_sentences(ids)
    assert parts.tolist() == [[1, 2, 2, 2, 3, 4, 4]]
    assert places.tolist() == [[0, 0, 1, 2, 0, 0, 1]]


def test_a_name_read_by_itself_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    bert = Bert(dim=16, layers=2, heads=2, hidden=16).eval()

    def encoded(text: str) -> torch.Tensor:
        ids = torch.tensor([[*tokenize(text).ids, 0]])
        found = bert(ids, ids != 0)[0]
        assert found.isfinite().all()
        return found

    exact = encoded("cat. dog")[1], encoded("cat. bus. dog")[1]
    assert not torch.allclose(*exact)
    bert.sub_sentences = True
    torch.testing.assert_close(encoded("cat. dog")[1], encoded("cat. bus. dog")[1])
    torch.testing.assert_close(encoded("cat. dog")[3], encoded("cat. bus. dog")[5])


def test_both_train_load_and_are_for_models_of_words(tmp_path: Path) -> None:
    settings = {"steps": 2, "batch_size": 2, "evaluate_every": 0, "contrast": 0.5, "sub_sentences": True}
    openglip.train("debug", tmp_path / "run", settings=settings)
    assert '"contrast": ' in (tmp_path / "run" / "log.jsonl").read_text()
    model = openglip.load(tmp_path / "run").model
    assert model.language_backbone["body"]["model"].sub_sentences
    assert not hasattr(model, "contrast")
    for name in ("dyhead-t", "nano"):
        recipe = find_recipe(name, {"contrast": 1})
        with torch.device("meta"), pytest.raises(ConfigError, match="are for GLIP with a text encoder, not for"):
            recipe.build_model(recipe)
