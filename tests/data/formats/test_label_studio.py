from urllib.parse import quote

import pytest
from data.small_sets import encoded, format_of, read_only, write

from openglip.data.findings import Findings
from openglip.data.formats.label_studio import read_label_studio


def test_label_studio(tmp_path):
    write(tmp_path / "a b.jpg", encoded())
    value = {"x": 10, "y": 25, "width": 20, "height": 50, "rotation": 0, "rectanglelabels": ["Car"]}
    base = {
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 100,
        "original_height": 80,
    }
    tasks = [
        {
            "id": 4, "data": {"image": "/data/local-files/?d=a%20b.jpg"},
            "annotations": [
                {"result": [
                    {**base, "value": value}, {**base, "value": {**value, "rotation": 30}}, {"type": "choices"},
                ]},
                {"was_cancelled": True, "result": []},
            ],
        },
        {
            "id": 5, "data": {"image": "http://x/a%20b.jpg"},
            "predictions": [{"result": [{**base, "value": value, "score": 0.5}]}],
        },
    ]  # fmt: skip
    findings = Findings()
    one, two = read_label_studio(write(tmp_path / "export.json", tasks), findings=findings)
    assert one.boxes.tolist() == [[10, 20, 30, 60]]
    assert (one.names, one.image, one.image_id) == (("Car",), str(tmp_path / "a b.jpg"), 4)
    assert (two.scores.tolist(), two.image) == ([0.5], one.image)
    assert findings.counts == {"malformed": 1}
    assert format_of(tmp_path / "export.json") == "label-studio"


def test_label_studio_tasks_that_are_not_labelled_are_no_negatives(tmp_path):
    base = {"original_width": 100, "original_height": 80}
    place = {"x": 1, "y": 2, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["Car"]}
    car = {**base, "type": "rectanglelabels", "value": place}
    polygon = {**base, "type": "polygonlabels", "value": {"points": [[1, 1], [5, 1], [5, 5]], "polygonlabels": ["Car"]}}
    annotations = {
        "car": [{"result": [car]}],
        "empty": [{"result": []}],
        "rated": [{"result": [{"type": "choices", "value": {"choices": ["night"]}}]}],
        "new": [],
        "skipped": [{"was_cancelled": True, "result": []}],
        "polygon": [{"result": [polygon]}],
        "both": [{"result": [polygon, car]}],
    }
    for seed, name in enumerate(annotations):
        write(tmp_path / f"{name}.jpg", encoded(seed))
    tasks = [{"id": n, "data": {"image": f"{n}.jpg"}, "annotations": items} for n, items in annotations.items()]
    samples, findings = read_only(write(tmp_path / "export.json", tasks))
    assert [(s.image_id, len(s)) for s in samples] == [("car", 1), ("empty", 0), ("rated", 0), ("both", 1)]
    assert [(f.kind, f.id) for f in findings.items] == [
        ("missing_annotation", "new"),
        ("missing_annotation", "skipped"),
        ("malformed", "polygon"),
        ("malformed", "both"),
    ]


NAMES = ["plain.png", "a+b.png", "a#1.png", "tom&jerry.png", "what?.png", "two  blanks.png", "100%25.png", "猫.png"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("address", ["{}", "/data/local-files/?d={quoted}", "https://host/{quoted}", "{quoted}"])
def test_images_are_found_by_any_name_in_any_address(tmp_path, name, address):
    write(tmp_path / name, encoded())
    value = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
    results = [{"type": "rectanglelabels", "original_width": 100, "original_height": 80, "value": value}]
    task = {"id": 1, "data": {"image": address.format(name, quoted=quote(name))}, "annotations": [{"result": results}]}
    (sample,) = read_label_studio(write(tmp_path / "tasks.json", [task]))
    assert sample.image == str(tmp_path / name)
