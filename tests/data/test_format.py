import contextlib
import copy
import json
import random

import pytest
from data.small_sets import tsv_set, write, write_lines

from openglip.data.findings import Findings
from openglip.data.formats import BY_NAME, FORMATS
from openglip.errors import DataError, MissingExtraError


def test_every_format_names_the_file_that_is_missing(tmp_path):
    (tmp_path / "folder").mkdir()
    for format in FORMATS:
        with pytest.raises((DataError, MissingExtraError), match=str(tmp_path)):
            list(format.read(tmp_path / "folder" / f"nothing.{format.name}", tmp_path, Findings()))


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


def genome(folder, content):
    for name, part in content.items():
        write(folder / name, part)
    return folder


CASES = {
    "coco": (COCO, lambda folder, content: write(folder / "a.json", content)),
    "lvis": (LVIS, lambda folder, content: write(folder / "a.json", content)),
    "mdetr": (MDETR, lambda folder, content: write(folder / "a.json", content)),
    "odvg": (ODVG, lambda folder, content: write_lines(folder / "a.jsonl", *content)),
    "label-studio": (STUDIO, lambda folder, content: write(folder / "a.json", content)),
    "visual-genome": (GENOME, genome),
    "caption-tsv": (CAPTION, lambda folder, content: tsv_set(folder, [json.dumps(content)], ["aGVsbG8="])),
    "objects365-tsv": (OBJECTS, lambda folder, content: tsv_set(folder, [json.dumps(content)], ["aGVsbG8="])),
}


@pytest.mark.parametrize("name", CASES)
def test_any_damage_is_a_finding_or_a_data_error(name, tmp_path):
    content, save = CASES[name]
    for seed in range(200):
        found = damaged(content, random.Random(seed))
        with contextlib.suppress(DataError):
            list(BY_NAME[name].read(save(tmp_path, found), tmp_path, Findings()))
