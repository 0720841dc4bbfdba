"""Training of the embedded model's second look, on what the finished first stage finds on captioned photos.

    python -m openglip.training.second_look --data DATA --weights FOLDER --held-out FILE.json --output OUTPUT

The first stage is run over every photo once; what it found lies in OUTPUT/seen, and a later call reads it there. The
rest takes minutes: only the small second stage trains. Written are the two files that ship. docs/nano.md has figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.data.files import image_content
from openglip.data.pack import Picture
from openglip.errors import ConfigError, DataError
from openglip.files import whole_file
from openglip.images.read import read_image
from openglip.model.head import TextFeatures
from openglip.nano.model import GRID, Nano
from openglip.nano.second_stage import CANDIDATES, SecondStage, sample_features
from openglip.predict.detector import Detector
from openglip.predict.text import TextEncoder
from openglip.prompts.tokens import tokenize
from openglip.structures.boxes import elementwise_giou, pairwise_iou
from openglip.training.nano import ABOUT, captioned_photos, embedded_state, export, held_out
from openglip.training.optim import Average, Cosine, parameter_groups, set_rates
from openglip.weights.load import load_state

logger = logging.getLogger(__name__)
PHOTOS, PHRASES = 8, 6  # of a step; phrases of each photo
CYCLES = ((3600, 1e-3, 1.0), (2200, 5e-4, 2.0))  # steps, first rate, weight of GIoU
SHARE = 0.15  # of the new scores, the rest are the first stage's
RIGHT, NEAR = 0.5, 0.3  # overlap of a box that is right, and of one that learns to be


@dataclass(frozen=True)
class Seen:
    """What the first stage makes of one photo, K boxes a phrase.

    levels: 2 D x h x w float16 each; size: width, height; boxes: P x K x 4; scores: P x K; words: P x 2 D; wanted: of
    each phrase of a caption its row among the P and its boxes. All boxes xyxy in pixels of the network's image.
    """

    levels: list[Tensor]
    size: Tensor
    boxes: Tensor
    scores: Tensor
    words: Tensor
    wanted: list[tuple[int, Tensor]]


@torch.inference_mode()
def look(detector: Detector, picture: Picture, content: bytes) -> Seen:
    """Run the first stage on a photo for every phrase of its captions that has a box."""
    model = cast("Nano", detector.model)
    image = detector.encode(read_image(content))
    height, width = image.network_size
    spans = [(caption[p.begin : p.end], p.boxes) for caption, phrases in picture.captions for p in phrases if p.boxes]
    spans = [(text, rows) for text, rows in spans if len(tokenize(text).ids) > 2]  # some have no word piece
    phrases = list(dict.fromkeys(text for text, _ in spans))
    boxes = torch.zeros(len(phrases), CANDIDATES, 4)
    scores, words = torch.zeros(len(phrases), CANDIDATES), []
    pyramid = cast("list[Tensor]", image.maps)
    encoder = TextEncoder(detector.backend, detector.id)
    for prompt in encoder.phrases_alone(phrases) if phrases else ():
        hidden, mask = cast("TextFeatures", prompt.tokens)
        outputs = model.align(pyramid, TextFeatures(hidden[None], mask[None]))
        words.append(model.phrase_features(pyramid, hidden, prompt.token_map))
        none = [0.0] * len(prompt.labels)
        found = model.phrase_candidates(outputs, 0, prompt.token_map, image.network_size, none)
        for label, row in enumerate(prompt.labels.tolist()):
            own = (found.labels == label).nonzero()[:CANDIDATES, 0]
            boxes[row, : len(own)], scores[row, : len(own)] = found.boxes[own], found.scores[own]
    size = torch.tensor([width, height])
    true = torch.tensor(picture.boxes, dtype=torch.float32).reshape(-1, 4) * size.repeat(2)
    dim = model.keys.out_channels
    return Seen(
        [level[0, : 2 * dim].half() for level in pyramid[:3]],
        size.float(),
        boxes,
        scores,
        torch.cat(words) if words else torch.zeros(0, 2 * dim),
        [(phrases.index(text), true[list(rows)]) for text, rows in spans],
    )


def seen_photos(detector: Detector, data: Path, left_out: set[tuple[str, str]], folder: Path) -> list[Seen]:
    """What the first stage makes of every photo of the captions; what lies in the folder is not made again.

    Raises ConfigError when the folder holds what other weights made, or of other photos.
    """
    photos = list(captioned_photos(data, left_out))
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps([picture.image_id for picture, _ in photos]).encode())
    for key, value in detector.model.state_dict().items():
        if not key.startswith("second_stage."):
            digest.update(value.numpy().tobytes())
    made_of = folder / "made_of.txt"
    if made_of.is_file() and made_of.read_text() != digest.hexdigest():
        raise ConfigError(f"{folder} is made of other weights or other photos: give another --output, or empty it")
    made_of.write_text(digest.hexdigest())
    seen: list[Seen] = []
    for begin in range(0, len(photos), 100):
        path = folder / f"{begin}.pt"
        if not path.is_file():
            part = [vars(look(detector, picture, image_content(file))) for picture, file in photos[begin : begin + 100]]
            with whole_file(path, "wb") as file:
                torch.save(part, file)
            logger.info("%d of %d photos seen", begin + len(part), len(photos))
        seen += [Seen(**part) for part in torch.load(path, weights_only=True)]
    return [photo for photo in seen if photo.wanted]


def asked(photo: Seen, wanted: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, ...]:
    """What the second look is given for some phrases of a photo."""
    rows = [row for row, _ in wanted]
    boxes = photo.boxes[rows]
    seen = sample_features(photo.levels, GRID.strides[:3], boxes.flatten(0, 1)).unflatten(0, boxes.shape[:2])
    return seen, boxes, photo.scores[rows], photo.words[rows], photo.size.expand(len(rows), 2)


def losses(
    boxes: Tensor, logits: Tensor, before: Tensor, scores: Tensor, true: Sequence[Tensor], weight: float = 1.0
) -> Tensor:
    """Three terms: GIoU of boxes that were near (Rezatofighi et al., 2019), right boxes against all others of the
    phrase (softmax), and right or wrong of each box by itself.

    boxes, before: N x K x 4, as they are now and were; logits: N x K; scores: N x K, 0 on padding; true: M x 4 each;
    weight: of the first term.
    """
    real = scores > 0
    overlap = [pairwise_iou(own, wanted) for own, wanted in zip(before, true, strict=True)]
    near, nearest = (torch.stack(x) for x in zip(*(o.max(1) for o in overlap), strict=True))
    target = torch.stack([wanted[own] for wanted, own in zip(true, nearest, strict=True)])
    moved = [pairwise_iou(own, wanted).amax(1) for own, wanted in zip(boxes.detach(), true, strict=True)]
    right = (torch.stack(moved) >= RIGHT) & real
    logits = logits.masked_fill(~real, -1e4)
    mixed = right.any(1) & (real & ~right).any(1)
    chosen = logits.logsumexp(1) - logits.masked_fill(~right, -1e4).logsumexp(1)
    learns = (near >= NEAR) & real
    return (
        weight * (1 - elementwise_giou(boxes[learns], target[learns])).sum() / learns.sum().clamp(min=1)
        + chosen[mixed].sum() / mixed.sum().clamp(min=1)
        + F.binary_cross_entropy_with_logits(logits[real], right[real].float())
    )


def train(
    second: SecondStage, photos: Sequence[Seen], cycles: Sequence[tuple[int, float, float]] = CYCLES, seed: int = 0
) -> dict[str, Tensor]:
    """Train it in place, each cycle from where the last ended; gives the mean of what they end with."""
    ends = []
    for number, (steps, lr, weight) in enumerate(cycles):
        ends.append(_cycle(second, photos, steps, lr, weight, seed + number))
        second.load_state_dict(ends[-1])
    return {key: torch.stack([end[key] for end in ends]).mean(0) for key in ends[0]}


def _cycle(
    second: SecondStage, photos: Sequence[Seen], steps: int, lr: float, weight: float, seed: int
) -> dict[str, Tensor]:
    """The running average of the weights after so many steps of a cosine from lr."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    second.train()
    groups = parameter_groups(second.named_parameters(), lr, 0.02, bias_factor=1.0)
    optimizer, schedule = torch.optim.AdamW(groups, fused=True), Cosine(steps, warmup=50)
    average = Average(second, 0.998, 19)
    for step in range(steps):
        set_rates(optimizer, schedule, step)
        drawn = [
            (photo, rng.sample(photo.wanted, min(PHRASES, len(photo.wanted))))
            for photo in rng.choices(photos, k=PHOTOS)
        ]
        given = [torch.cat(part) for part in zip(*(asked(photo, own) for photo, own in drawn), strict=True)]
        boxes, logits = second(*given)
        loss = losses(boxes, logits, given[1], given[2], [true for _, own in drawn for _, true in own], weight)
        loss.backward()
        nn.utils.clip_grad_norm_(second.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(second, step)
        if (step + 1) % 100 == 0:
            logger.info("step %d/%d  loss %.3f", step + 1, steps, loss.item())
    return average.state


def tempered(state: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights whose new logits count by a share, those of the first stage by the rest; with 1 / share the way back."""
    last = ("output.3.weight", "output.3.bias")
    scaled = {key: torch.cat([state[key][:1] * share, state[key][1:]]) for key in last}
    return state | scaled | {"first_stage_weight": 1 + share * (state["first_stage_weight"] - 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model's second look; writes the two files.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds flickr8k_entities")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the two files of the first stage")
    parser.add_argument("--held-out", help="JSON file of pictures that are never trained on, as the recipe's held_out")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--go-on", action="store_true", help="from the second look in --weights, not from nothing")
    parser.add_argument("--steps", type=int, default=max(steps for steps, *_ in CYCLES), help="of a cycle, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=SHARE, help="of the new scores, the rest are the first stage's")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = Nano()
    fresh = SecondStage(model.keys.out_channels)
    state, prefix = embedded_state(arguments.weights), "second_stage."
    if arguments.go_on:
        earlier = {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
        load_state(fresh, tempered(earlier, 1 / arguments.share), arguments.weights)
    state |= {f"{prefix}{k}": v for k, v in fresh.state_dict().items()}
    load_state(model, state, arguments.weights)
    left_out = held_out(arguments.held_out)
    photos = seen_photos(Detector(model, device="cpu"), arguments.data, left_out, arguments.output / "seen")
    if not photos:
        raise DataError(f"{arguments.data} has no photo to train on that is not held out")
    cycles = [(min(steps, arguments.steps), lr, weight) for steps, lr, weight in CYCLES]
    trained = tempered(train(fresh, photos, cycles, arguments.seed), arguments.share)
    export(state | {f"{prefix}{k}": v for k, v in trained.items()}, arguments.output, ABOUT)


if __name__ == "__main__":
    main()
