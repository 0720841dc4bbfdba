import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openglip.data.mixtures import Mixture, Source, grouped_batches, permutation, shuffled_chunk
from openglip.data.training_prompts import detection_prompt_with_negatives as prompt
from openglip.errors import ConfigError
from openglip.structures.sample import Sample

ROUTINES = json.loads((Path(__file__).parents[1] / "goldens/train/data_routines.json").read_text(encoding="utf-8"))


def record(image_id, names=("cat",), size=(30, 40)):
    boxes = [[i, 0, i + 5, 5] for i in range(len(names))]
    categories = tuple(sorted({*names, "cat"}))
    return Sample(
        "x", size, boxes, categories=categories, labels=[categories.index(n) for n in names], image_id=image_id
    )


def records(count):
    return [record(i, size=(30, 40) if i % 3 else (40, 30)) for i in range(count)]


def test_order_and_groups_are_the_official_ones():
    golden = ROUTINES["samplers"]
    for case in golden["rank_chunks"]:
        assert (
            shuffled_chunk(golden["dataset_length"], case["epoch"], case["rank"], golden["replicas"]) == case["indices"]
        )
    grouped = golden["grouped"]
    arguments = grouped["order"], grouped["group_of_index"], grouped["batch_size"]
    assert grouped_batches(*arguments) == grouped["batches_drop_uneven"]


@settings(max_examples=50)
@given(st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_a_permutation_is_that_of_torch(length, seed):
    drawn = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
    assert permutation(length, seed) == drawn.tolist()


def mixture(seed=0):
    return Mixture([Source("a", records(20), prompt, copies=2.5), Source("b", records(9), prompt)], seed)


def test_copies_and_shares():
    rows = mixture().rows(0)
    of_a = Counter(rows[rows[:, 0] == 0][:, 1].tolist())
    assert set(of_a.values()) == {2, 3}
    assert 40 < sum(of_a.values()) < 60
    assert (rows[:, 0] == 1).sum() == 9
    assert mixture().share() == {"a": pytest.approx(1 - 9 / len(rows)), "b": pytest.approx(9 / len(rows))}
    assert not np.array_equal(mixture().rows(0), mixture().rows(1)), "the fraction is drawn anew each epoch"


def test_a_run_continues_from_a_count_of_batches():
    for rank in (0, 1):
        through = list(itertools.islice(mixture(5).batches(4, rank, 2), 40))
        for start in (0, 1, 7, 23):
            assert list(itertools.islice(mixture(5).batches(4, rank, 2, start=start), 40 - start)) == through[start:]


def test_order_depends_on_seed_epoch_and_process_and_visits_differ_in_their_seed():
    first = mixture(1).epoch_batches(0, 4)
    assert first == mixture(1).epoch_batches(0, 4)
    assert first != mixture(2).epoch_batches(0, 4)
    assert first != mixture(1).epoch_batches(1, 4)
    rows = [row for epoch in (0, 1) for batch in mixture(1).epoch_batches(epoch, 1) for row in batch]
    assert len({row.seed for row in rows}) == len(rows)


def test_processes_share_an_epoch_without_overlap():
    seen = [row for rank in range(3) for batch in mixture().epoch_batches(0, 1, rank, 3) for row in batch]
    total = len(mixture().rows(0))
    assert len({row.seed for row in seen}) == total
    assert len(seen) == -(-total // 3) * 3


def test_batches_hold_images_of_one_aspect():
    m = mixture()
    for batch in m.epoch_batches(0, 4):
        assert len({bool(m.sources[row.source].is_tall[row.sample]) for row in batch}) == 1


def test_a_few_images_of_another_aspect_are_used_too():
    wide, tall = [record(i) for i in range(12)], [record(100 + i, size=(40, 30)) for i in range(3)]
    seen = {
        row.sample
        for epoch in range(20)
        for batch in Mixture([Source("a", wide + tall, prompt)]).epoch_batches(epoch, 4)
        for row in batch
    }
    assert seen == set(range(15))


def test_wrong_mixtures_are_refused():
    with pytest.raises(ConfigError, match="no samples"):
        Source("a", [], prompt)
    with pytest.raises(ConfigError, match="copies"):
        Source("a", records(1), prompt, copies=0)
    with pytest.raises(ConfigError, match="different names"):
        Mixture([Source("a", records(1), prompt)] * 2)
    with pytest.raises(ConfigError, match="fills no batch"):
        next(Mixture([Source("a", records(3), prompt)]).batches(8))
