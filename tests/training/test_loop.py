"""The loop: a resumed run is the undisturbed one, small batches add up, bad losses are skipped and then stop it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import split, tiny_batch, tiny_batches, tiny_model, tiny_recipe
from torch import Tensor

from openglip.errors import ConfigError, TrainingError
from openglip.model.glip import GLIP
from openglip.training.assign import assign_batches
from openglip.training.batches import Batch
from openglip.training.loop import batch_losses, fit
from openglip.training.losses import GroundingCriterion
from openglip.training.state import Counters
from openglip.weights.files import read_checkpoint


class Killed(BaseException):
    pass


def lines(folder: Path, name: str = "log.jsonl") -> list[dict]:
    """The lines of a log without their times."""
    text = (folder / name).read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds")} for row in rows]


def run(folder: Path, kill_at: int | None = None, batches=tiny_batches, model=None, **changes) -> Path:
    def report(kind: str, line: Mapping) -> None:
        if kind == "train" and line["step"] == kill_at:
            raise Killed

    evaluate = (lambda net: {"score": net.rpn["head"].bias0.item()}) if changes.get("evaluate_every") else None
    recipe = tiny_recipe(**changes)
    fit(model or tiny_model(), GroundingCriterion(), batches, recipe, folder, evaluate=evaluate, report=report)
    return folder


def same_weights(a: Path, b: Path, name: str = "model.safetensors") -> bool:
    left, right = load_file(a / name), load_file(b / name)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("kill_at", [1, 2, 3, 5, 6])
def test_killed_and_resumed_is_undisturbed_bit_for_bit(tmp_path: Path, kill_at: int) -> None:
    whole = run(tmp_path / "whole", evaluate_every=3)
    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        run(broken, kill_at=kill_at, evaluate_every=3)
    with (broken / "log.jsonl").open("a") as file:
        file.write('{"step": 99')  # a line that the kill left half
    run(broken, evaluate_every=3)
    assert lines(broken) == lines(whole)
    assert lines(broken, "evaluations.jsonl") == lines(whole, "evaluations.jsonl")
    assert [row["step"] for row in lines(broken)] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in lines(broken, "evaluations.jsonl")] == [3, 6]
    assert same_weights(broken, whole)
    assert same_weights(broken, whole, "best.safetensors")


def test_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(tmp_path / "whole")
    broken = tmp_path / "broken"
    with pytest.raises(Killed):
        run(broken, kill_at=5)
    state = broken / "checkpoints" / "step-4" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        run(broken)
    assert "step-4 is damaged" in caplog.text
    assert lines(broken) == lines(whole)
    assert same_weights(broken, whole)


def test_line_says_what_the_interface_promises(tmp_path: Path) -> None:
    row = lines(run(tmp_path))[0]
    assert row["loss"] == pytest.approx(row["token"] + row["box"] + row["centerness"])
    assert row["images"] == 2
    assert row["lr"] == pytest.approx(1e-6)


def test_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    run(tmp_path)
    before = lines(tmp_path)
    run(tmp_path)
    assert lines(tmp_path) == before


def test_plateau_state_and_frozen_parts_survive_a_kill(tmp_path: Path) -> None:
    changes = {"schedule": "plateau", "patience": 0, "warmup": 0, "evaluate_every": 1, "frozen": ("backbone.body.",)}
    whole = run(tmp_path / "whole", **changes)
    with pytest.raises(Killed):
        run(tmp_path / "broken", kill_at=5, **changes)
    run(tmp_path / "broken", **changes)
    assert lines(tmp_path / "broken") == lines(whole)
    assert same_weights(tmp_path / "broken", whole)
    fresh = tiny_model().state_dict()
    trained = load_file(whole / "model.safetensors")
    assert all(torch.equal(trained[key], fresh[key]) for key in fresh if key.startswith("backbone.body."))


def halves(start: int) -> Iterator[Batch]:
    number = start
    while True:
        yield split(tiny_batch(number // 2, empty=(1,)), number % 2, 2)
        number += 1


def with_empty(start: int) -> Iterator[Batch]:
    number = start
    while True:
        yield tiny_batch(number, empty=(1,))
        number += 1


def test_small_batches_add_up_to_one_large(tmp_path: Path) -> None:
    """Also when one of the small batches has no box at all."""
    run(tmp_path / "large", model=tiny_model(0.0), batches=with_empty, average=0, use_average=False)
    run(tmp_path / "small", model=tiny_model(0.0), batches=halves, accumulate=2, average=0, use_average=False)
    for large, small in zip(lines(tmp_path / "large"), lines(tmp_path / "small"), strict=True):
        assert small["loss"] == pytest.approx(large["loss"], rel=1e-5)
        assert small["grad_norm"] == pytest.approx(large["grad_norm"], rel=1e-4)


def spoiled(bad: set[int]):
    def batches(start: int) -> Iterator[Batch]:
        for number, batch in enumerate(tiny_batches(start), start=start):
            if number in bad:
                batch.images[:] = torch.nan
            yield batch

    return batches


def test_step_with_a_loss_that_is_not_finite_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, batches=spoiled({2}), average=0, use_average=False)
    rows = lines(tmp_path)
    assert [row["skipped"] for row in rows] == [None, None, "token", None, None, None]
    assert rows[2]["loss"] is None
    assert "step 3 skipped: token is not finite; images: tiny:2/0, tiny:2/1" in caplog.text
    assert all(value.isfinite().all() for value in load_file(tmp_path / "model.safetensors").values())


def test_ten_bad_steps_in_a_row_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"token is not finite for 10 steps .* step 13 .*tiny:12/0"):
        run(tmp_path, batches=spoiled(set(range(3, 20))), steps=20)


@pytest.mark.parametrize(("native", "meant", "other"), [(True, "bf16", "fp32"), (False, "fp32", "bf16")])
def test_auto_takes_bf16_where_the_processor_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, meant: str, other: str
) -> None:
    monkeypatch.setattr("openglip.runtime.has_native_bf16", lambda: native)
    # of the first step alone: gradients in bf16 differ in their last bits from run to run
    loss = {name: lines(run(tmp_path / name, precision=name, steps=1))[0]["loss"] for name in ("auto", meant, other)}
    assert loss[other] != loss[meant]
    assert abs(loss["auto"] - loss[meant]) < 0.1 * abs(loss["auto"] - loss[other])


def test_bf16_trains_with_the_loss_in_float32(tmp_path: Path) -> None:
    rows = lines(run(tmp_path, precision="bf16"))
    assert all(row["loss"] is not None for row in rows)


def test_tiny_model_learns_one_batch(tmp_path: Path) -> None:
    def same(start: int) -> Iterator[Batch]:
        while True:
            yield tiny_batch(0)

    rows = lines(run(tmp_path, batches=same, model=tiny_model(0.0), steps=60, lr=5e-3, checkpoint_every=60))
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_figure_that_the_evaluation_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no figure 'AP50', but score"):
        run(tmp_path, evaluate_every=1, best="AP50")


def test_every_trainable_tensor_has_a_gradient() -> None:
    model, batch = tiny_model(0.0), tiny_batch(0)
    (targets,) = assign_batches(model.anchors, [batch])
    losses = batch_losses(model, GroundingCriterion(), batch, targets)
    torch.stack(list(losses.values())).sum().backward()
    gradients: dict[str, Tensor | None] = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


def endless_gradients() -> GLIP:
    """A model one of whose gradients is never finite."""
    model = tiny_model(0.0)
    model.rpn["head"].bias0.register_hook(lambda gradient: gradient * torch.nan)
    return model


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_gradients_that_are_never_finite_stop_the_run(tmp_path: Path, precision: str) -> None:
    with pytest.raises(TrainingError, match="gradient is not finite"):
        run(tmp_path, model=endless_gradients(), precision=precision, steps=30)
    rows = lines(tmp_path)
    assert {row["skipped"] for row in rows} == {"gradient"}
    assert len(rows) < (10 if precision == "fp32" else 20)  # float16 first lowers its factor


def test_nothing_is_saved_amid_bad_steps(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the last checkpoint is from before"):
        run(tmp_path, batches=spoiled(set(range(3, 20))), steps=20, checkpoint_every=1, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-2", "step-3"]


def test_rates_changed_in_the_recipe_count_after_a_resume(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill_at=3, warmup=0)
    run(tmp_path, warmup=0, lr=2e-3)
    assert [row["lr"] for row in lines(tmp_path)[:4]] == [1e-3, 1e-3, 2e-3, 2e-3]


def test_parameters_changed_in_the_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill_at=3)
    with pytest.raises(ConfigError, match="trains other parameters than its checkpoint"):
        run(tmp_path, frozen=("backbone.",))


def test_a_figure_that_is_not_finite_is_still_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = tiny_recipe(evaluate_every=6)
    fit(tiny_model(), GroundingCriterion(), tiny_batches, recipe, tmp_path, evaluate=lambda _: {"score": math.nan})
    assert lines(tmp_path, "evaluations.jsonl") == [{"step": 6, "score": None}]
    assert "it can't be the best model" in caplog.text


def test_another_figure_in_the_recipe_discards_earlier_best_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    figures = iter([{"a": 0.9, "b": 0.1}, {"a": 0.2, "b": 0.3}])

    def train(**changes) -> Counters:
        recipe = tiny_recipe(evaluate_every=3, checkpoint_every=3, **changes)
        return fit(tiny_model(), GroundingCriterion(), tiny_batches, recipe, tmp_path, evaluate=lambda _: next(figures))

    assert train(steps=3, best="a").best == 0.9
    counters = train(steps=6, best="b")
    assert (counters.best, counters.best_step) == (0.3, 6)
    assert "selection metric changed from a to b" in caplog.text
    assert read_checkpoint(tmp_path / "best.safetensors").info["step"] == 6


def test_a_checkpoint_of_another_model_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill_at=3)
    other = tiny_model()
    other.more = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="builds another model than its checkpoint holds"):
        run(tmp_path, model=other)


def test_a_damaged_line_of_a_log_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Killed):
        run(tmp_path, kill_at=5)
    rows = (tmp_path / "log.jsonl").read_bytes().split(b"\n")
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([rows[0], b'{"step": \xff', *rows[2:]]))
    run(tmp_path)
    assert [row["step"] for row in lines(tmp_path)] == [1, 3, 4, 5, 6]
    assert "log.jsonl: line 2 is damaged" in caplog.text
