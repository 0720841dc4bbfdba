"""The text side: segments between full stops, each encoded by itself."""

from __future__ import annotations

import torch

from openglip.nano.text import TEXT_DIM, class_synonyms, encode_segments, segments, text_encoder, word_mask
from openglip.prompts.tables import read_table
from openglip.prompts.tokens import tokenize


def ids_of(text: str) -> torch.Tensor:
    return torch.tensor([tokenize(text).ids])


def test_segments_are_the_runs_of_words():
    ids = ids_of("a dog. a red cat")
    rows, columns = segments(ids, ids != 0)
    assert rows == [0, 0]
    assert [c.tolist() for c in columns] == [[1, 2], [4, 5, 6]]
    assert word_mask(ids, ids != 0)[0].tolist() == [False, True, True, False, True, True, True, False]


def test_a_segment_is_encoded_as_if_it_stood_alone():
    torch.manual_seed(0)
    bert = text_encoder(64).eval()
    for parameter in bert.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    bert.embeddings.word_embeddings.values.random_(-100, 100)  # type: ignore[operator]
    bert.embeddings.word_embeddings.scale.fill_(0.01)  # type: ignore[operator]
    with torch.no_grad():
        both, one = (encode_segments(bert, ids, ids != 0)[0] for ids in (ids_of("a dog. a cat"), ids_of("a cat")))
    torch.testing.assert_close(both[4:6], one[1:3])
    assert both.shape[1] == 2 * TEXT_DIM
    assert (both[[0, 3, 6]] == 0).all()
    torch.testing.assert_close(both[4, TEXT_DIM:], both[5, TEXT_DIM:])  # the mean of the segment


def test_without_values_each_row_is_one_segment():
    bert = text_encoder(64).to("meta")
    ids = torch.ones(2, 9, dtype=torch.int64, device="meta")
    assert encode_segments(bert, ids, ids.bool()).shape == (2, 9, 2 * TEXT_DIM)


def test_synonyms_are_no_class_names():
    names = read_table("coco")
    assert all(word not in names and 0 <= index < len(names) for word, index in class_synonyms())
