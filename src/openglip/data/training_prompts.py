"""Annotations become training prompts: categories with sampled absent ones, captions between unrelated ones.

Random draws come from the two generators that are passed in, in the order of the official code, so that equally seeded
generators make its prompts. Source: docs/spec.md 8.4.1 to 8.4.7.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from openglip.errors import DataError
from openglip.prompts.tables import Wording
from openglip.prompts.text import SEPARATOR, clean_name, join_wordings, wording_of
from openglip.prompts.tokens import MAX_TOKENS, token_count, tokenize
from openglip.structures.sample import Sample, Spans

Control = tuple[float, float, float, float]


@dataclass(frozen=True)
class TrainingPrompt:
    """What the model reads for one image.

    Attributes:
        caption: The text.
        rows: K int64, the rows of the sample's boxes that have words in it.
        spans: The half-open character ranges of each of these boxes.
        dropped: How many boxes were left out because their words did not fit or there are none.
        names: What the caption lists, in its order; empty for captions.
    """

    caption: str
    rows: np.ndarray
    spans: tuple[Spans, ...]
    dropped: int = 0
    names: tuple[str, ...] = ()


def detection_prompt_with_negatives(
    sample: Sample,
    rng: random.Random,
    numpy_rng: np.random.RandomState,
    *,
    max_negatives: int = 85,
    control: Control = (0.0, 0.0, 0.5, 0.0),
    max_tokens: int = MAX_TOKENS,
    separator: str = SEPARATOR,
) -> TrainingPrompt:
    """The sample's categories as one prompt: those present, and some that are known to be absent.

    Absent are all other categories of an exhaustive source; else only `sample.negatives`. Categories that do not fit
    are dropped with their boxes, and counted.

    Args:
        sample: A sample with categories.
        rng: Draws how many negatives there are, and the order.
        numpy_rng: Draws which negatives.
        max_negatives: At most as many absent categories.
        control: See `choose_categories`.
        max_tokens: Room of the text encoder.
        separator: Stands between the names.

    Raises:
        DataError: The sample has no categories.
    """
    table, labels = _table(sample)
    absent = None if sample.exhaustive else [i for i, name in table.items() if name in set(sample.negatives)]
    chosen = choose_categories(table, labels, rng, numpy_rng, max_negatives, control, max_tokens, separator, absent)
    return _detection(table, chosen, labels, separator)


def detection_prompt_of_all(
    sample: Sample,
    rng: random.Random,
    numpy_rng: np.random.RandomState,
    *,
    shuffle: bool = True,
    wordings: Mapping[str, Wording] | None = None,
    separator: str = SEPARATOR,
    max_tokens: int = MAX_TOKENS,
) -> TrainingPrompt:
    """All categories of an exhaustive source as one prompt (COCO, a user's data set).

    Args:
        sample: A sample with categories.
        rng: Draws the order.
        numpy_rng: Not used.
        shuffle: Shuffle the categories; else they stand in their order.
        wordings: What the caption says for a name, as it is; not together with `shuffle`.
        separator: Stands between the names.
        max_tokens: Room of the text encoder.

    Raises:
        DataError: The source is not exhaustive, or its names do not fit (official code trains such boxes without
            words).
    """
    if not sample.exhaustive:
        raise DataError(f"{sample.where}: not all its categories are labelled, so absent ones must be sampled")
    table, labels = _table(sample)
    order = list(table)
    if shuffle:
        if wordings is not None:
            raise DataError("wordings need the fixed order: give shuffle=False")
        rng.shuffle(order)
    prompt = _detection(table, order, labels, separator, wordings)
    count = len(tokenize(prompt.caption, max_tokens=None))
    if count > max_tokens:
        raise DataError(
            f"{sample.where}: {len(table)} categories have {count} tokens, the limit is {max_tokens}: sample"
        )
    return prompt


def choose_categories(
    table: Mapping[int, str],
    labels: Sequence[int],
    rng: random.Random,
    numpy_rng: np.random.RandomState,
    max_negatives: int = 85,
    control: Control = (0.0, 0.0, 0.5, 0.0),
    max_tokens: int = MAX_TOKENS,
    separator: str = SEPARATOR,
    absent: Sequence[int] | None = None,
) -> list[int]:
    """The categories that make up the prompt of an image, in the order of the caption. Source: docs/spec.md 8.4.3.

    Args:
        table: Name of each category.
        labels: The categories of the image's boxes.
        rng: Draws how many negatives there are, and the order.
        numpy_rng: Draws which negatives.
        max_negatives: At most as many absent categories.
        control: Chances of one negative, of none, and of the most; the fourth number must be 0. Else their number is
            uniform in 1..max_negatives.
        max_tokens: Room of the text encoder.
        separator: Stands between the names.
        absent: Categories that may be drawn as negatives; None allows any.
    """
    budget = max_tokens - 2
    present, length = _fitting(list(set(labels)), table, budget, separator, rng)
    candidates = list(table) if absent is None else list(absent)
    count = _negative_count(min(max_negatives, len(candidates)), control, rng, numpy_rng)
    drawn = numpy_rng.choice(candidates, size=min(count, len(candidates)), replace=False) if candidates else []
    every_label, fits = set(labels), set(present)
    negatives = list({int(i) for i in drawn if i not in fits})
    # sets are built in the order of the labels: where hashes collide, it decides the order that is shuffled
    present = list({label for label in labels if label in fits})
    rng.shuffle(present)
    rng.shuffle(negatives)
    room = budget - length
    fitting: list[int] = []
    for key in negatives:
        if key in every_label:  # present, but without room: never a negative
            continue
        room -= token_count(clean_name(table[key]) + separator)
        if room <= 0:
            break
        fitting.append(key)
    chosen = fitting + present
    rng.shuffle(chosen)
    return chosen


def caption_prompt(
    sample: Sample,
    rng: random.Random,
    numpy_rng: np.random.RandomState,
    *,
    others: Sequence[str] = (),
    max_negatives: int = 0,
    none_probability: float = 0.4,
    most_probability: float = 0.5,
    max_tokens: int = MAX_TOKENS,
) -> TrainingPrompt:
    """The sample's caption, between captions drawn from `others`. Source: docs/spec.md 8.4.7.

    Boxes whose words are beyond the limit, or that have none, are dropped and counted.

    Args:
        sample: A sample with a caption and spans.
        rng: Draws the unrelated captions and their order.
        numpy_rng: Not used.
        others: Unrelated captions.
        max_negatives: At most as many of them.
        none_probability: Chance of none.
        most_probability: Chance of `max_negatives`, if there are any; else their number is uniform below it.
        max_tokens: Room of the text encoder.

    Raises:
        DataError: The sample has no caption with spans.
    """
    if sample.caption is None or sample.phrase_spans is None:
        raise DataError(f"{sample.where}: has no caption with spans")
    caption, spans = sample.caption, sample.phrase_spans
    if max_negatives and others and rng.random() >= none_probability:
        most = rng.random() < most_probability
        count = max_negatives if most else rng.randrange(max_negatives)
        drawn = [others[rng.randrange(len(others))] for _ in range(count)]
        caption, spans = pack_captions(caption, spans, [c for c in drawn if c != sample.caption], rng, max_tokens)
    return _of_caption(caption, spans, max_tokens)


def pack_captions(
    caption: str, spans: Sequence[Spans], negatives: Sequence[str], rng: random.Random, max_tokens: int = MAX_TOKENS
) -> tuple[str, tuple[Spans, ...]]:
    """Join a caption with unrelated ones in random order; the spans follow the caption.

    Negatives that would push the caption over the limit are left out. Without negatives nothing changes.
    """
    if not negatives:
        return caption, tuple(spans)
    drawn = list(range(len(negatives)))
    rng.shuffle(drawn)
    fitting: list[int] = []
    room = max_tokens - token_count(caption) - 2
    for i in drawn:
        need = token_count(negatives[i]) + 2
        if need < room:
            fitting.append(i)
            room -= need
    order = [-1, *fitting]  # -1: the caption itself; tracked by index, as its text may occur twice
    rng.shuffle(order)
    packed, begin = "", 0
    for i in order:
        text = caption if i < 0 else negatives[i]
        if i < 0:
            begin = len(packed)
        packed += text + ("" if text.endswith(".") else ".") + " "
    return packed, tuple(tuple((b + begin, e + begin) for b, e in item) for item in spans)


SIDES = re.compile(r"(?<![A-Za-z])(left|right)(?=(?:most|wards?|hand|handed)?(?![A-Za-z]))", re.IGNORECASE)


def swap_left_right(caption: str, spans: Sequence[Spans]) -> tuple[str, tuple[Spans, ...]]:
    """Caption of the mirrored image: "left" and "right" change places, and the spans move along."""
    swapped, moves, end = "", [], 0
    for match in SIDES.finditer(caption):
        word = "right" if match[0].lower() == "left" else "left"
        word = word.upper() if match[0].isupper() else word.capitalize() if match[0][0].isupper() else word
        swapped += caption[end : match.start()] + word
        moves.append((match.end(), len(word) - len(match[0])))
        end = match.end()
    swapped += caption[end:]

    def moved(char: int) -> int:
        return char + sum(by for after, by in moves if after <= char)

    return swapped, tuple(tuple((moved(b), moved(e)) for b, e in item) for item in spans)


def _table(sample: Sample) -> tuple[dict[int, str], list[int]]:
    """Names by label, negatives that are no categories of the set after them; and the labels."""
    if sample.categories is None or sample.labels is None:
        raise DataError(f"{sample.where}: has no categories")
    categories = set(sample.categories)
    names = [*sample.categories, *(name for name in dict.fromkeys(sample.negatives) if name not in categories)]
    return dict(enumerate(names)), sample.labels.tolist()


def _detection(
    table: Mapping[int, str],
    order: Sequence[int],
    labels: Sequence[int],
    separator: str,
    wordings: Mapping[str, Wording] | None = None,
) -> TrainingPrompt:
    names = tuple(table[key] for key in order)
    caption, spans = join_wordings([(wordings or {}).get(name) or wording_of(name) for name in names], separator)
    # nothing may be left of a name after cleaning: it has no words, and its boxes must not get a neighbour's
    span_of = {key: (b, e) for key, (b, e) in zip(order, spans, strict=True) if caption[b:e].strip()}
    rows = np.array([i for i, label in enumerate(labels) if label in span_of], np.int64)
    return TrainingPrompt(caption, rows, tuple((span_of[labels[i]],) for i in rows), len(labels) - len(rows), names)


def _of_caption(caption: str, spans: Sequence[Spans], max_tokens: int) -> TrainingPrompt:
    tokens = tokenize(caption, max_tokens, truncate=True)
    end = tokens.offsets[-2][1] if len(tokens) > 2 else 0
    inside = [tuple((b, e) for b, e in item if e <= end or not tokens.truncated) for item in spans]
    rows = np.array([i for i, item in enumerate(inside) if item], np.int64)
    return TrainingPrompt(caption, rows, tuple(inside[i] for i in rows), len(spans) - len(rows))


def _fitting(
    present: list[int], table: Mapping[int, str], budget: int, separator: str, rng: random.Random
) -> tuple[list[int], int]:
    """The shuffled keys up to the first that exceeds the budget, and their token count."""
    rng.shuffle(present)
    length = 0
    for i, key in enumerate(present):
        need = token_count(clean_name(table[key]) + separator)
        if length + need > budget:
            return present[:i], length
        length += need
    return present, length


def _negative_count(most: int, control: Control, rng: random.Random, numpy_rng: np.random.RandomState) -> int:
    one, none, full, unused = control
    if unused:
        raise DataError(f"control is {control}: its fourth number must be 0")
    u = rng.random()
    if u < one + none + full:
        return 1 if u < one else 0 if u < one + none else most
    # the two draws without effect keep both generators in step with the official code
    rng.random()
    count = int(numpy_rng.choice(max(1, most))) + 1
    rng.random()
    return count
