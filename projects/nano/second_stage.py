"""Train the embedded model's second stage on what the finished first stage returns for captioned photos.

    python projects/nano/second_stage.py --data DATA --weights FOLDER --held-out docs/nano_held_out.json --output OUTPUT

The first stage runs over every photo once; its results are in OUTPUT/first-stage, where a later call reads them. The
rest takes minutes: only the small second stage trains. Written are the two files of the package. docs/nano.md has
figures.
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
from export import ABOUT, export, read_both
from packing import Picture
from photos import captioned_photos, held_out
from torch import Tensor, nn
from torch.nn import functional as F

from openglip.data.files import image_content
from openglip.errors import ConfigError, DataError
from openglip.files import whole_file
from openglip.images.read import read_image
from openglip.model.head import TextFeatures
from openglip.nano.model import GRID, Nano
from openglip.nano.second_stage import CANDIDATES, SecondStage, phrase_candidates, sample_features
from openglip.predict.detector import Detector
from openglip.predict.text import TextEncoder
from openglip.prompts.tokens import tokenize
from openglip.structures.boxes import elementwise_giou, pairwise_iou
from openglip.training.optim import Average, Cosine, parameter_groups, set_rates
from openglip.weights.load import load_state

logger = logging.getLogger(__name__)
PHOTOS, PHRASES = 8, 6  # photos of a step; phrases of each
CYCLES = ((3600, 1e-3, 1.0), (2200, 5e-4, 2.0))  # steps, first rate, weight of GIoU
SHARE = 0.15  # weight of the new scores; the rest is the first stage's
POSITIVE_IOU, REFINED_IOU = 0.5, 0.3  # of a box that counts as correct, and of one whose location is trained


@dataclass(frozen=True)
class FirstStage:
    """What the first stage returns for one photo: K boxes for each of P distinct phrases.

    Attributes:
        levels: Keys and features, 2 D x h x w float16 each.
        size: Width and height.
        boxes: P x K x 4, xyxy in pixels of the network's input.
        scores: P x K.
        words: P x 2 D.
        targets: For each phrase of a caption its row among the P and its annotated boxes.
    """

    levels: list[Tensor]
    size: Tensor
    boxes: Tensor
    scores: Tensor
    words: Tensor
    targets: list[tuple[int, Tensor]]


@torch.inference_mode()
def run_first_stage(detector: Detector, picture: Picture, content: bytes) -> FirstStage:
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
        candidates = phrase_candidates(model, outputs, 0, prompt.token_map, image.network_size, none)
        for label, row in enumerate(prompt.labels.tolist()):
            best = (candidates.labels == label).nonzero()[:CANDIDATES, 0]
            boxes[row, : len(best)], scores[row, : len(best)] = candidates.boxes[best], candidates.scores[best]
    size = torch.tensor([width, height])
    true = torch.tensor(picture.boxes, dtype=torch.float32).reshape(-1, 4) * size.repeat(2)
    dim = model.keys.out_channels
    return FirstStage(
        [level[0, : 2 * dim].half() for level in pyramid[:3]],
        size.float(),
        boxes,
        scores,
        torch.cat(words) if words else torch.zeros(0, 2 * dim),
        [(phrases.index(text), true[list(rows)]) for text, rows in spans],
    )


def first_stages(detector: Detector, data: Path, left_out: set[tuple[str, str]], folder: Path) -> list[FirstStage]:
    """Run the first stage on every captioned photo; results in the folder are read.

    Raises ConfigError when the folder holds results of other weights or other photos.
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
    results: list[FirstStage] = []
    for begin in range(0, len(photos), 100):
        path = folder / f"{begin}.pt"
        if not path.is_file():
            part = [
                vars(run_first_stage(detector, picture, image_content(file)))
                for picture, file in photos[begin : begin + 100]
            ]
            with whole_file(path, "wb") as file:
                torch.save(part, file)
            logger.info("%d of %d photos", begin + len(part), len(photos))
        results += [FirstStage(**part) for part in torch.load(path, weights_only=True)]
    return [photo for photo in results if photo.targets]


def inputs_of(photo: FirstStage, targets: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, ...]:
    """Inputs of the second stage for some phrases of a photo."""
    rows = [row for row, _ in targets]
    boxes = photo.boxes[rows]
    features = sample_features(photo.levels, GRID.strides[:3], boxes.flatten(0, 1)).unflatten(0, boxes.shape[:2])
    return features, boxes, photo.scores[rows], photo.words[rows], photo.size.expand(len(rows), 2)


def losses(
    boxes: Tensor, logits: Tensor, before: Tensor, scores: Tensor, true: Sequence[Tensor], weight: float = 1.0
) -> Tensor:
    """Three terms: GIoU of boxes that were near (Rezatofighi et al., 2019), right boxes against all others of the
    phrase (softmax), and right or wrong of each box by itself.

    boxes, before: N x K x 4, as they are now and were; logits: N x K; scores: N x K, 0 on padding; true: M x 4 each;
    weight: of the first term.
    """
    real = scores > 0
    overlap = [pairwise_iou(candidates, boxes) for candidates, boxes in zip(before, true, strict=True)]
    near, nearest = (torch.stack(x) for x in zip(*(o.max(1) for o in overlap), strict=True))
    target = torch.stack([boxes[rows] for boxes, rows in zip(true, nearest, strict=True)])
    moved = [pairwise_iou(refined, target).amax(1) for refined, target in zip(boxes.detach(), true, strict=True)]
    right = (torch.stack(moved) >= POSITIVE_IOU) & real
    logits = logits.masked_fill(~real, -1e4)
    mixed = right.any(1) & (real & ~right).any(1)
    chosen = logits.logsumexp(1) - logits.masked_fill(~right, -1e4).logsumexp(1)
    learns = (near >= REFINED_IOU) & real
    return (
        weight * (1 - elementwise_giou(boxes[learns], target[learns])).sum() / learns.sum().clamp(min=1)
        + chosen[mixed].sum() / mixed.sum().clamp(min=1)
        + F.binary_cross_entropy_with_logits(logits[real], right[real].float())
    )


def train(
    second: SecondStage,
    photos: Sequence[FirstStage],
    cycles: Sequence[tuple[int, float, float]] = CYCLES,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Train it in place, each cycle from where the last ended; returns the mean of the weights at their ends."""
    ends = []
    for number, (steps, lr, weight) in enumerate(cycles):
        ends.append(_cycle(second, photos, steps, lr, weight, seed + number))
        second.load_state_dict(ends[-1])
    return {key: torch.stack([end[key] for end in ends]).mean(0) for key in ends[0]}


def _cycle(
    second: SecondStage, photos: Sequence[FirstStage], steps: int, lr: float, weight: float, seed: int
) -> dict[str, Tensor]:
    """The running average of the weights after a cosine schedule from lr."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    second.train()
    groups = parameter_groups(second.named_parameters(), lr, 0.02, bias_factor=1.0)
    optimizer, schedule = torch.optim.AdamW(groups, fused=True), Cosine(steps, warmup=50)
    average = Average(second, 0.998, 19)
    for step in range(steps):
        set_rates(optimizer, schedule, step)
        drawn = [
            (photo, rng.sample(photo.targets, min(PHRASES, len(photo.targets))))
            for photo in rng.choices(photos, k=PHOTOS)
        ]
        given = [torch.cat(part) for part in zip(*(inputs_of(photo, phrases) for photo, phrases in drawn), strict=True)]
        boxes, logits = second(*given)
        loss = losses(
            boxes, logits, given[1], given[2], [boxes for _, phrases in drawn for _, boxes in phrases], weight
        )
        loss.backward()
        nn.utils.clip_grad_norm_(second.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(second, step)
        if (step + 1) % 100 == 0:
            logger.info("step %d/%d  loss %.3f", step + 1, steps, loss.item())
    return average.state


def tempered(state: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights whose new logits count by `share` and the first stage's by the rest; 1 / share undoes it."""
    last = ("output.3.weight", "output.3.bias")
    scaled = {key: torch.cat([state[key][:1] * share, state[key][1:]]) for key in last}
    return state | scaled | {"first_stage_weight": 1 + share * (state["first_stage_weight"] - 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model's second stage; writes the two files.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds flickr8k_entities")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the two files of the first stage")
    parser.add_argument("--held-out", help="JSON file of pictures that are never trained on, as the recipe's held_out")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--go-on", action="store_true", help="from the second stage in --weights instead of random weights"
    )
    parser.add_argument("--steps", type=int, default=max(steps for steps, *_ in CYCLES), help="of a cycle, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--share", type=float, default=SHARE, help="weight of the new scores; the rest is the first stage's"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = Nano()
    fresh = SecondStage(model.keys.out_channels)
    state, prefix = read_both(arguments.weights), "second_stage."
    if arguments.go_on:
        earlier = {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
        load_state(fresh, tempered(earlier, 1 / arguments.share), arguments.weights)
    state |= {f"{prefix}{k}": v for k, v in fresh.state_dict().items()}
    load_state(model, state, arguments.weights)
    left_out = held_out(arguments.held_out)
    photos = first_stages(Detector(model, device="cpu"), arguments.data, left_out, arguments.output / "first-stage")
    if not photos:
        raise DataError(f"{arguments.data} has no photo to train on that is not held out")
    cycles = [(min(steps, arguments.steps), lr, weight) for steps, lr, weight in CYCLES]
    trained = tempered(train(fresh, photos, cycles, arguments.seed), arguments.share)
    export(state | {f"{prefix}{k}": v for k, v in trained.items()}, arguments.output, ABOUT)


if __name__ == "__main__":
    main()
