"""Whatever stands in a file: readers give samples, findings or a DataError, never another exception."""

import contextlib
import copy
import json
import random

import pytest
from test_readers import lines, tsv, write  # same folder

from openglip.data.findings import Findings
from openglip.data.formats import BY_NAME
from openglip.errors import DataError

IMAGE = {"id": 3, "file_name": "7.jpg", "width": 100, "height": 80}
COCO = {
    "info": {"source_categories": {"x": [1]}},
    "images": [{**IMAGE, "source": "x"}, {"id": 4, "file_name": "8.jpg", "width": 10, "height": 10}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 3, "category_id": 1, "bbox": [1, 2, 30, 40], "iscrowd": 0}],
}
LVIS = {**COCO, "images": [{**IMAGE, "coco_url": "http://x/train2017/7.jpg", "neg_category_ids": [2]}]}
MDETR = {
    **COCO,
    "images": [{**IMAGE, "caption": "a cat", "data_source": "vg"}],
    "annotations": [{"id": 1, "image_id": 3, "bbox": [1, 2, 30, 40], "tokens_positive": [[2, 5]]}],
}
ODVG = [
    {
        "filename": "7.jpg", "height": 80, "width": 100,
        "detection": {"instances": [{"bbox": [1, 2, 3, 4], "label": 0, "category": "cat"}]},
    },
    {
        "filename": "7.jpg", "height": 80, "width": 100,
        "grounding": {"caption": "a cat", "regions": [
            {"bbox": [1, 2, 3, 4], "phrase": "cat", "score": 0.5},
            {"bbox": [[1, 2, 3, 4]], "tokens_positive": [[0, 5]]},
        ]},
    },
]  # fmt: skip
STUDIO = [
    {
        "id": 4, "data": {"image": "/data/local-files/?d=a.jpg"},
        "annotations": [{"was_cancelled": False, "result": [{
            "type": "rectanglelabels", "original_width": 100, "original_height": 80,
            "value": {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": 0, "rectanglelabels": ["Car"]},
        }]}],
    }
]  # fmt: skip
GENOME = {
    "image_data.json": [{"image_id": 2, "width": 100, "height": 80}],
    "objects.json": [
        {"image_id": 2, "objects": [{"object_id": 5, "x": 1, "y": 2, "w": 30, "h": 40, "names": ["clock"]}]}
    ],
}
CAPTION = {
    "img_h": 80, "img_w": 100, "caption": "a cat, a dog", "scores": [0.9, 0.8],
    "bboxes": [[1, 2, 30, 40], [2, 5, 30, 9]], "tokens_positive": [[[2, 5]], [[9, 12]]],
}  # fmt: skip
OBJECTS = {"objects": [{"class": "cat", "rect": [1, 2, 30, 40]}]}
STRANGE = (
    None,
    "",
    "nan",
    "x",
    -1,
    0,
    1.5,
    10**12,
    float("inf"),
    True,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    [1, 2, 3, 4, 5],
)


def damaged(content, rng):
    """A copy in which one value, anywhere, is another one or is gone."""
    copied = copy.deepcopy(content)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(copied)
    node, key = rng.choice(places)
    if rng.random() < 0.2:
        del node[key]
    else:
        node[key] = rng.choice(STRANGE)
    return copied


def tsv_set(folder, label):
    tsv(folder / "img.tsv", [["k", "aGVsbG8="]])
    tsv(folder / "label.tsv", [["k", json.dumps(label)]])
    tsv(folder / "hw.tsv", [["k", "80 100"]])
    write(folder / "map.json", {"cat": 1})
    names = {"img": "img.tsv", "label": "label.tsv", "hw": "hw.tsv", "labelmap": "map.json"}
    return write(folder / "set.yaml", "".join(f"{key}: {name}\n" for key, name in names.items()))


def genome(folder, content):
    for name, part in content.items():
        write(folder / name, part)
    return folder


CASES = {
    "coco": (COCO, lambda folder, content: write(folder / "a.json", content)),
    "lvis": (LVIS, lambda folder, content: write(folder / "a.json", content)),
    "mdetr": (MDETR, lambda folder, content: write(folder / "a.json", content)),
    "odvg": (ODVG, lambda folder, content: lines(folder / "a.jsonl", *content)),
    "label-studio": (STUDIO, lambda folder, content: write(folder / "a.json", content)),
    "visual-genome": (GENOME, genome),
    "caption-tsv": (CAPTION, tsv_set),
    "objects365-tsv": (OBJECTS, tsv_set),
}


@pytest.mark.parametrize("name", CASES)
def test_any_damage_is_a_finding_or_a_data_error(name, tmp_path):
    content, save = CASES[name]
    for seed in range(200):
        found = damaged(content, random.Random(seed))
        with contextlib.suppress(DataError):
            list(BY_NAME[name].read(save(tmp_path, found), tmp_path, Findings()))
