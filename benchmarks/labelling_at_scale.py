"""Labelling: spans of the chunkers, boxes of a run against hidden ones, memory over many samples.

    python benchmarks/labelling_at_scale.py chunkers FLICKR30K_ROOT
    python benchmarks/labelling_at_scale.py run INPUT OUTPUT [--pairs N]        resident memory at the end of each shard
    python benchmarks/labelling_at_scale.py boxes RUN FLICKR30K_ROOT            precision and recall at IoU 0.5
    python benchmarks/labelling_at_scale.py memory [--pairs 100000]             with a stub instead of a model

Each writes results/labelling_NAME.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, machine
from PIL import Image

from openglip.data.files import Files
from openglip.data.formats.flickr30k import parse_boxes, parse_sentence
from openglip.errors import MissingExtraError
from openglip.labelling.run import label
from openglip.labelling.shards import LabelSettings
from openglip.prompts.phrases import noun_phrases_of, resolve_chunker
from openglip.structures.boxes import iou

_WORDS = "he she it they we you i him her them us that which who this one something someone another"
PRONOUNS = frozenset(_WORDS.split())


def chunkers(root: Path) -> dict[str, Any]:
    """Exact spans: precision against every marked phrase, recall of the marked phrases that are no pronoun."""
    sentences = [parse_sentence(line) for _, text in _texts(root, "Sentences", ".txt") for line in text.splitlines()]
    captions = [caption for caption, _ in sentences]
    found: dict[str, Any] = {"sentences": len(captions)}
    for chunker in ("rules", "spacy", "grammar"):
        try:
            name = resolve_chunker(chunker)  # type: ignore[arg-type]
        except MissingExtraError:
            continue
        begin = time.perf_counter()
        chunks = list(noun_phrases_of(captions, chunker))  # type: ignore[arg-type]
        seconds = time.perf_counter() - begin
        right = given = hit = wanted = 0
        for (caption, phrases), spans in zip(sentences, chunks, strict=True):
            marked = {span for _, _, span in phrases}
            visual = {s for chain, _, s in phrases if chain != "0" and caption[slice(*s)].lower() not in PRONOUNS}
            right, given = right + len(marked & set(spans)), given + len(spans)
            hit, wanted = hit + len(visual & set(spans)), wanted + len(visual)
        figures = {"precision": right / given, "recall": hit / wanted, "captions_per_second": len(captions) / seconds}
        found[chunker] = {"chunker": name, **figures}
    return found


def boxes(run: Path, root: Path) -> dict[str, Any]:
    """A label is right when a box of a marked phrase that overlaps its words covers it by 0.5; a marked phrase with
    boxes is found when a label of words that overlap it is right."""
    true = _true_boxes(root)
    settings = json.loads((run / "manifest.json").read_bytes())["settings"]
    found: dict[str, Any] = {key: settings[key] for key in ("teacher", "weights_sha256", "chunker")}
    for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        labels = right = phrases = hit = 0
        for line in lines_of(run):
            size, regions = true[line["id"]]
            scale = np.tile(np.array([line["width"], line["height"]]) / np.array(size[::-1]), 2)
            given = [r for r in line["grounding"]["regions"] if r["score"] > threshold]
            best = [[_covered(r, span, rows * scale) for span, rows in regions] for r in given]
            known = [[b is not None for b in row] for row in best]
            labels += sum(any(row) for row in known)  # words that no marked phrase holds can't be judged
            right += sum(any(b is not None and b >= 0.5 for b in row) for row in best)
            phrases += len(regions)
            hit += sum(any((row[p] or 0) >= 0.5 for row in best) for p in range(len(regions)))
        found[str(threshold)] = {
            "labels": labels,
            "precision": right / labels if labels else -1,
            "recall": hit / phrases,
        }
    return found


def run(source: str, output: Path, pairs: int | None) -> dict[str, Any]:
    """A run in this process; the slope of its resident memory is of the second half, when every kernel is cached."""
    points: list[tuple[int, int]] = []

    def note(progress: Any) -> None:
        done, seconds = progress.figures["pairs"], progress.figures["seconds"]
        points.append((done, _resident()))
        print(
            f"{done} pairs, {done / seconds:.2f} a second, {points[-1][1] >> 20} MiB",
            file=sys.stderr,
        )
        if pairs is not None and done >= pairs:
            raise KeyboardInterrupt

    rules = LabelSettings(chunker="rules")
    begin = time.perf_counter()
    with contextlib.suppress(KeyboardInterrupt):
        label(source, output, workers=0, shard_size=100, labels=rules, progress=note)
    rows = json.loads((output / "manifest.json").read_bytes())["shards"].values()
    count = sum(row["counts"]["pairs"] for row in rows)
    pictures = sum(row["counts"]["pictures"] for row in rows)
    spent = {key: sum(row["cpu_seconds"][key] for row in rows) for key in ("model", "reading", "outside")}
    return {
        "pairs": count,
        "pictures": pictures,
        "pairs_per_second": count / (time.perf_counter() - begin),
        "pairs_per_cpu_second": count / sum(spent.values()),
        "boxes": sum(row["counts"]["boxes"] for row in rows),
        "phrases": sum(row["counts"]["phrases"] for row in rows),
        "cpu_milliseconds_per_picture": {key: seconds / pictures * 1000 for key, seconds in spent.items()},
        **_slope(points),
    }


def memory(pairs: int) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from labelling.stub import fast

    points: list[tuple[int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        tars = Path(folder) / "tars"
        tars.mkdir()
        for i in range(0, pairs, 1000):
            _write_tar(tars / f"{i // 1000:05d}.tar", i)
        note = lambda p: points.append((p.figures["pairs"], _resident()))  # noqa: E731
        label(tars, Path(folder) / "out", model=fast, workers=0, labels=LabelSettings(chunker="rules"), progress=note)
    return {"pairs": pairs, **_slope(points)}


def _write_tar(path: Path, start: int) -> None:
    generator = np.random.default_rng(start)
    with tarfile.open(path, "w") as tar:
        for i in range(start, start + 1000):
            file = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (16, 24, 3), np.uint8)).save(file, "JPEG")
            for name, content in ((f"{i}.jpg", file.getvalue()), (f"{i}.txt", f"person {i} with two dogs".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _slope(points: list[tuple[int, int]]) -> dict[str, Any]:
    later = points[len(points) // 2 :]
    counts, sizes = np.array(later, float).T
    return {"resident_bytes_per_pair": float(np.polyfit(counts, sizes, 1)[0]), "resident_mib": points[-1][1] / 2**20}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _texts(root: Path, name: str, suffix: str) -> Any:
    folder = root / name
    return Files(folder if folder.is_dir() else root / f"{name}.tar").texts(suffix)


def _true_boxes(root: Path) -> dict[str, Any]:
    """Per sentence the annotated size, and for each marked phrase with boxes its span and boxes."""
    annotations = {stem: parse_boxes(xml, stem) for stem, xml in _texts(root, "Annotations", ".xml")}
    found = {}
    for stem, text in _texts(root, "Sentences", ".txt"):
        size, chains = annotations[stem]
        for i, line in enumerate(text.splitlines()):
            phrases = parse_sentence(line)[1]
            found[f"{stem}/{i}"] = size, [(s, np.array(chains[c])) for c, _, s in phrases if chains.get(c)]
    return found


def _covered(region: dict[str, Any], span: tuple[int, int], rows: np.ndarray) -> float | None:
    """The greatest overlap with the phrase's boxes or their union; None when the words are others."""
    begin, end = region["tokens_positive"][0]
    if min(end, span[1]) <= max(begin, span[0]):
        return None
    union = np.concatenate([rows[:, :2].min(0), rows[:, 2:].max(0)])[None]
    return float(iou(np.array([region["bbox"]], float), np.concatenate([rows, union])).max())


def lines_of(run: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((run / "shards").iterdir()):
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["chunkers", "run", "boxes", "memory"])
    parser.add_argument("places", nargs="*")
    parser.add_argument("--pairs", type=int)
    args = parser.parse_args()
    places = [Path(p) for p in args.places]
    if args.what == "chunkers":
        found = chunkers(places[0])
    elif args.what == "run":
        found = run(args.places[0], places[1], args.pairs)
    elif args.what == "boxes":
        found = boxes(places[0], places[1])
    else:
        found = memory(args.pairs or 100_000)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"labelling_{args.what}.json").write_text(json.dumps({**found, "machine": machine()}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
