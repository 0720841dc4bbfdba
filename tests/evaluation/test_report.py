from __future__ import annotations

import json
import re
from pathlib import Path

from evaluation.random_sets import random_coco
from evaluation.sets import coco_file, hit, run_command, square, write


def test_command_writes_and_prints_it(tmp_path: Path) -> None:
    truth, found = random_coco(5)
    truth, found = write(tmp_path / "t.json", truth), write(tmp_path / "p.json", found)
    done = run_command("coco", "--annotations", truth, "--predictions", found, "--output", tmp_path / "o", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert json.loads(done.stdout) == report
    assert set(report) == {"benchmark", "figures", "protocol", "per_category", "published"}
    protocol = report["protocol"]
    assert len(protocol["annotations_sha256"]) == len(protocol["predictions_sha256"]) == 64
    assert {"command", "versions", "seconds_judging", "split_sha256", "cap", "metric", "zero_shot"} <= set(protocol)
    assert any(row["model"] == "DyHead-T" and "arXiv" in row["source"] for row in report["published"])


def test_table_is_in_points_with_published_rows(tmp_path: Path) -> None:
    truth = write(tmp_path / "t.json", coco_file([square(1, 0)]))
    found = write(tmp_path / "p.json", [hit(0, 0.5)])
    printed = run_command("coco", "--annotations", truth, "--predictions", found, "--title", "my run").stdout
    assert re.search(r"my run +training data not known +100\.0 +100\.0", printed)
    assert re.search(r"GLIP-T \(C\) Swin-T +zero-shot, val2017 +46\.7 ", printed)


def test_compare_shows_what_differs(tmp_path: Path) -> None:
    truth = write(tmp_path / "t.json", coco_file([square(1, 0)]))
    for name, options in (("a", []), ("b", ["--plus-one"])):
        found = write(tmp_path / f"{name}.json", [hit(0, 0.5)])
        run_command("coco", "--annotations", truth, "--predictions", found, "--output", tmp_path / name, *options)
    printed = run_command("compare", tmp_path / "a", tmp_path / "b/report.json").stdout
    assert 'the protocols differ in widths: "x2 - x1 + 1" / "x2 - x1"' in printed
    assert printed.count("Faster RCNN RN50-FPN") == 1


def test_exit_statuses(tmp_path: Path) -> None:
    truth = write(tmp_path / "t.json", coco_file([square(1, 0)]))
    bad = write(tmp_path / "p.json", [hit(9, 0.5)])
    done = run_command("coco", "--annotations", truth, "--predictions", bad)
    assert done.exit_code == 1
    assert "p.json: entry 0 (image_id 9)" in done.stderr
    assert run_command("coco", "--annotations", truth).exit_code == 2
    assert run_command("coco", "--annotations", truth, "--predictions", bad, "--split", "minival").exit_code == 2
    assert run_command("coco", "--annotations", tmp_path / "none.json", "--predictions", bad).exit_code == 2
