from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation.sets import coco_file, hit, run_command, square, write

from openglip.errors import ConfigError
from openglip.evaluation.coco import FIGURES
from openglip.evaluation.odinw import find_sets, names_and_wordings
from openglip.prompts.tables import odinw_sets


def test_tables() -> None:
    sets = odinw_sets()
    assert len(sets) == 35
    assert sum(s.thirteen for s in sets.values()) == 13
    rabbits = sets["CottontailRabbits"]
    assert rabbits.names("original") == ("Cottontail-Rabbit",)
    assert rabbits.names("paper-13") == rabbits.names("repo-35") == ("rabbit",)
    assert sets["NorthAmericaMushrooms"].names("repo-35") == ("flat mushroom", "yellow mushroom")
    worded = {name: ["".join(w) for w in s.wordings] for name, s in sets.items() if s.wordings}
    assert worded["pothole"] == ["there are some holes on the road"]
    assert worded["Packages"] == ["there is a package on the porch"]
    assert worded["EgoHands_generic"] == [" hand of a person"]
    assert worded["Aquarium"][2] == "penguin , which is black and white"
    assert len(worded) == 4
    with pytest.raises(ConfigError, match="not one of the paper's thirteen"):
        names_and_wordings(sets["BCCD"], ("a", "b", "c"), "paper-13")


def test_mean_and_median_over_existing_sets(tmp_path: Path) -> None:
    truth = coco_file([square(1, 0), square(2, 1)])
    values = {"Raccoon": [hit(0, 0.9), hit(1, 0.8)], "pothole": [hit(0, 0.9)], "BCCD": []}
    published = {name: info.annotation_path(info.split) for name, info in odinw_sets().items() if name in values}
    assert published["BCCD"] == "BCCD/BCCD.v3-raw.coco/valid/annotations_without_background.json"
    for name, rows in values.items():
        write(tmp_path / "data" / published[name], truth)
        write(tmp_path / "found" / f"{name}.json", rows)
    arguments = ("--annotations", tmp_path / "data", "--predictions", tmp_path / "found", "--json")
    done = run_command("odinw", *arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    figures = report["figures"]
    aps = [figures[f"{name}/AP"] for name in values]
    assert aps[0] == pytest.approx(1.0)
    assert aps[2] == 0.0
    assert figures["mean"] == figures["mean/AP"] == pytest.approx(np.mean(aps))
    assert figures["median"] == figures["median/AP"] == pytest.approx(np.median(aps))
    assert {f"{n}/{f}" for n in ("mean", "median", *values) for f in FIGURES} <= set(figures)
    assert len(report["protocol"]["sets"]["BCCD"]["sets_missing"]) == 32
    assert run_command("odinw", *arguments, "--sets", "odinw-13").exit_code == 1
    two = json.loads(run_command("odinw", *arguments, "--sets", "pothole,Raccoon").stdout)
    assert two["figures"]["mean"] == pytest.approx(np.mean(aps[:2]))
    assert find_sets(tmp_path / "data")[0][0].name == "BCCD"
    with pytest.raises(ConfigError, match="'Dragons' is no ODinW set"):
        find_sets(tmp_path / "data", "Dragons")
