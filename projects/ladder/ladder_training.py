"""Training of one rung of the ladder: which pictures, what is asked of them, and the loop over processor seconds."""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from batches import UNLIKE, Query, Texts, sentence, sentence_query
from ladder_network import SIZE, Ladder
from packing import Pack, Picture
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.files import whole_file
from openglip.images.prepare import prepare, resized_size
from openglip.model.head import TextFeatures
from openglip.nano.text import TEXT_DIM
from openglip.prompts.tables import read_table
from openglip.training.assign import assign, normalisers
from openglip.training.losses import ClosedSetCriterion, GroundingCriterion
from openglip.training.optim import Average

BATCH, RATE, DECAY, CLIP, AVERAGE, WARMUP = 16, 1.5e-3, 0.02, 4.0, 0.998, 50
LONG = 0.25  # share of the batches with all 80 names and all five captions, as in the tests; others are shorter
SHORT_NAMES, SHORT_CAPTIONS, ABSENT = 30, 2, 6
GROUPS = ("coco", "captions")  # of the packed pictures
SHAPES = ((64, SIZE[0] // 8, SIZE[1] // 8), (128, SIZE[0] // 16, SIZE[1] // 16), (256, SIZE[0] // 32, SIZE[1] // 32))


@dataclass(frozen=True)
class Rung:
    """words, fusion: of the network. shares: of the groups of pictures in training. captions: whose boxes the caption
    half gets; threshold: of the teacher's, None: the one chosen on held-out photos."""

    words: bool
    fusion: bool
    shares: Mapping[str, float]
    captions: Literal["teacher", "true"] | None = None
    threshold: float | None = None


DETECTION = {"coco": 1.0}
BOTH = {"coco": 0.4, "grounding": 0.3, "captions": 0.3}
RUNGS = {
    "closed": Rung(False, False, DETECTION),
    "A": Rung(True, False, DETECTION),
    "B": Rung(True, True, DETECTION),
    "C": Rung(True, True, {"coco": 0.4, "grounding": 0.6}),
    "T": Rung(True, True, BOTH, "teacher"),
    "Upper": Rung(True, True, BOTH, "true"),
    "T05": Rung(True, True, BOTH, "teacher", 0.5),
}


class Batch(NamedTuple):
    """What `openglip.training.batches.Batch` holds for a criterion, with maps and features in place of images and ids.

    Attributes:
        maps: Of the body, B x C x h x w each.
        hidden: B x L x 384.
        real: B x L, tokens that are not padding.
        mask: B x L, tokens that the loss counts.
        targets: Per image N x 4 boxes and N x L bool, their tokens.
        labels: Per image N, indices of the 80 names.
    """

    maps: list[Tensor]
    hidden: Tensor
    real: Tensor
    mask: Tensor
    targets: list[tuple[Tensor, Tensor]]
    labels: list[Tensor]


class Maps:
    """The frozen body's maps of every picture of the rungs, made once: half of a step's time would go into them."""

    def __init__(self, pack: Pack, model: Ladder, file: Path) -> None:
        used = [i for i, p in enumerate(pack.pictures) if p.group in GROUPS]
        used.sort(key=lambda i: pack.pictures[i].upright)
        self.row = {i: n for n, i in enumerate(used)}
        shape = (len(self.row), sum(c * h * w for c, h, w in SHAPES))
        if not file.is_file():
            with whole_file(file, "wb") as out:
                for orientation, rows in itertools.groupby(self.row, key=lambda i: pack.pictures[i].upright):
                    size, rows = SIZE[::-1] if orientation else SIZE, list(rows)
                    for begin in range(0, len(rows), BATCH):
                        images = [
                            torch.from_numpy(prepare(pack.image(i), model.preparation))
                            for i in rows[begin : begin + BATCH]
                        ]
                        images = [F.pad(x, (0, size[1] - x.shape[2], 0, size[0] - x.shape[1])) for x in images]
                        batch = torch.stack(images).contiguous(memory_format=torch.channels_last)
                        levels = [level.flatten(1) for level in model.backbone["body"](batch)]
                        out.write(torch.cat(levels, 1).half().numpy().tobytes())
        self.values = np.memmap(file, np.float16, "r", shape=shape)

    def batch(self, indices: Sequence[int], upright: bool) -> list[Tensor]:
        rows = torch.from_numpy(self.values[[self.row[i] for i in indices]]).float()
        levels = rows.split([c * h * w for c, h, w in SHAPES], 1)
        return [
            level.view(-1, c, *((w, h) if upright else (h, w))).contiguous(memory_format=torch.channels_last)
            for level, (c, h, w) in zip(levels, SHAPES, strict=True)
        ]


class Batches:
    """Random batches of like orientation. The same generator state gives the same batch.

    captions: what is known of the caption half's pictures, by id: nothing, its true boxes, or a teacher's.
    """

    def __init__(
        self,
        pack: Pack,
        maps: Maps,
        texts: Texts,
        shares: Mapping[str, float],
        box_half: Collection[str],
        captions: Mapping[str, Picture],
        held_out: Collection[tuple[str, str]],
    ) -> None:
        self.maps, self.texts, self.shares = maps, texts, shares
        self.names = list(read_table("coco"))
        self.groups: dict[tuple[str, bool], list[tuple[int, Picture]]] = {}
        pool: dict[int, None] = {}
        for i, picture in enumerate(pack.pictures):
            group, own = picture.group, picture
            if (group, picture.image_id) in held_out or group not in GROUPS:
                continue
            if group == "captions" and picture.image_id in box_half:
                group = "grounding"
            elif group == "captions":
                if picture.image_id not in captions:
                    continue
                own = replace(captions[picture.image_id], size=picture.size)
            if shares.get(group):
                self.groups.setdefault((group, picture.upright), []).append((i, own))
            if group == "grounding":
                pool.update(dict.fromkeys(self.phrases(own)))
        self.pool = list(pool)
        rows = [p for own in self.groups.values() for _, p in own]
        self.upright = sum(p.upright for p in rows) / len(rows)

    def batch(self, rng: random.Random) -> Batch:
        upright, long = rng.random() < self.upright, rng.random() < LONG
        drawn: list[tuple[int, Picture, Query]] = []
        for group in rng.choices(list(self.shares), list(self.shares.values()), k=BATCH):
            index, picture = rng.choice(self.groups[group, upright])
            ask = self.captions(picture, rng, long) if picture.captions else self.categories(picture, rng, long)
            drawn.append((index, picture, ask))
        length = max(sum(map(self.texts.length, ask.texts)) for _, _, ask in drawn)
        hidden = np.zeros((BATCH, length, TEXT_DIM), np.float32)
        real, mask = torch.zeros(BATCH, length, dtype=torch.bool), torch.zeros(BATCH, length, dtype=torch.bool)
        targets, labels = [], []
        for i, (_, picture, ask) in enumerate(drawn):
            own = np.concatenate([self.tokens(row) for row in ask.texts])
            hidden[i, : len(own)] = own
            real[i, : len(own)] = mask[i, : len(own)] = True
            mask[i, ask.ignored] = False
            maps = torch.zeros(len(picture.boxes), length, dtype=torch.bool)
            for box, positions in ask.positives:
                maps[box, positions] = True
            named = maps.any(1)
            height, width = resized_size(*picture.size, SIZE[0], SIZE[1])
            every = torch.tensor(picture.boxes).view(-1, 4) * torch.tensor([width, height, width, height])
            targets.append((every[named], maps[named]))
            kept = [self.names.index(n) for n, k in zip(picture.labels, named, strict=False) if k]
            labels.append(torch.tensor(kept, dtype=torch.int64))
        maps = self.maps.batch([index for index, _, _ in drawn], upright)
        return Batch(maps, torch.from_numpy(hidden), real, mask, targets, labels)

    def tokens(self, row: int) -> np.ndarray:
        return self.texts.tokens[self.texts.first[row] : self.texts.first[row + 1]].astype(np.float32)

    def categories(self, picture: Picture, rng: random.Random, long: bool) -> Query:
        """The picture's names and absent ones, in random order."""
        present = sorted(set(picture.labels))
        absent = [n for n in self.names if n not in picture.labels]
        rng.shuffle(absent)
        names = present + (absent if long else absent[: max(4, SHORT_NAMES - len(present))])
        rng.shuffle(names)
        rows, places = self._in_line([self.texts.index[name] for name in names])
        place = dict(zip(names, places, strict=True))
        return Query(rows, [(box, place[name]) for box, name in enumerate(picture.labels)], [])

    def captions(self, picture: Picture, rng: random.Random, long: bool) -> Query:
        """Some of the captions, then phrases and names that are absent. Words without a box are not asked about."""
        chosen = [c for c in picture.captions if sentence(c[0]) in self.texts.index]
        chosen = chosen if long else rng.sample(chosen, min(len(chosen), rng.randint(1, SHORT_CAPTIONS)))
        ask = sentence_query(self.texts, chosen)
        return replace(ask, texts=ask.texts + self._absent(picture, rng))

    def phrases(self, picture: Picture) -> list[int]:
        texts = (caption[p.begin : p.end] for caption, phrases in picture.captions for p in phrases)
        return [self.texts.index[text] for text in texts if text in self.texts.index]

    def _absent(self, picture: Picture, rng: random.Random) -> list[int]:
        words = {word for caption, _ in picture.captions for word in caption.split()}
        found = rng.sample(self.pool, ABSENT) + [self.texts.index[n] for n in rng.sample(self.names, ABSENT // 2)]
        unlike = self.texts.likeness(found, self.phrases(picture)) < UNLIKE
        return [r for r, ok in zip(found, unlike, strict=True) if ok and self.texts.texts[r].split()[-1] not in words]

    def _in_line(self, rows: list[int]) -> tuple[list[int], list[list[int]]]:
        ends = np.cumsum([self.texts.length(row) for row in rows]).tolist()
        return rows, [list(range(b, e)) for b, e in zip([0, *ends], ends, strict=False)]


def losses(model: Ladder, batch: Batch) -> dict[str, Tensor]:
    text = None
    if model.categories is None:
        text = TextFeatures(model.read(batch.hidden), batch.real)
    outputs = model.align(model.encode_maps(batch.maps), text)
    targets = assign(model.anchors(outputs.sizes), outputs.sizes, [boxes for boxes, _ in batch.targets])
    targets = replace(targets, normalisers=normalisers([targets]))
    criterion = ClosedSetCriterion() if text is None else GroundingCriterion()
    return criterion(outputs, batch, targets)  # type: ignore[arg-type]


def fit(model: Ladder, batches: Batches, seconds: float, seed: int, log: Path) -> tuple[Ladder, dict[str, float]]:
    """Train for that many seconds of this process's time; gives the averaged model and what it cost."""
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    model.backbone["body"].eval()
    average = Average(model, AVERAGE, warmup=19)
    trained = list(model.trained().values())
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=DECAY)
    step, begin, wall = 0, time.process_time(), time.monotonic()
    lines: list[str] = []
    while (share := (time.process_time() - begin) / seconds) < 1:
        batch = batches.batch(random.Random(seed * 1_000_003 + step))
        terms = losses(model, batch)
        rate = 0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2
        optimizer.param_groups[0]["lr"] = RATE * rate * min(1, (step + 1) / WARMUP)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(trained, CLIP)):
            optimizer.step()
        step += 1
        average.update(model, step)
        if step % 25 == 0:
            line = {"step": step, "share": round(share, 3)} | {k: round(float(t.detach()), 4) for k, t in terms.items()}
            lines.append(json.dumps(line))
            log.write_text("\n".join(lines) + "\n")
    spent = {"seconds": time.process_time() - begin, "wall": time.monotonic() - wall}
    model.load_state_dict(average.state)
    return model.eval(), {"steps": step, "images": step * BATCH, **{k: round(v, 1) for k, v in spent.items()}}
