"""Groups, schedules and averages against the official values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from openglip.errors import ConfigError
from openglip.training.optim import (
    Average,
    Cosine,
    Plateau,
    Steps,
    decay_factor,
    freeze,
    parameter_groups,
    set_rates,
    train_mode,
)

VARIANTS = ["glip-t", "glip-t-a", "glip-t-b", "glip-l"]


def golden(golden_file: Callable[[str], Path], variant: str) -> dict:
    return json.loads(golden_file(f"train/optim/{variant}.json").read_text())


@pytest.mark.parametrize("variant", VARIANTS)
def test_groups_are_the_official_ones(golden_file: Callable[[str], Path], variant: str) -> None:
    config = golden(golden_file, variant)
    named, wanted = [], {}
    for name, entry in config["parameters"].items():
        parameter = nn.Parameter(torch.empty(0), requires_grad=entry["trains"])
        named.append((name, parameter))
        if entry["trains"]:
            wanted[id(parameter)] = (entry["lr"], entry["weight_decay"])
    groups = parameter_groups(
        named, config["base_lr"], config["weight_decay"], lr_of={"language_backbone.": config["lang_lr"]}
    )
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert found.keys() == wanted.keys()
    for key, pair in wanted.items():
        assert found[key] == pytest.approx(pair, abs=1e-12, rel=1e-9)
    optimizer = torch.optim.AdamW(groups)
    assert list(optimizer.defaults["betas"]) == config["betas"]
    assert optimizer.defaults["eps"] == config["eps"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_steps_schedule_is_the_official_one(golden_file: Callable[[str], Path], variant: str) -> None:
    official = golden(golden_file, variant)["schedule"]
    schedule = Steps(official["max_iter_used_here"])
    assert schedule.milestone_steps() == official["milestones"]
    for step, factor in official["lr_multiplier_at_iteration"].items():
        assert schedule.rate(int(step), 1.0) == pytest.approx(factor, rel=1e-9)


def test_decay_drops_where_the_official_one_does(golden_file: Callable[[str], Path]) -> None:
    official = golden(golden_file, "glip-l")["weight_decay_schedule"]
    milestones = Steps(1_000_000).milestone_steps()
    for count, step in enumerate(official["drops_after_iteration"]):
        assert decay_factor(step - 1, milestones) == pytest.approx(0.1**count)
        assert decay_factor(step, milestones) == pytest.approx(0.1 ** (count + 1))


def test_cosine_is_the_official_one(golden_file: Callable[[str], Path]) -> None:
    official = json.loads(golden_file("train/data_routines.json").read_text())["cosine"]
    schedule = Cosine(
        official["max_iters"], official["warmup_iters"], official["warmup_factor"], official["min_lr"], True
    )
    for step, rate in official["lr"].items():
        assert schedule.rate(int(step), official["base_lr"]) == pytest.approx(rate, rel=1e-9)


def test_cosine_ends_on_its_floor() -> None:
    assert Cosine(100, warmup=10, floor=1e-6).rate(100, 1e-3) == pytest.approx(1e-6)


@pytest.mark.parametrize("index", range(4))
def test_plateau_is_the_official_one(golden_file: Callable[[str], Path], index: int) -> None:
    official = json.loads(golden_file("train/data_routines.json").read_text())["plateau"][index]
    schedule = Plateau(official["patience"], official["gamma"], official["warmup_iters"])
    step = 0
    for entry in official["trace"]:
        for rate in entry["lr_during"]:
            if step > schedule.warmup or schedule.warmup == 0:  # its evaluations also advance the warm-up, ours don't
                assert schedule.rate(step, 1e-4) == pytest.approx(rate, rel=1e-9)
            step += 1
        if entry["eval"]:  # the official code overlooks a figure of 0; ours counts it (next test)
            schedule.observe(entry["eval"], step)
        if step >= schedule.warmup:
            assert schedule.rate(step, 1e-4) == pytest.approx(entry["lr_after_eval"], rel=1e-9)


def test_plateau_counts_zero() -> None:
    schedule = Plateau(patience=2)
    for step in range(4):
        schedule.observe(0.0, step)
    assert schedule.drops == 1


def test_set_rates_moves_every_group() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(parameter_groups(layer.named_parameters(), 1e-3, 0.01))
    assert set_rates(optimizer, Steps(100, warmup=0), step=67, decay=0.1) == pytest.approx(1e-4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-4, 2e-4])
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([1e-3, 0.0])


def test_unknown_prefix_is_named() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"'text\."):
        parameter_groups(layer.named_parameters(), 1e-3, 0.0, lr_of={"text.": 1e-5})
    with pytest.raises(ConfigError, match=r"can't freeze 'stem\."):
        freeze(layer, ["stem."])


def test_frozen_modules_stay_in_eval_mode_and_out_of_the_groups() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    freeze(model, ["0."])
    train_mode(model)
    assert not model[0].training
    assert not model[0][0].training
    assert model[1].training
    assert model[1][1].training
    groups = parameter_groups(model.named_parameters(), 1e-3, 0.0)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model[1].parameters()}


def test_average_follows_the_whole_state() -> None:
    model = nn.BatchNorm1d(3)
    average = Average(model, decay=0.9)
    with torch.no_grad():
        model.weight.fill_(2.0)
    model(torch.randn(4, 3))
    average.update(model)
    torch.testing.assert_close(average.state["weight"], torch.full((3,), 1.1))
    torch.testing.assert_close(average.state["running_mean"], 0.1 * model.running_mean)
    assert average.state["num_batches_tracked"] == 1
