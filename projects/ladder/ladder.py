"""The paper's ladder at small scale: the same network and processor seconds, one thing added at a time.

    python projects/ladder/ladder.py DATA START PACKED STATE [--seconds 300] [--seeds 2]

DATA holds flickr8k_entities and coco_mini, START yolox_nano_coco.safetensors, PACKED the packed pictures and encoded
texts of a run of the recipe nano. STATE keeps runs, labels and predictions: what is there is not done again. Writes
ladder.json next to this file and prints the table; docs/ladder.md explains it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "projects" / "nano")]  # scripts that it shares

from batches import Texts
from common import machine
from labelling_at_scale import boxes as judge_labels
from labelling_at_scale import lines_of
from ladder_figures import ap50, differences, recall
from ladder_labels import by_caption, captions_of, f1, known_by
from ladder_network import Ladder
from ladder_training import RUNGS, Batches, Maps, fit
from packing import Pack, Picture
from photos import held_out
from safetensors.torch import load_file

from openglip.data.files import read_json, read_lines
from openglip.evaluation.flickr import Sentence, read_sentences
from openglip.evaluation.inference import PER_SENTENCE
from openglip.evaluation.read import read_annotations
from openglip.evaluation.run import evaluate
from openglip.files import whole_file
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings
from openglip.predict.detector import Detector
from openglip.weights.files import write_safetensors

THRESHOLD_PHOTOS = 80
HELD_OUT = ROOT / "docs" / "nano_held_out.json"


@dataclass(frozen=True)
class Places:
    data: Path
    start: Path
    packed: Path
    state: Path
    photos: int

    @property
    def flickr(self) -> Path:
        return self.data / "flickr8k_entities" / "train"

    @property
    def flickr_val(self) -> Path:
        return self.data / "flickr8k_entities" / "val"

    def run(self, rung: str, seed: int) -> Path:
        return self.state / f"{rung}-{seed}"

    @property
    def box_half(self) -> set[str]:
        return set(read_lines(self.flickr / "grounding_half.txt"))

    @property
    def caption_part(self) -> set[str]:
        """Photos of the caption half that are labelled: more than T can see in its seconds."""
        return set(random.Random(0).sample(sorted(read_lines(self.flickr / "caption_half.txt")), self.photos))


def train(places: Places, pack: Pack, maps: Maps, texts: Texts, rung: str, seed: int, seconds: float) -> None:
    folder, what = places.run(rung, seed), RUNGS[rung]
    if (folder / "run.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    captions: dict[str, Picture] = {}
    part = places.caption_part
    if what.captions == "true":
        captions = {p.image_id: p for p in pack.pictures if p.group == "captions" and p.image_id in part}
    if what.captions == "teacher":
        chosen = read_json(places.run("C", seed) / "labels.json")
        assert isinstance(chosen, dict)
        threshold = float(chosen["threshold"]) if what.threshold is None else what.threshold
        captions = known_by(list(lines_of(places.run("C", seed) / "caption_part_labels")), threshold)
    batches = Batches(pack, maps, texts, what.shares, places.box_half, captions, held_out(HELD_OUT))
    torch.manual_seed(seed)
    model, spent = fit(
        Ladder(what.words, what.fusion).start(places.start), batches, seconds, seed, folder / "log.jsonl"
    )
    trained = {n: p.contiguous() for n, p in model.state_dict().items() if not _fixed(n)}
    write_safetensors(folder / "model.safetensors", trained, {"model": "ladder", "rung": rung, "seed": seed})
    _save(folder / "run.json", spent)


def detector(places: Places, rung: str, seed: int) -> Detector:
    model = Ladder(RUNGS[rung].words, RUNGS[rung].fusion, reads=True).start(places.start)
    model.load_state_dict(load_file(places.run(rung, seed) / "model.safetensors"), strict=False)
    return Detector(model, device="cpu")


def measure(places: Places, rung: str, seed: int) -> None:
    """Predictions on val, and what our evaluation says of them."""
    folder = places.run(rung, seed)
    if (folder / "figures.json").is_file():
        return
    begin, own = time.process_time(), detector(places, rung, seed)
    coco = places.data / "coco_mini"
    annotations = coco / "annotations" / "val.json"
    found = evaluate("coco", annotations, images=coco / "val", model=own, output=folder / "coco", batch_size=8)
    figures = {"AP50": found.figures["AP50"], "AP": found.figures["AP"]}
    if RUNGS[rung].words:
        root = places.flickr_val
        ids = root / "ids_flickr30k_val.txt"
        predictions = folder / "flickr30k.json"
        _save(predictions, list(_grounded(own, root, read_sentences(root, read_lines(ids))[0])))
        found = evaluate("flickr30k", root, ids=ids, predictions=predictions)
        figures |= {k: found.figures[f"any_box/{k}"] for k in ("R@1", "R@5", "R@10")}
    _save(folder / "figures.json", figures | {"seconds": round(time.process_time() - begin, 1)})


def _grounded(detector: Detector, root: Path, sentences: list[Sentence]) -> Iterator[dict[str, Any]]:
    """As the evaluation asks a model, with all sentences of a photo in one batch: padding has no effect here."""
    for image, group in itertools.groupby(sentences, key=lambda s: s.image_id):
        own = list(group)
        captions, phrases = [s.caption for s in own], [[list(p.spans) for p in s.phrases] for s in own]
        encoded = detector.encode(root / "images" / f"{image}.jpg")
        answers = detector.stream(
            [encoded] * len(own), captions=captions, phrases=phrases, threshold=0, top_k=PER_SENTENCE, batch_size=8
        )
        for sentence, found in zip(own, answers, strict=True):
            assert found.image_size is not None
            scale = [new / old for new, old in zip(sentence.size[::-1], found.image_size[::-1], strict=True)] * 2
            boxes: list[list[list[float]]] = [[] for _ in sentence.phrases]
            for box, row in zip((found.boxes.astype(float) * scale).tolist(), found.labels.tolist(), strict=True):
                boxes[row].append(box)
            yield {"image_id": image, "sentence_id": sentence.number, "boxes": boxes}


def teach(places: Places, seed: int) -> None:
    """Let (C) label photos of the caption half, and held-out ones of the box half, on which the threshold is chosen."""
    folder = places.run("C", seed)
    if (folder / "labels.json").is_file():
        return
    held = {i for group, i in held_out(HELD_OUT) if group == "captions"} & places.box_half
    held = set(sorted(held)[:THRESHOLD_PHOTOS])
    own, found = detector(places, "C", seed), {}
    for name, ids in (("held_out", held), ("caption_part", places.caption_part)):
        captions = dict(captions_of(places.flickr, ids))
        source, begin = folder / f"{name}.json", time.process_time()
        _save(source, [{"filename": k, "caption": " ".join(c), "id": Path(k).stem} for k, c in captions.items()])
        label(
            source,
            folder / f"{name}_photos",
            model=own,
            images=places.flickr / "images.tar",
            workers=0,
            labels=LabelSettings(chunker="rules", max_phrases=100),
        )
        seconds = round(time.process_time() - begin, 1)
        by_caption(folder / f"{name}_photos", folder / f"{name}_labels", captions)
        found[name] = {"seconds": seconds, "photos": len(ids)} | judge_labels(folder / f"{name}_labels", places.flickr)
    rows = {k: v for k, v in found["held_out"].items() if isinstance(v, dict) and v["labels"]}
    _save(folder / "labels.json", {"threshold": max(rows, key=lambda k: f1(rows[k])), **found})


def _fixed(name: str) -> bool:
    return name.startswith(("backbone.body.", "language_backbone."))


def _save(path: Path, what: Any) -> None:
    with whole_file(path) as file:
        json.dump(what, file, indent=1)


def summary(places: Places, seeds: int) -> dict[str, Any]:
    """Every figure of the runs that are done, differences with intervals, what the teacher is worth."""
    done = {r: [s for s in range(seeds) if (places.run(r, s) / "figures.json").is_file()] for r in RUNGS}
    runs = {
        f"{rung}-{seed}": {
            "training": read_json(places.run(rung, seed) / "run.json"),
            "figures": read_json(places.run(rung, seed) / "figures.json"),
        }
        for rung, own in done.items()
        for seed in own
    }
    sentences, _ = read_sentences(places.flickr_val, read_lines(places.flickr_val / "ids_flickr30k_val.txt"))
    annotations = read_annotations(places.data / "coco_mini" / "annotations" / "val.json")
    recalls = {
        rung: [recall(sentences, places.run(rung, s) / "flickr30k.json") for s in own]
        for rung, own in done.items()
        if RUNGS[rung].words and own
    }
    precisions = {
        rung: [ap50(annotations, places.run(rung, s) / "coco" / "predictions.json") for s in own]
        for rung, own in done.items()
        if own
    }
    photos = len({str(s.image_id) for s in sentences})
    teachers = {
        f"C-{s}": read_json(path) for s in range(seeds) if (path := places.run("C", s) / "labels.json").is_file()
    }
    return {
        "runs": runs,
        "R@1": differences(recalls, photos),
        "AP50": differences(precisions, len(annotations.images)),
        "teachers": teachers,
    }


def show(result: dict[str, Any]) -> None:
    print("rung-seed   images    R@1    R@5   AP50")
    for name, row in result["runs"].items():
        figures = [row["figures"].get(k) for k in ("R@1", "R@5", "AP50")]
        print(
            f"{name:10} {row['training']['images']:7} "
            + " ".join("     -" if f is None else f"{f:6.3f}" for f in figures)
        )
    for metric in ("R@1", "AP50"):
        for pair, d in result[metric].items():
            print(f"{metric:5} {pair:12} {d['difference']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "start", "packed", "state"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--photos", type=int, default=3702, help="of the caption half, for T and Upper")
    parser.add_argument("--figures", action="store_true", help="train nothing, sum up what is there")
    args = parser.parse_args()
    places = Places(args.data, args.start, args.packed, args.state, args.photos)
    torch.set_num_threads(1)
    if not args.figures:
        pack, texts = Pack(places.packed), Texts(places.packed)
        maps = Maps(pack, Ladder(False, False).start(places.start).eval(), places.state / "maps.f16")
        for seed in range(args.seeds):
            for rung in RUNGS:
                train(places, pack, maps, texts, rung, seed, args.seconds)
                if rung == "C":
                    teach(places, seed)
                measure(places, rung, seed)
                print(time.strftime("%H:%M:%S"), rung, seed, places.run(rung, seed), flush=True)
    result = {"seconds_per_run": args.seconds, **summary(places, args.seeds)}
    show(result)
    _save(Path(__file__).with_name("ladder.json"), {"machine": machine(), **result})


if __name__ == "__main__":
    main()
