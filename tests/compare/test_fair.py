from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from stepwell.compare import fair
from stepwell.compare.contestants import CONTESTANTS, Axis, ContestantError
from stepwell.compare.drawing import drawn
from stepwell.compare.fair import FairTest, Order, Outcome, Protocol, Runs, check, lowest
from stepwell.compare.task import TaskError

AXES = (Axis(name="lr", low=1e-4, high=1e-2), Axis(name="betas", index=1, low=0.01, high=0.1, complement=True))
PROTOCOL = Protocol(steps=4, tries=2, seed=7, fresh=1, longer=2)


@pytest.fixture
def task_of(weight_task):
    return lambda _: weight_task()


@pytest.fixture
def rates(sgd, monkeypatch):
    """SGD that tries the rates 0.1 and 0.5."""
    monkeypatch.setattr(fair, "drawn", lambda _, count, __: [[0.1], [0.5]][:count])
    return dataclasses.replace(sgd, space=(Axis(name="lr", low=0.1, high=1.0),))


def order(**changes) -> Order:
    fields = dict(task="weight", recipe="sgd", stage="seed-1", seed=1, steps=3, recipe_hash="0123456789ab")  # noqa: C408
    return Order(**{**fields, "settings": {"lr": 0.1, "betas": [0.9, 0.99]}, **changes})


def outcome(losses=((0, 1.0), (3, 0.5)), diverged_at=None, **changes) -> Outcome:
    return Outcome(order=order(**changes), losses=losses, diverged_at=diverged_at, state_bytes=8)


class TestDrawing:
    @pytest.mark.peers
    def test_the_first_point_is_the_centre_and_the_others_lie_in_the_box(self):
        first, *others = drawn(AXES, 8, seed=3)
        assert first == pytest.approx([1e-3, 0.1**0.5 * 0.1])  # √(10⁻⁴·10⁻²) and √(0.01·0.1)
        assert len({tuple(point) for point in others}) == 7
        assert all(axis.low <= value <= axis.high for point in others for axis, value in zip(AXES, point, strict=True))

    @pytest.mark.peers
    def test_points_are_known_beforehand(self):
        assert drawn(AXES, 3, seed=3) == drawn(AXES, 6, seed=3)[:3]
        assert drawn(AXES, 3, seed=3)[1] != drawn(AXES, 3, seed=4)[1]

    @pytest.mark.peers
    def test_points_spread_evenly_on_a_logarithmic_scale(self):
        rates = [rate for rate, _ in drawn(AXES, 17, seed=0)[1:]]
        assert 6 <= sum(rate < 1e-3 for rate in rates) <= 10

    def test_a_recipe_with_nothing_to_search_is_told(self):
        with pytest.raises(ContestantError, match="no range to search"):
            drawn((), 3, seed=0)

    def test_without_optuna_one_line_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "optuna", None)
        with pytest.raises(ContestantError, match="pip install 'stepwell"):
            drawn(AXES, 3, seed=0)


def test_settings_that_are_not_searched_stay_as_the_recipe_has_them():
    lion = dataclasses.replace(CONTESTANTS["lion"], space=AXES)
    assert lion.settings([1e-3, 0.05]) == {"lr": 1e-3, "betas": [0.9, 0.95]}


class TestProtocol:
    def test_every_stage_is_run_and_the_best_try_goes_on(self, task_of, rates, tmp_path):
        runs = Runs(tmp_path)
        FairTest(task_of, PROTOCOL, runs).run(rates)
        found = runs.of("sgd")
        assert sorted(found) == ["half", "longer", "seed-1", "try-00", "try-01", "twice"]
        # w ← w − lr·w on the loss w²/2 from w = 1: after four steps (1 − lr)⁴
        assert found["try-00"].loss == pytest.approx(0.9**4, rel=1e-5)
        assert found["try-01"].loss == pytest.approx(0.5**4, rel=1e-5)
        assert found["half"].loss == pytest.approx(0.75**4, rel=1e-5)
        assert found["twice"].loss == pytest.approx(0, abs=1e-6)
        assert found["longer"].loss == pytest.approx(0.5**8, rel=1e-5)
        assert [(found[stage].order.seed, found[stage].order.steps) for stage in ("try-01", "seed-1", "longer")] == [
            *((7, 4), (8, 4), (8, 8)),
        ]
        assert found["try-00"].losses[0] == (0, 1.0)

    def test_it_counts_what_it_costs(self):
        assert PROTOCOL.runs() == 2 + 2 + 1 + 2
        assert Protocol(steps=1, longer=1).runs() == 8 + 2 + 3

    def test_a_run_that_is_there_is_not_made_again(self, weight_task, rates, tmp_path):
        made = []

        def task_of(seed):
            return weight_task(batch=lambda step: made.append(step))

        FairTest(task_of, PROTOCOL, Runs(tmp_path)).run(rates)
        (tmp_path / "sgd" / "longer.json").unlink()
        del made[:]
        told = []
        FairTest(task_of, PROTOCOL, Runs(tmp_path), lambda found, new: told.append((found.order.stage, new))).run(rates)
        assert made == list(range(8))
        assert [stage for stage, new in told if new] == ["longer"]
        assert len(told) == 6

    def test_a_run_of_other_conditions_is_not_taken_for_it(self, task_of, rates, tmp_path):
        FairTest(task_of, PROTOCOL, Runs(tmp_path)).run(rates)
        with pytest.raises(ContestantError, match="is a run with steps 4, not 5; give another folder"):
            FairTest(task_of, dataclasses.replace(PROTOCOL, steps=5), Runs(tmp_path)).run(rates)

    def test_a_recipe_that_never_ends_is_told(self, weight_task, rates, tmp_path):
        def task_of(seed):
            return weight_task(loss=lambda model, _: model.w.sum() * float("inf"))

        with pytest.raises(ContestantError, match="'sgd' diverged in all of its 2 tries"):
            FairTest(task_of, PROTOCOL, Runs(tmp_path)).run(rates)
        assert Runs(tmp_path).of("sgd")["try-00"].diverged_at == 0


class TestOutcomes:
    def test_it_is_written_and_read(self, tmp_path):
        runs = Runs(tmp_path)
        runs.keep(outcome())
        assert runs.found(order()) == outcome()
        assert [path.name for path in (tmp_path / "sgd").iterdir()] == ["seed-1.json"]

    def test_a_file_that_is_cut_off_is_told(self, tmp_path):
        runs = Runs(tmp_path)
        runs.keep(outcome())
        path = tmp_path / "sgd" / "seed-1.json"
        path.write_text(path.read_text()[:40])
        with pytest.raises(ContestantError, match="cannot be read as a run"):
            runs.found(order())

    def test_json_holds_no_number_that_is_none(self):
        assert json.loads(outcome(losses=((0, 1.0),), diverged_at=2).to_json())["diverged_at"] == 2

    def test_divergence_is_no_number_or_worse_than_nothing(self):
        assert not outcome().diverged
        assert outcome(diverged_at=1).diverged
        assert outcome(losses=((0, 1.0), (3, 1.1))).diverged
        assert outcome(diverged_at=1).loss is None

    def test_the_lowest_is_the_first_of_the_lowest(self):
        high, low, other, gone = (
            outcome(losses=((0, 1.0), (3, loss)), stage=f"try-{index}", diverged_at=at)
            for index, (loss, at) in enumerate([(0.6, None), (0.4, None), (0.4, None), (0.1, 2)])
        )
        assert lowest([high, low, other, gone]) is low
        assert lowest([gone]) is None


class TestCheck:
    def said(self, task_of, contestant, protocol=PROTOCOL) -> list[str]:
        return list(check(task_of, contestant, protocol))

    @pytest.fixture
    def at_rate(self, sgd):
        """SGD that needs no settings."""

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Fixed(type(sgd)):
            def build(self, model, settings, steps):
                return super().build(model, {"lr": 0.1, **settings}, steps)

        return Fixed(name="sgd", title="SGD", recipe=sgd.recipe, space=())

    def test_a_sound_task_passes(self, task_of, at_rate):
        assert self.said(task_of, at_rate) == []

    def test_a_loss_that_is_not_finite(self, weight_task, at_rate):
        def task_of(seed):
            return weight_task(loss=lambda model, _: model.w.sum() * float("nan"))

        with pytest.raises(TaskError, match="training loss is not finite before the first update"):
            self.said(task_of, at_rate)

    def test_a_task_that_is_not_deterministic(self, weight_task, at_rate):
        def task_of(seed):
            def loss(model, _):
                return (model.w * random.random()).square().sum()

            return weight_task(loss=loss)

        with pytest.raises(TaskError, match="is not deterministic under a fixed seed: its training loss was"):
            self.said(task_of, at_rate)

    def test_weights_that_are_not_from_the_seed(self, weight_task, at_rate):
        class Random(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.tensor([random.random()]))

        with pytest.raises(TaskError, match="not deterministic"):
            self.said(lambda _: weight_task(model=Random), at_rate)

    def test_batches_that_run_out(self, weight_task, at_rate):
        def task_of(seed):
            return weight_task(batch=[0.0, 1.0, 2.0].__getitem__)

        with pytest.raises(TaskError, match="weight: no batch for step 3, the last of a run; it' failed: IndexError"):
            self.said(task_of, at_rate)

    def test_batches_that_run_out_in_the_longer_run(self, weight_task, at_rate):
        def task_of(seed):
            return weight_task(batch=[float(step) for step in range(6)].__getitem__)

        (said,) = self.said(task_of, at_rate)
        assert said.startswith("no batch for step 7, so the run of 8 steps is left out: task 'weight' failed: IndexErr")


def test_a_folder_of_nothing_holds_no_runs(tmp_path: Path):
    assert Runs(tmp_path).of("adamw") == {}
