"""Batches from packed photos and encoded texts: which words are queried, which of them are positive or absent."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from packing import GREY, CroppedPhoto, Pack, Phrase, Picture, crop

from openglip.data.files import read_json
from openglip.files import StrPath, whole_file
from openglip.nano.model import Nano
from openglip.nano.text import TEXT_DIM, class_synonyms
from openglip.prompts.tables import read_table
from openglip.prompts.tokens import tokenize
from openglip.training.batches import Batch

SHARES = {"captions": 0.57, "coco": 0.22, "everyday": 0.08, "animals": 0.05, "household": 0.08}
SENTENCES = 0.3  # share of the captioned photos whose query is whole sentences; that of the others is phrases alone
# A text whose cosine similarity to all texts of a photo is below this counts as absent; FAR: where few are annotated.
UNLIKE, FAR = 0.42, 0.3
# What hardly any photo of something else shows, for photos of which only one class is labelled.
ODD = (
    *("zebra", "giraffe", "elephant", "bear", "airplane", "train", "boat", "kite", "surfboard", "skis", "snowboard"),
    *("fire hydrant", "stop sign", "traffic light", "parking meter", "toilet"),
)
# Kinds of animals with the words for them: a caption that names one would also name another next to it.
ANIMALS = {
    "cat": {"cat", "kitten", "kitty"},
    "dog": {"dog", "puppy", "hound", "greyhound", "terrier", "poodle", "retriever", "labrador", "collie", "dachshund"},
    "horse": {"horse", "pony", "mare", "foal", "bronco", "stallion"},
    "cow": {"cow", "cattle", "bull", "calf", "ox"},
    "sheep": {"sheep", "lamb", "ram"},
    "bird": {"bird", "gull", "seagull", "duck", "goose", "pigeon", "parrot", "swan", "eagle", "pelican", "crane"},
    "lion": {"lion"}, "monkey": {"monkey", "ape"}, "rabbit": {"rabbit", "bunny"}, "fox": {"fox"}, "bear": {"bear"},
}  # fmt: skip
COMMON = {"scene", "clothing", "bodyparts"}  # phrases of these types may be true of photos that don't mention them


@dataclass(frozen=True)
class Query:
    """What is compared with a photo.

    Attributes:
        texts: Rows of `Texts`.
        positives: Boxes and the positions of their tokens.
        ignored: Positions of tokens that are neither positive nor absent.
    """

    texts: list[int]
    positives: list[tuple[int, list[int]]]
    ignored: list[int]


class Texts:
    """Texts with the features of their tokens and their mean, encoded once by the frozen text encoder."""

    def __init__(self, folder: StrPath) -> None:
        folder = self.folder = Path(folder)
        texts = read_json(folder / "texts.json")
        assert isinstance(texts, list)
        self.texts: list[str] = texts
        self.index = {text: i for i, text in enumerate(texts)}
        self.tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        self.first = np.load(folder / "first.npy")
        self.mean = np.load(folder / "mean.npy").astype(np.float32)

    @classmethod
    @torch.inference_mode()
    def encode(cls, texts: Iterable[str], model: Nano, folder: StrPath) -> Texts:
        """Encode and write; texts that are already there are read."""
        folder = Path(folder)
        if (folder / "texts.json").is_file():
            return cls(folder)
        texts = list(dict.fromkeys(texts))
        ids = [tokenize(text).ids for text in texts]
        first = np.concatenate([[0], np.cumsum([len(text) - 2 for text in ids])])
        tokens, mean = np.zeros((first[-1], TEXT_DIM), np.float16), np.zeros((len(texts), TEXT_DIM), np.float16)
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
        for begin in range(0, len(order), 64):
            rows = order[begin : begin + 64]
            padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[i]) for i in rows], batch_first=True)
            real = padded != 0
            out = model.bert(padded, real)
            means = (out * real[..., None]).sum(1) / real.sum(1, keepdim=True)
            mean[rows] = torch.nn.functional.normalize(means, dim=-1).numpy()
            for i, features in zip(rows, out.numpy(), strict=True):
                tokens[first[i] : first[i + 1]] = features[1 : len(ids[i]) - 1]
        for name, array in (("tokens", tokens), ("first", first), ("mean", mean)):
            with whole_file(folder / f"{name}.npy", "wb") as file:
                np.save(file, array)
        with whole_file(folder / "texts.json") as file:
            json.dump(texts, file)
        return cls(folder)

    def __reduce__(self) -> tuple[type[Texts], tuple[Path]]:
        """For a process that reads data: it opens the files itself."""
        return Texts, (self.folder,)

    def length(self, row: int) -> int:
        return int(self.first[row + 1] - self.first[row])

    def features(self, row: int) -> np.ndarray:
        """L x 768: the features of each token, then the mean of the text."""
        tokens = self.tokens[self.first[row] : self.first[row + 1]].astype(np.float32)
        return np.concatenate([tokens, np.broadcast_to(self.mean[row], tokens.shape)], 1)

    def likeness(self, rows: Sequence[int], others: Sequence[int]) -> np.ndarray:
        """The highest cosine of each row with any of the others; -1 where there are none."""
        if not len(others):
            return np.full(len(rows), -1.0)
        return (self.mean[list(rows)] @ self.mean[list(others)].T).max(1)


def all_texts(pictures: Iterable[Picture]) -> list[str]:
    """Every text that a query may contain: sentences, phrases, names with and without an article."""
    texts: dict[str, None] = {}
    names: set[str] = {*read_table("coco"), *(word for word, _ in class_synonyms())}
    for picture in pictures:
        for caption, phrases in picture.captions:
            texts[sentence(caption)] = None
            texts.update({caption[p.begin : p.end]: None for p in phrases})
        names.update(picture.labels, picture.absent)
    texts.update({article + name: None for name in sorted(names) for article in ("", "a ", "the ")})
    texts.pop("", None)
    return list(texts)


def sentence(caption: str) -> str:
    """A caption as one segment, without its full stop."""
    return caption.strip(" .")


def sentence_query(texts: Texts, captions: Iterable[tuple[str, Sequence[Phrase]]]) -> Query:
    """A query of whole captions; words outside of phrases with boxes are ignored. Captions not encoded are left out."""
    rows, positives, ignored, begin = [], [], [], 0
    for caption, phrases in captions:
        row = texts.index.get(sentence(caption))
        if row is None:
            continue
        rows.append(row)
        offsets, used = tokenize(sentence(caption)).offsets[1:-1], set()
        shift = len(caption) - len(caption.lstrip(" ."))
        for p in phrases:
            tokens = [k for k, (b, e) in enumerate(offsets) if b + shift < p.end and e + shift > p.begin]
            if p.boxes:
                used.update(tokens)
                positives += [(box, [begin + k for k in tokens]) for box in p.boxes]
        ignored += [begin + k for k in range(len(offsets)) if k not in used]
        begin += len(offsets)
    return Query(rows, positives, ignored)


class NanoBatches:
    """Random batches of like orientation. The same generator state gives the same batch."""

    def __init__(self, pack: Pack, texts: Texts, held_out: Collection[tuple[str, str]]) -> None:
        self.pack, self.texts = pack, texts
        self.groups: dict[tuple[str, bool], list[int]] = {}
        absent: dict[int, None] = {}
        for i, picture in enumerate(pack.pictures):
            if (picture.group, picture.image_id) in held_out:
                continue
            self.groups.setdefault((picture.group, picture.upright), []).append(i)
            for caption, phrases in picture.captions:
                rows = [
                    texts.index.get(caption[p.begin : p.end]) for p in phrases if p.boxes and not COMMON & {*p.types}
                ]
                absent.update({row: None for row in rows if row is not None})
        self.absent = list(absent)
        self.coco = read_table("coco")
        self.household = sorted({n for p in pack.pictures if p.group == "household" for n in p.labels})
        self.upright = float(np.mean([p.upright for p in pack.pictures]))

    def batch(self, count: int, size: tuple[int, int], rng: random.Random) -> Batch:
        """count pictures, all lying in `size` or all upright in it turned.

        images: BGR minus 114. In place of ids the features of the tokens, B x L x 768 float32, for
        `Nano.project_text`; mask: tokens that count.
        """
        drawn = self.drawn(count, size, rng)
        length = max(sum(map(self.texts.length, query.texts)) for _, query, _ in drawn)
        features = np.zeros((count, length, 2 * TEXT_DIM), np.float32)
        mask = torch.zeros(count, length, dtype=torch.bool)
        targets = []
        for i, (_, query, photo) in enumerate(drawn):
            encoded = np.concatenate([self.texts.features(row) for row in query.texts])
            features[i, : len(encoded)] = encoded
            mask[i, : len(encoded)] = True
            mask[i, query.ignored] = False
            tokens, named = np.zeros((len(photo.boxes), length), bool), np.zeros(len(photo.boxes), bool)
            for box, positions in query.positives:
                tokens[box, positions], named[box] = True, True
                if photo.cut[box]:
                    mask[i, positions] = False
            named &= photo.whole
            targets.append((torch.from_numpy(photo.boxes[named]), torch.from_numpy(tokens[named])))
        images = torch.stack([photo.pixels for _, _, photo in drawn]).flip(1) - GREY
        return Batch(
            images=images.contiguous(memory_format=torch.channels_last),
            ids=torch.from_numpy(features),
            mask=mask,
            targets=targets,
            labels=[None] * count,
            sizes=[(images.shape[2], images.shape[3])] * count,
            sources=[picture.group for picture, _, _ in drawn],
            image_ids=[picture.image_id for picture, _, _ in drawn],
            captions=[self.words(query)[0] for _, query, _ in drawn],
        )

    def drawn(self, count: int, size: tuple[int, int], rng: random.Random) -> list[tuple[Picture, Query, CroppedPhoto]]:
        """The photos of a batch, the query of each, and the part of it that the model sees."""
        upright = rng.random() < self.upright
        height, width = size[::-1] if upright else size
        groups = [g for g in SHARES if (g, upright) in self.groups]
        drawn = []
        for group in rng.choices(groups, [SHARES[g] for g in groups], k=count):
            index = rng.choice(self.groups[group, upright])
            picture = self.pack.pictures[index]
            query = self.query(picture, rng)
            sided = any({"left", "right"} & {*self.texts.texts[row].split()} for row in query.texts)
            boxes = np.array(picture.boxes, np.float32).reshape(-1, 4)
            flip = not sided and rng.random() < 0.5
            drawn.append((picture, query, crop(self.pack.image(index), boxes, (height, width), rng, flip)))
        return drawn

    def words(self, query: Query) -> tuple[str, list[tuple[int, int]]]:
        """What is asked as one text, and the characters of each token position in it."""
        caption, spans = "", []
        for row in query.texts:
            caption += ". " if caption else ""
            text = self.texts.texts[row]
            spans += [(begin + len(caption), end + len(caption)) for begin, end in tokenize(text).offsets[1:-1]]
            caption += text
        return caption, spans

    def query(self, picture: Picture, rng: random.Random) -> Query:
        if picture.captions:
            return self._sentences(picture, rng) if rng.random() < SENTENCES else self._phrases(picture, rng)
        return self._names(picture, rng)

    def _sentences(self, picture: Picture, rng: random.Random) -> Query:
        query = sentence_query(self.texts, picture.captions)
        return replace(query, texts=query.texts + self._absent(picture, rng))

    def _phrases(self, picture: Picture, rng: random.Random) -> Query:
        boxes: dict[int, set[int]] = {}
        for caption, phrases in picture.captions:
            for p in phrases:
                row = self.texts.index.get(caption[p.begin : p.end])
                if p.boxes and row is not None:
                    boxes.setdefault(row, set()).update(p.boxes)
        rows = list(boxes)
        rng.shuffle(rows)
        rows, positives, begin = rows[:24], [], 0
        for row in rows:
            end = begin + self.texts.length(row)
            positives += [(box, list(range(begin, end))) for box in boxes[row]]
            begin = end
        return Query(rows + self._absent(picture, rng), positives, [])

    def _absent(self, picture: Picture, rng: random.Random) -> list[int]:
        """Phrases and names that nothing in the captions is like."""
        index = self.texts.index
        mine = [index[t] for c, ps in picture.captions for p in ps if (t := c[p.begin : p.end]) in index]
        words = {word for caption, _ in picture.captions for word in caption.split()}
        drawn = [rng.choice(self.absent) for _ in range(14)] if self.absent else []
        drawn += [index[rng.choice(self.coco)] for _ in range(6)]
        drawn += [index[rng.choice(self.household)] for _ in range(4)] if self.household else []
        unlike = self.texts.likeness(drawn, mine) < UNLIKE
        absent = [
            r for r, far in zip(drawn, unlike, strict=True) if far and self.texts.texts[r].split()[-1] not in words
        ]
        rng.shuffle(absent)
        absent = absent[: rng.randrange(4, 11)]
        stems = words | {word.removesuffix("s") for word in words}
        named = {kind for kind, words_for_it in ANIMALS.items() if stems & words_for_it}
        if named and any("animals" in p.types for _, ps in picture.captions for p in ps):
            others = [index[kind] for kind in ANIMALS if kind not in named and kind in index]
            absent += rng.sample(others, min(2, len(others)))
        return absent

    def _names(self, picture: Picture, rng: random.Random) -> Query:
        index, present = self.texts.index, sorted(set(picture.labels))
        mine = [index[name] for name in present]

        def unlike(names: Iterable[str], limit: float) -> list[str]:
            names = list(dict.fromkeys(names))
            far = self.texts.likeness([index[n] for n in names], mine) < limit if names else []
            return [n for n, ok in zip(names, far, strict=True) if ok]

        if picture.group == "coco":
            absent, most = list(picture.absent), rng.choice((8, 20, 40))
        elif picture.absent:
            absent, most = [*picture.absent, *unlike(ODD, 0.4)], 10
        else:
            some = [rng.choice(self.household) for _ in range(10)] if picture.group == "household" else []
            absent, most = unlike([*some, *rng.sample(ODD, 5)], FAR), 8
        rng.shuffle(absent)
        names = present + absent[:most]
        rng.shuffle(names)
        rows, place, begin = [], {}, 0
        for name in names:
            row = index[rng.choices(("", "a ", "the "), (0.7, 0.15, 0.15))[0] + name]
            rows.append(row)
            place[name] = list(range(begin, begin + self.texts.length(row)))
            begin += self.texts.length(row)
        return Query(rows, [(box, place[name]) for box, name in enumerate(picture.labels)], [])
