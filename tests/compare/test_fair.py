from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from stepwell.compare import fair
from stepwell.compare.contestants import CONTESTANTS, Axis, ContestantError
from stepwell.compare.drawing import drawn
from stepwell.compare.fair import FairTest, Protocol, lowest
from stepwell.compare.kept import DamagedError, KeptError, Order, Outcome, Runs

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
        changed = FairTest(task_of, dataclasses.replace(PROTOCOL, steps=5), Runs(tmp_path))
        with pytest.raises(KeptError, match="is a run with steps 4, not 5; give another --out, or remove"):
            changed.run(rates)
        assert changed.outcomes == {}
        with pytest.raises(KeptError, match="with seed 7, not 8"):
            FairTest(task_of, dataclasses.replace(PROTOCOL, seed=8), Runs(tmp_path)).kept([rates])
        other = dataclasses.replace(rates, recipe=rates.recipe.replace(clip_norm=3.0))
        with pytest.raises(KeptError, match=rf"with recipe_hash .*, not .*remove '{re.escape(str(tmp_path / 'sgd'))}'"):
            FairTest(task_of, PROTOCOL, Runs(tmp_path)).kept([other])

    def test_more_tries_can_be_added_and_fewer_are_looked_at(self, task_of, rates, tmp_path):
        def tested(tries: int) -> tuple[dict[str, Outcome], list[str]]:
            made = []
            protocol = dataclasses.replace(PROTOCOL, tries=tries)
            test = FairTest(task_of, protocol, Runs(tmp_path), lambda one, new: new and made.append(one.order.stage))
            test.kept([rates])
            test.run(rates)
            return test.outcomes["sgd"], made

        one, _ = tested(1)
        assert {stage: found.order.settings["lr"] for stage, found in one.items()} == {
            **dict.fromkeys(("try-00", "seed-1", "longer"), 0.1),
            "half": 0.05,
            "twice": 0.2,
        }
        two, made = tested(2)  # 0.5 is better, so all that followed from 0.1 is stale
        assert made == ["try-01", "seed-1", "half", "twice", "longer"]
        assert {found.order.settings["lr"] for found in two.values()} == {0.1, 0.5, 0.25, 1.0}
        assert tested(2)[1] == []
        again, made = tested(1)
        assert "try-01" not in again
        assert made == ["seed-1", "half", "twice", "longer"]
        assert again == one

    def test_a_try_at_other_settings_is_another_run(self, task_of, rates, tmp_path, monkeypatch):
        FairTest(task_of, PROTOCOL, Runs(tmp_path)).run(rates)
        monkeypatch.setattr(fair, "drawn", lambda *_: [[0.2], [0.5]])
        with pytest.raises(KeptError, match=r"is a run with settings \{'lr': 0.1\}, not \{'lr': 0.2\}"):
            FairTest(task_of, PROTOCOL, Runs(tmp_path)).run(rates)

    def test_a_damaged_run_is_left_out_and_told_of_at_the_end(self, task_of, rates, tmp_path):
        FairTest(task_of, PROTOCOL, Runs(tmp_path)).run(rates)
        (tmp_path / "sgd" / "half.json").write_text("null")
        test = FairTest(task_of, PROTOCOL, Runs(tmp_path))
        assert len(test.kept([rates])) == 5
        with pytest.raises(ContestantError, match=r"half.json' cannot be read as a run.*; remove it to run it again$"):
            test.run(rates)
        assert list(test.outcomes["sgd"]) == ["try-00", "try-01", "seed-1", "twice", "longer"]

    def test_nothing_follows_from_a_damaged_try(self, task_of, rates, tmp_path):
        FairTest(task_of, PROTOCOL, Runs(tmp_path)).run(rates)
        (tmp_path / "sgd" / "try-01.json").write_text("[]")
        before = (tmp_path / "sgd" / "longer.json").read_bytes()
        test = FairTest(task_of, PROTOCOL, Runs(tmp_path))
        with pytest.raises(ContestantError, match=r"try-01.json' cannot be read as a run: it holds list"):
            test.run(rates)
        assert list(test.outcomes["sgd"]) == ["try-00"]
        assert (tmp_path / "sgd" / "longer.json").read_bytes() == before

    def test_a_longer_run_whose_data_end_is_left_out(self, weight_task, rates, tmp_path):
        def task_of(seed):
            batches = iter(range(6))
            return weight_task(batch=lambda _: next(batches))

        for _ in range(2):  # the same command again goes on, too
            test = FairTest(task_of, PROTOCOL, Runs(tmp_path))
            message = r"^recipe 'sgd': the longer run is left out: task 'weight': its data ended at step 6$"
            with pytest.raises(ContestantError, match=message):
                test.run(rates)
            assert list(test.outcomes["sgd"]) == ["try-00", "try-01", "seed-1", "half", "twice"]

    def test_a_recipe_that_never_ends_is_told(self, weight_task, rates, tmp_path):
        def task_of(seed):
            return weight_task(loss=lambda model, _: model.w.sum() * float("inf"))

        with pytest.raises(
            ContestantError,
            match="'sgd' diverged in all of its 2 tries: in try-00 the training loss was not finite at step 0",
        ):
            FairTest(task_of, PROTOCOL, Runs(tmp_path)).run(rates)
        assert Runs(tmp_path).of("sgd")["try-00"].diverged_at == 0

    def test_a_recipe_with_nothing_to_search_is_told(self, task_of, rates, tmp_path):
        test = FairTest(task_of, PROTOCOL, Runs(tmp_path))
        with pytest.raises(ContestantError, match=r"^recipe 'sgd' has no range to search"):
            test.run(dataclasses.replace(rates, space=()))


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

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"losses": [[0, "1.0"]]}, "its losses are not pairs of a step and a number"),
            ({"losses": [[0, float("nan")]]}, "its losses are not pairs of a step and a number"),
            ({"losses": [3]}, "cannot unpack"),
            ({"losses": None}, "its 'losses' is None"),
            ({"settings": 3}, "its 'settings' is 3"),
            ({"diverged_at": "2"}, "its 'diverged_at' is '2'"),
            ({"more": "1"}, "unexpected keyword argument 'more'"),
        ],
    )
    def test_a_file_that_holds_something_else_is_told(self, change, told, tmp_path):
        path = tmp_path / "sgd" / "seed-1.json"
        path.parent.mkdir()
        path.write_text(json.dumps({**json.loads(outcome().to_json()), **change}))
        with pytest.raises(
            DamagedError, match=rf"seed-1.json' cannot be read as a run: .*{told}.*; remove it to run it"
        ):
            Runs(tmp_path).of("sgd")

    def test_files_that_are_no_stages_are_left_alone(self, tmp_path):
        runs = Runs(tmp_path)
        for one in (outcome(), outcome(stage="8bit-1")):
            runs.keep(one)
        for name, text in (("notes.json", '{"why": 3}'), ("half.json.part", ""), ("todo.json", "not JSON")):
            (tmp_path / "sgd" / name).write_text(text)
        (tmp_path / "sgd" / "old.json").mkdir()
        assert list(runs.of("sgd")) == ["8bit-1", "seed-1"]
        (tmp_path / "sgd" / "half.json").write_text("null")
        with pytest.raises(DamagedError, match=r"half.json' cannot be read as a run: it holds NoneType, not a run"):
            runs.of("sgd")

    def test_a_folder_that_is_none_is_told_before_anything_is_run(self, weight_task, rates, tmp_path):
        (tmp_path / "fair").write_text("")
        batches = []
        test = FairTest(lambda _: weight_task(batch=batches.append), PROTOCOL, Runs(tmp_path / "fair"))
        with pytest.raises(KeptError, match=r"runs cannot be kept in '.*fair': Not a directory; give another --out"):
            test.run(rates)
        assert batches == []

    def test_a_file_that_cannot_be_written_is_told(self, tmp_path):
        (tmp_path / "sgd" / "seed-1.json" / "in-the-way").mkdir(parents=True)
        with pytest.raises(KeptError, match=r"cannot write '.*seed-1.json': Is a directory"):
            Runs(tmp_path).keep(outcome())
        assert [path.name for path in (tmp_path / "sgd").iterdir()] == ["seed-1.json"]

    def test_which_loss_was_not_finite(self):
        # A run of 30 steps is evaluated after every second one.
        def found(losses, at, **changes):
            return outcome(losses, at, **{"steps": 30, **changes}).divergence

        assert found(((0, 1.0), (2, 0.5)), None) == ""
        assert found(((0, 1.0), (2, 0.5)), 2) == "the training loss was not finite at step 2"
        assert found(((0, 1.0), (2, 0.5)), 3) == "the training loss was not finite at step 3"
        assert found(((0, 1.0), (2, 0.5)), 4) == "the validation loss was not finite at step 4"
        assert found(((0, 1.0),), 4, stage="try-00") == "the training loss was not finite at step 4"
        assert found(((0, 1.0),), 30, stage="try-00") == "the validation loss was not finite at step 30"

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


def test_a_folder_of_nothing_holds_no_runs(tmp_path: Path):
    assert Runs(tmp_path).of("adamw") == {}
