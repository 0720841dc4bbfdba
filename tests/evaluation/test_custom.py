from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation.random_sets import random_coco
from evaluation.sets import coco_file, hit, run_command, square, write

import openglip


def test_thresholds_false_alarms_and_calibration(tmp_path: Path) -> None:
    truth = coco_file([square(1, 0), square(2, 1), square(3, 2, 2)], names=("cat", "dog", "cow"))
    found = [
        *(hit(0, 0.9), hit(1, 0.6), hit(2, 0.5), hit(3, 0.4)),  # cat: right, right, wrong, wrong
        hit(2, 0.3, 2, box=(60, 60, 10, 10)),  # dog: never right
        hit(3, 0.8, 3),  # cow: no objects
    ]
    source, rows = write(tmp_path / "t.json", truth), write(tmp_path / "p.json", found)
    done = run_command("custom", "--annotations", source, "--predictions", rows, "--output", tmp_path / "o", "--json")
    report = json.loads(done.stdout)
    thresholds = json.loads((tmp_path / "o/thresholds.json").read_text())
    assert set(thresholds) == {"cat", "dog", "cow"}
    assert 0.5 < thresholds["cat"] < 0.6
    cat = report["per_category"]["cat"]
    assert (cat["F1"], cat["precision"], cat["recall"], cat["false_alarm_rate"]) == (1.0, 1.0, 1.0, 0.0)
    assert report["per_category"]["dog"]["F1"] == 0.0
    assert report["per_category"]["cow"]["F1"] == -1.0
    overall = thresholds["cow"]  # classes without evidence get the cut that is best over all
    assert thresholds["dog"] == overall
    assert report["per_category"]["cow"]["false_alarm_rate"] == (0.25 if overall < 0.8 else 0.0)
    assert report["figures"]["F1"] == pytest.approx(0.5)
    right = [1, 1, 0, 0, 0, 0]
    errors = sum(abs(s - r) for s, r in zip([0.9, 0.6, 0.5, 0.4, 0.3, 0.8], right, strict=True)) / 6
    assert report["figures"]["calibration_error"] == pytest.approx(errors)


def test_the_threshold_is_the_best_one() -> None:
    truth, found = random_coco(11)
    report = openglip.evaluate("custom", truth, predictions=found)
    for name, figures in report.per_category.items():
        if figures["F1"] <= 0:
            continue
        category = next(c["id"] for c in truth["categories"] if c["name"] == name)
        for cut in np.linspace(0, 1, 21):
            rows = [r for r in found if r["category_id"] == category and r["score"] > cut]
            other = openglip.evaluate("custom", truth, predictions=rows).per_category[name]
            assert other["F1"] <= figures["F1"] + 1e-12
        above = [r for r in found if r["category_id"] == category and r["score"] > figures["threshold"]]
        again = openglip.evaluate("custom", truth, predictions=above).per_category[name]
        assert (again["precision"], again["recall"]) == (figures["precision"], figures["recall"])
