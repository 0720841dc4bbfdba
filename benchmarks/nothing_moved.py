"""Shows that a refactoring changed no result: records what the product answers, and compares two such records.

    python benchmarks/nothing_moved.py record /tmp/before --source /tmp/old-checkout/src
    python benchmarks/nothing_moved.py record /tmp/after --source src
    python benchmarks/nothing_moved.py compare /tmp/before /tmp/after

Only the command line and the public Python API are used, so the script works before and after internal modules are
renamed. Each part runs in its own process, in a temporary folder, with relative paths. Make both records on one machine
with the same packages: other processors and other versions of torch round differently.
"""

from __future__ import annotations

import argparse
import base64
import fnmatch
import hashlib
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

# JSON values that may differ between two records: pattern of the file, pattern of the dotted path.
ALLOWED = [
    ("*", "*version"),  # of openglip: in labels, and "model_version" in Label Studio files
    ("*", "*versions.openglip"),
    ("label/*", "*settings_sha256"),  # digest of settings that hold the version
    ("label/*/manifest.json", "shards.*.sha256.shards"),  # digest of lines that hold the version
    # Since 0.2.0: one digest of weights, and nano's tensors under other names.
    ("*", "*weights_sha256"),
    ("*", "*state_sha256"),
    ("*", "*weights_file_sha256"),
    ("*.safetensors.json", "metadata.openglip.format"),
    # Licence, data, figures and the count of parameters come from nano's weights; the preparation is not listed.
    *(("models/*", f"*{key}*") for key in ("licence", "data", "figures", "parameters", "builder", "about", "path")),
    *(("models/*", f"*{key}*") for key in ("size", "mean", "std", "channels")),
    ("train/plan-glip.txt", "data_missing"),  # names a module that has moved
]
# Text that differs between two runs of the same code: pattern of the file, regular expression, replacement.
UNSTABLE = [
    ("*", rb'("(?:seconds\w*|hours_estimate|pairs_per_worker_second)": )[-+.\de]+', rb"\g<1>0"),
    ("*", rb'("cpu_(?:seconds|milliseconds_per_picture)": )\{[^}]*\}', rb"\g<1>0"),
    ("*", rb'("(?:host|estimated_for)": )"[^"]*"', rb'\g<1>""'),
    ("*/manifest.json", rb'("sha256": )"\w+"\n\}', rb'\g<1>""\n}'),  # the manifest's digest of itself
]
CHECKOUT = Path(__file__).resolve().parents[1]
FLICKR = Path("shared/data/flickr8k_entities/val")
WORDS = ["person", "dog", "car", "chair", "playing card with a king", "kangaroo", "remote control", "cup", "rocket"]
BINARY = (".jpg", ".png", ".tar")
PARTS = ["train", "convert", "models", "detect", "options", "ground", "evaluate", "label", "data"]
SHORT = {  # words of COMMANDS that stand for several; OUT is record/NAME
    "WORDS": f"--json --prompt '{'. '.join(WORDS)}'",
    "QUICK": "--json --no-pictures --output input/results",
    "DEBUG": "--model debug --weights input/debug.pth",
    "MINI": "--annotations shared/data/coco_mini/annotations/val.json --ids input/ids.txt --json",
    "VAL": "--images shared/data/coco_mini/val --output OUT",
    "ANIMALS": "--annotations shared/data/animals/annotations/val.json --json",
    "FLICKR": f"--annotations {FLICKR} --ids input/flickr-ids.txt --json",
    "SMALL": "--json --model nano --images input/small --output OUT --annotations",
    "LABEL": "--json --output OUT --shard-size 8 --workers",
}
# NAME, then the arguments of `openglip`; what it prints goes to record/NAME.txt. The first word of NAME is the part.
COMMANDS = """
train/debug train debug --set steps=20 --set checkpoint_every=10 --set evaluate_every=20 --output OUT --json
train/judged train debug --set steps=2 --set evaluate_every=2 --set val=input/sets/coco.json \
 --set val_images=input/small --output OUT --json
train/plan train debug --dry-run --output OUT --json
train/plan-glip train glip-t --dry-run --json
models/list models list --json
models/nano models info nano --json
models/glip-t models info glip-t --json
models/verified models verify nano --json
models/unknown models info glip-x
detect/jsonl detect input/photos WORDS --output OUT
detect/unusual detect input/unusual WORDS --output OUT
detect/coco detect input/photos WORDS --no-pictures --format coco --output OUT
detect/csv detect input/photos WORDS --no-pictures --format csv --output OUT
detect/label-studio detect input/photos WORDS --no-pictures --format label-studio --output OUT
detect/80-names detect input/photos --categories input/coco.txt QUICK
detect/847-names detect input/photos --categories input/household.txt QUICK
detect/thresholds detect input/photos WORDS --threshold input/thresholds.json QUICK
detect/everything detect input/photos --category person --category dog --threshold 0 QUICK
detect/bf16 detect input/small WORDS --precision bf16 QUICK
detect/random detect input/small WORDS --model debug --threshold 0 QUICK
detect/debug detect input/photos WORDS DEBUG --threshold 0.2 QUICK
detect/missing detect input/none.jpg WORDS QUICK
detect/no-words detect input/small QUICK
ground/found ground input/flickr/images --caption 'a man in a red shirt and a dog near the water' --json --output OUT
ground/given ground input/flickr/images --caption 'a dog and its ball' --phrase dog --phrase 'its ball' QUICK
evaluate/coco evaluate coco MINI VAL --model nano --render
evaluate/coco-judged evaluate coco MINI --predictions record/evaluate/coco/predictions.json --plus-one --output OUT
evaluate/coco-batches evaluate coco MINI VAL --model nano --batch-size 8 --chunk-size 30
evaluate/coco-debug evaluate coco MINI VAL DEBUG
evaluate/coco-ov evaluate coco-ov MINI VAL --model nano --labelled-only
evaluate/custom evaluate custom ANIMALS --images shared/data/animals/images --model nano --output OUT --render
evaluate/custom-judged evaluate custom ANIMALS --predictions record/evaluate/custom/predictions.json --output OUT
evaluate/tsv evaluate custom SMALL input/sets/objects/set.yaml
evaluate/flickr evaluate flickr30k FLICKR --images shared/data/flickr8k_entities/val/images --model nano --output OUT
evaluate/flickr-judged evaluate flickr30k FLICKR --predictions record/evaluate/flickr/predictions.json
evaluate/mdetr evaluate flickr30k SMALL input/sets/mdetr.json
evaluate/lvis evaluate lvis SMALL input/sets/lvis.json --images input
evaluate/refcoco evaluate refcoco SMALL input/sets/refcoco.json
evaluate/odinw evaluate odinw SMALL input/small --prompts repo-35
evaluate/compared evaluate compare record/evaluate/coco record/evaluate/coco-batches --json
label/folder label run input/captions LABEL 0
label/processes label run input/captions LABEL 2
label/entities label run input/flickr LABEL 0 --agreement flip --phrase-nms 0.6 --max-share 0.9 --max-phrases 3
label/coco label run input/captions.json LABEL 0 --images input/captions --min-words 8 --drop-duplicates
label/tar label run input/pairs.tar LABEL 0 --exclude input/flickr
label/parquet label run input/sets/rows.parquet LABEL 0 --short-side 192
label/names label run input/captions LABEL 0 --categories input/coco.txt --batch-size 4
label/debug label run input/captions LABEL 0 DEBUG
label/status label status record/label/folder --json
label/verify label verify record/label/folder --json
label/publish label publish record/label/folder OUT --threshold 0.3
label/publish-parquet label publish record/label/folder OUT --threshold 0.3 --format parquet
label/review label review record/label/folder record/label/tasks.json --threshold 0.3
label/audit label audit record/label/folder --images input/captions --page record/label/audit.html --count 20
data/everyday data check shared/data/everyday --json
data/household data check shared/data/household --json
data/coco_mini data check shared/data/coco_mini --json
data/animals data check shared/data/animals --json
data/kangaroo data check shared/data/kangaroo --json
data/playing_cards data check shared/data/playing_cards --json
data/flickr8k data check shared/data/flickr8k_entities/val --json
"""
SETS = {"coco": "coco.json", "lvis": "lvis.json", "mdetr": "mdetr.json", "objects365-tsv": "objects/set.yaml"}
SETS |= {"caption-tsv": "captions/set.yaml", "parquet": "rows.parquet", "flickr30k": "../flickr"}
WRITTEN = {"coco": "a.json", "odvg": "a.jsonl", "label-studio": "tasks.json", "yolo": "", "voc": "", "webdataset": ""}


# ---- inputs: everything in input/ is made without the product


def make_inputs() -> None:
    """Copy photos from the checkout and from shared/data, and write small data sets in several formats."""
    data = Path("shared/data")
    coco, animals = (read(data / name / "annotations/val.json") for name in ("coco_mini", "animals"))
    photos = sorted((CHECKOUT / "examples/photos").glob("*.jpg"))
    for folder in ("coco_mini/val", "playing_cards/val", "kangaroo/val"):
        photos += sorted((data / folder).glob("*.jpg"))[::11][:6]
    photos += [data / "animals/images" / image["file_name"] for image in animals["images"][::13]]
    for photo in photos:
        copy(photo, f"input/photos/{photo.parts[-3]}-{photo.name}")
    make_unusual_pictures(photos[0])
    write("input/ids.txt", "\n".join(str(image["id"]) for image in coco["images"][::10]))
    write("input/flickr-ids.txt", "\n".join((FLICKR / "ids.txt").read_text().split()[::25]))
    for name, content in (("coco", coco), ("household", read(data / "household/annotations/train.json"))):
        write(f"input/{name}.txt", "\n".join(category["name"] for category in content["categories"]))
    write("input/thresholds.json", {"person": 0.2, "dog": 0.6})
    coco["images"] = coco["images"][5::33][:12]
    coco["annotations"] = [r for r in coco["annotations"] if r["image_id"] in {i["id"] for i in coco["images"]}]
    for image in coco["images"]:
        name, image["file_name"] = image["file_name"], f"{image['id']}.jpg"
        copy(data / "coco_mini/val" / name, f"input/small/{image['file_name']}")
    make_sets(coco)
    make_captions()


def make_unusual_pictures(photo: Path) -> None:
    """Pictures that have to be turned, flattened or scaled when they are opened, and one that is cut off."""
    import numpy as np
    from PIL import Image

    folder, picture, exif = Path("input/unusual"), Image.open(photo).resize((200, 150)), Image.Exif()
    folder.mkdir()
    exif[0x0112] = 6  # orientation: stored on its side
    picture.save(folder / "turned.jpg", exif=exif)
    picture.convert("P").save(folder / "palette.gif")
    transparent = picture.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(picture.size))
    transparent.save(folder / "transparent.png")
    Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(folder / "sixteen-bit.png")
    (folder / "cut-off.jpg").write_bytes(photo.read_bytes()[:3000])


def make_sets(coco: dict[str, Any]) -> None:
    """Write a COCO set in formats that the product only reads, as expressions for RefCOCO, and as a set of ODinW."""
    import pyarrow
    import pyarrow.parquet

    write("input/sets/coco.json", coco)
    pothole = [{**box, "category_id": 1} for box in coco["annotations"]]
    write("input/small/pothole.json", {**coco, "annotations": pothole, "categories": [{"id": 1, "name": "pothole"}]})
    names = {category["id"]: category["name"] for category in coco["categories"]}
    captions, expressions, rows, tsv = [], [], [], {"objects": "", "captions": "", "img": "", "hw": ""}
    for image in coco["images"]:
        boxes = [box for box in coco["annotations"] if box["image_id"] == image["id"]]
        words = [names[box["category_id"]] for box in boxes]
        caption = f"a photo of {' and '.join(dict.fromkeys(words))}."
        spans = [[[caption.index(word, 11), caption.index(word, 11) + len(word)]] for word in words]
        for box, span in zip(boxes, spans, strict=True):
            box["tokens_positive"] = span
        parts = {"original_img_id": image["id"], "sentence_id": 0, "tokens_positive_eval": spans}
        captions.append({**image, **parts, "caption": caption})
        expressions += [{**image, "id": b["id"], "caption": f"the {names[b['category_id']]}"} for b in boxes]
        absent = [key for key in names if names[key] not in words]
        image |= {"neg_category_ids": absent[:5], "not_exhaustive_category_ids": absent[5:7]}
        image["coco_url"] = f"http://images.cocodataset.org/small/{image['file_name']}"
        corners = [[x, y, x + w, y + h] for x, y, w, h in (box["bbox"] for box in boxes)]
        key, height, width = image["id"], image["height"], image["width"]
        picture = Path("input/small", image["file_name"]).read_bytes()
        labels = {"caption": caption, "tokens_positive": spans, "scores": [0.9] * len(boxes)}
        rows.append({"id": str(key), "image": picture, "height": height, "width": width, "boxes": corners, **labels})
        objects = [{"class": word, "rect": box} for word, box in zip(words, corners, strict=True)]
        tsv["objects"] += f"{key}\t{json.dumps(objects)}\n"
        tsv["captions"] += f"{key}\t{json.dumps({'img_h': height, 'img_w': width, 'bboxes': corners, **labels})}\n"
        tsv["img"] += f"{key}\t{base64.b64encode(picture).decode()}\n"
        tsv["hw"] += f"{key}\t{height} {width}\n"
    for category, frequency in zip(coco["categories"], itertools.cycle("rcf"), strict=False):
        category["frequency"] = frequency
    write("input/sets/lvis.json", coco)
    write("input/sets/mdetr.json", {"images": captions, "annotations": coco["annotations"]})
    meant = [{"image_id": box["id"], "bbox": box["bbox"]} for box in coco["annotations"]]
    write("input/sets/refcoco.json", {"images": expressions, "annotations": meant})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "input/sets/rows.parquet")
    for kind in ("objects", "captions"):
        for name in (kind, "img", "hw"):
            write(f"input/sets/{kind}/{name}.tsv", tsv[name])
            begins = itertools.accumulate(map(len, tsv[name].splitlines(keepends=True)[:-1]), initial=0)
            write(f"input/sets/{kind}/{name}.lineidx", "".join(f"{begin}\n" for begin in begins))
        write(f"input/sets/{kind}/map.json", {name: key for key, name in names.items()})
        write(f"input/sets/{kind}/set.yaml", f"img: img.tsv\nlabel: {kind}.tsv\nhw: hw.tsv\nlabelmap: map.json\n")


def make_captions() -> None:
    """Twenty photos of Flickr30k Entities: as published, as pictures beside texts, in a tar, and in one JSON file."""
    images, captions = [], []
    with tarfile.open("input/pairs.tar", "w") as tar:
        for key, photo in enumerate(sorted((FLICKR / "images").glob("*.jpg"))[::26][:20]):
            for name in (f"images/{photo.name}", f"Sentences/{photo.stem}.txt", f"Annotations/{photo.stem}.xml"):
                copy(FLICKR / name, f"input/flickr/{name}")
            copy(photo, f"input/captions/{photo.name}")
            write(f"input/captions/{photo.stem}.txt", caption_of(photo, 0)[0])
            for name in (photo.name, f"{photo.stem}.txt"):
                tar.add(f"input/captions/{name}", name)
            images.append({"id": key, "file_name": photo.name})
            captions += [{"id": 9 * key + n, "image_id": key, "caption": caption_of(photo, n)[0]} for n in (1, 2)]
    write("input/captions.json", {"images": images, "annotations": captions})


def caption_of(photo: Path, number: int) -> tuple[str, list[str]]:
    """One of the five captions of a Flickr30k photo without its mark-up, and the phrases that are marked."""
    marked = re.compile(r"\[/EN#\S+ ([^\]]*)\]")
    line = (FLICKR / "Sentences" / f"{photo.stem}.txt").read_text("utf-8").splitlines()[number]
    return marked.sub(r"\1", line), list(dict.fromkeys(marked.findall(line)))


def read(path: str | Path) -> Any:
    """The JSON document of a file, or the list of its lines. Raises ValueError for other files."""
    text = Path(path).read_text("utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


def write(path: str | Path, content: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")


def copy(source: Path, target: str) -> None:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


# ---- parts: each runs in its own process


def run_part(part: str) -> None:
    """Run the commands of a part, then the function of its name, where there is one."""
    import openglip

    if not Path(openglip.__file__).is_relative_to(os.environ["PYTHONPATH"]):
        sys.exit(f"openglip came from {openglip.__file__}")
    versions = {package: version(package) for package in ("torch", "torchvision", "numpy", "pillow")}
    write("environment.json", {"openglip": openglip.__file__, "python": sys.version, **versions})
    for line in COMMANDS.strip().splitlines():
        name, _, arguments = line.partition(" ")
        if name.startswith(f"{part}/"):
            command(name, arguments)
    for function in (convert, options, ground, label, data, large):
        if function.__name__ == part:
            function()


def command(name: str, arguments: str) -> None:
    """Run `openglip ARGUMENTS`; what it prints goes to record/NAME.txt, its exit status to a list."""
    for word, meaning in [*SHORT.items(), ("OUT", f"record/{name}")]:
        arguments = re.sub(rf"\b{word}\b", meaning, arguments)
    path, status = Path(f"record/{name}.txt"), 0
    write(path, "")
    sys.argv = ["openglip", *shlex.split(arguments)]
    with path.open("w", encoding="utf-8") as file, redirect_stdout(file):
        try:
            runpy.run_module("openglip", run_name="__main__", alter_sys=True)
        except SystemExit as done:
            status = done.code
    with (path.parent / "exit-statuses.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"name": name, "status": status or 0}) + "\n")


def lines(name: str, results: Any) -> None:
    write(f"record/{name}.jsonl", "".join(found.to_json() + "\n" for found in results))


def checkpoint(part: str, model: str, shapes: dict[str, Any]) -> None:
    """Make an official checkpoint, and convert it there and back. Its values give detections; random ones give none."""
    import torch

    fill = runpy.run_path("shared/goldens/fill.py")["fill"]
    state = {f"module.{key}": torch.from_numpy(value) for key, value in fill(shapes).items()}
    torch.save({"model": state}, f"input/{model}.pth")
    command(f"{part}/{model}", f"convert input/{model}.pth OUT.safetensors --model {model}")
    command(f"{part}/{model}-official", f"convert record/{part}/{model}.safetensors OUT.pth")


def convert() -> None:
    """A checkpoint of `debug`, with the shapes of the one that the part `train` made."""
    from safetensors.torch import load_file

    trained = load_file("record/train/debug/model.safetensors")
    checkpoint("convert", "debug", {key: value.shape for key, value in trained.items()})


def options() -> None:
    """`detect` with options that the command line does not have, and with pictures that are open already."""
    import numpy as np
    from PIL import Image

    import openglip

    detector, debug = openglip.load(), openglip.load("debug", "input/debug.pth")
    photos = sorted(str(path) for path in Path("input/photos").iterdir())
    coco = Path("input/coco.txt").read_text("utf-8").splitlines()
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "top-k": (WORDS, {"threshold": 0, "top_k": 5}),
        "no-cap": (WORDS, {"threshold": 0.02, "top_k": None}),
        "class-agnostic": (coco, {"class_agnostic": True}),
        "nms": (WORDS, {"nms_iou": 0.3}),
        "short-side": (WORDS, {"short_side": 192}),
        "max-side": (WORDS, {"max_side": 300}),
        "chunks": (coco, {"chunk_size": 7}),
        "distractors": (WORDS, {"distractors": ["cat", "bicycle", "spoon"]}),
        "batch-1": (WORDS, {"batch_size": 1}),
        "batch-8": (WORDS, {"batch_size": 8}),
        "threshold-each": (WORDS, {"threshold": [0.1 * (n + 1) for n in range(len(WORDS))]}),
        "words-each": ([WORDS[: 1 + n % 8] for n in range(len(photos))], {}),
    }
    for name, (words, given) in cases.items():
        lines(f"options/{name}", detector.detect(photos, words, **{"threshold": 0.1, **given}))
    text = detector.encode_text(coco, chunk_size=20, distractors=["spoon rest"])
    lines("options/encoded", detector.detect(detector.encode(photos[:4]), text, threshold=0.1))
    opened = [Path(photos[0]).read_bytes(), Image.open(photos[1]), np.asarray(Image.open(photos[-1]).convert("RGB"))]
    results = detector.detect(opened, WORDS, threshold=0.1)
    lines("options/opened", [*results, *(found.filter(threshold=0.2, min_side=20, top_k=3) for found in results)])
    write("record/options/to-coco.json", [row for found in results for row in found.to_coco()])
    lines("options/debug", debug.detect(photos, coco, threshold=0.2, chunk_size=30, batch_size=4))


def ground() -> None:
    """Captions in Python."""
    for model in ("nano", "record/convert/debug.safetensors"):
        ground_with("ground", model)


def ground_with(part: str, model: str, **more: Any) -> None:
    """Captions of Flickr30k: phrases that are found, given as words, and given as spans. more: options of all calls."""
    import openglip

    detector = openglip.load(model)
    photos = sorted(Path("input/flickr/images").iterdir())[: 1 if more else None]
    captions, phrases = zip(*(caption_of(photo, n % 5) for n, photo in enumerate(photos)), strict=True)
    spans = [[(c.index(p), c.index(p) + len(p)) for p in ps] for c, ps in zip(captions, phrases, strict=True)]
    cases: dict[str, dict[str, Any]] = {
        "found": {},
        "given": {"phrases": phrases, "threshold": 0, "top_k": 20},
        "spans": {"phrases": spans, "threshold": 0.1, "batch_size": 4},
        "class-agnostic": {"threshold": 0.1, "short_side": 160, "class_agnostic": True},
    }
    for name, given in cases.items():
        results = detector.ground([str(photo) for photo in photos], list(captions), **{**given, **more})
        lines(f"{part}/{Path(model).stem}-{name}", results)


def label() -> None:
    """The tasks that a command wrote, as if a person had agreed with all of them."""
    tasks = [{**task, "annotations": task["predictions"]} for task in read("record/label/tasks.json")]
    write("input/corrected.json", tasks)
    command("label/merge", "label merge input/corrected.json record/label/merged.jsonl")


def data() -> None:
    """Every format is checked, drawn, and converted to every format that the product writes."""
    pictures = {"lvis": "input", "flickr30k": "input/flickr/images"}
    sources = {name: f"input/sets/{path} --images {pictures.get(name, 'input/small')}" for name, path in SETS.items()}
    sources |= {f"{name}-again": f"record/data/coco-to-{name}/{path}" for name, path in WRITTEN.items()}
    for source, place in sources.items():
        command(f"data/{source}-check", f"data check {place} --json")
        command(f"data/{source}-drawn", f"data render {place} --number 1 --output OUT --json")
        for name, path in WRITTEN.items():
            command(f"data/{source}-to-{name}", f"data convert {place} OUT/{path} --format {name} --json")


def large() -> None:
    """The published architectures, on one small photo."""
    import openglip

    photo, coco = "input/photos/examples-chelsea.jpg", Path("input/coco.txt").read_text("utf-8").splitlines()
    for model in ("glip-t-a", "glip-t", "dyhead-t"):
        entries = read(f"shared/goldens/{model}/state_dict.json")["entries"]
        checkpoint("large", model, {key: shape for key, shape, *_ in entries})
        path = f"record/large/{model}.safetensors"
        lines(f"large/{model}-detect", [openglip.load(path).detect(photo, coco, threshold=0.2, short_side=160)])
        if model != "dyhead-t":
            ground_with("large", path, short_side=160)


# ---- the two subcommands


def record(folder: Path, source: Path, shared: Path, slow: bool) -> None:
    """Run every part with the product in `source`, and leave what it wrote in `folder`."""
    folder, source, shared = folder.resolve(), source.resolve(), shared.resolve()
    if folder.exists():
        sys.exit(f"{folder} exists: give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("OPENGLIP", "RANK", "WORLD_SIZE"))}
    variables |= {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    variables |= {"PYTHONHASHSEED": "0", "OPENGLIP_CACHE": "cache", "OPENGLIP_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        os.chdir(work)
        Path("shared").symlink_to(shared)
        make_inputs()
        for part in [*PARTS, *["large"] * slow]:
            begin = time.perf_counter()
            with open("messages.log", "ab") as messages:
                subprocess.run([sys.executable, __file__, "part", part], env=variables, stderr=messages, check=True)
            print(f"{part}: {time.perf_counter() - begin:.0f} s", flush=True)
        clean({os.fsencode(work): b"WORK", os.fsencode(source): b"SOURCE", os.fsencode(shared): b"SHARED"})
        for name in ("messages.log", "environment.json"):
            os.replace(name, f"record/{name}")
        os.replace("record", folder)
        os.chdir(folder)
    failed = [row for file in sorted(folder.glob("*/exit-statuses.jsonl")) for row in read(file) if row["status"]]
    print(f"written: {folder}; commands that failed: {', '.join(row['name'] for row in failed)}")


def clean(names: dict[bytes, bytes]) -> None:
    """Replace checkpoints by digests, parquet by JSON, and what differs from run to run by constants.

    names: absolute paths, with the words that replace them.
    """
    import pyarrow.parquet

    for path in sorted(path for path in Path("record").rglob("*") if path.is_file()):
        if path.name == ".lock" or "checkpoints" in path.parts:
            path.unlink()
        elif path.suffix in (".pth", ".safetensors", ".parquet"):
            rows = pyarrow.parquet.read_table(path).to_pylist() if path.suffix == ".parquet" else digests(path)
            write(f"{path}.json", rows)
            path.unlink()
        elif path.suffix not in BINARY:
            content = path.read_bytes()
            for old, new in names.items():
                content = content.replace(old, new)
            for pattern, old, new in UNSTABLE:
                content = re.sub(old, new, content) if fnmatch.fnmatch(path.as_posix(), pattern) else content
            path.write_bytes(content)


def digests(path: Path) -> dict[str, Any]:
    """Metadata of a checkpoint, and type, shape and hash of each tensor."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    if path.suffix == ".pth":
        metadata, tensors = {}, torch.load(path, weights_only=True)["model"]
    else:
        with safe_open(path, "pt") as file:  # which gives the metadata in any order
            metadata, tensors = dict(sorted(file.metadata().items())), load_file(path)
    rows = {}
    for key, value in tensors.items():
        data = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        rows[key] = [str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]
    return {"metadata": metadata, "tensors": rows}


def compare(before: Path, after: Path) -> int:
    """Print what differs, by file and JSON path; returns the exit status."""
    names = {p.relative_to(folder).as_posix() for folder in (before, after) for p in folder.rglob("*") if p.is_file()}
    names -= {"messages.log", "environment.json"}
    different = only_allowed = 0
    for folder in (before, after):
        print(f"{folder}: {json.dumps(read(folder / 'environment.json'))}")
        if not (folder / "large").is_dir():
            print(f"{folder} was recorded without --slow: large/ is not compared")
            names = {name for name in names if not name.startswith("large/")}
    for name in sorted(names):
        old, new = before / name, after / name
        if not (old.is_file() and new.is_file()):
            problems = [f"only in {before if old.is_file() else after}"]
        elif old.read_bytes() == new.read_bytes():
            continue
        else:
            problems = differences(name, old, new)
        different, only_allowed = different + bool(problems), only_allowed + (not problems)
        for problem in [*problems[:10], *[f"{len(problems) - 10} more"] * (len(problems) > 10)]:
            print(f"{name}: {problem}")
    print(f"{len(names)} files: {different} differ, {only_allowed} differ only where ALLOWED says so")
    return 1 if different else 0


def differences(name: str, before: Path, after: Path) -> list[str]:
    """What differs between two files, apart from what is allowed."""
    if before.suffix in BINARY:
        return [f"{before.stat().st_size} bytes became {after.stat().st_size} others"]
    try:
        contents = [dict(flatten(read(path))) for path in (before, after)]
    except ValueError:  # no JSON
        pairs = itertools.zip_longest(*(path.read_bytes().splitlines(keepends=True) for path in (before, after)))
        number, pair = next((number, pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1])
        return [f"line {number}: {pair[0]!r:.100} became {pair[1]!r:.100}"]
    patterns = [path for file, path in ALLOWED if fnmatch.fnmatch(name, file)]
    old, new = ({k: v for k, v in c.items() if not any(fnmatch.fnmatch(k, p) for p in patterns)} for c in contents)
    if list(old.items()) == list(new.items()):
        return ["the same values in another layout"] if contents[0] == contents[1] else []
    keys = [key for key in old | new if old.get(key) != new.get(key)]
    found = [f"{key}: {old.get(key, 'nothing')} became {new.get(key, 'nothing')}" for key in keys]
    return found or ["the same values in another order"]


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and JSON text of every value that is no list or object; strings that hold an object are parsed."""
    if isinstance(value, str) and value.startswith('{"'):
        value = json.loads(value)
    if value and isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flatten(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("record", help="run the product and keep its results")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--source", type=Path, required=True, help="the src folder of a checkout")
    verb.add_argument("--shared", type=Path, default=CHECKOUT.parent / "shared", help="the project's shared data")
    verb.add_argument("--slow", action="store_true", help="also the published architectures")
    verb = verbs.add_parser("compare", help="print what differs; exit status 1 when something does")
    verb.add_argument("before", type=Path)
    verb.add_argument("after", type=Path)
    verbs.add_parser("part", help="used by record").add_argument("part")
    given = vars(parser.parse_args())
    return {"record": record, "compare": compare, "part": run_part}[given.pop("verb")](**given) or 0


if __name__ == "__main__":
    sys.exit(main())
