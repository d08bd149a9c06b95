from __future__ import annotations

import json

import pytest

from stepwell.compare.results import Comparison, Evaluation, Group, RunResult, first_reach


def run(name: str, losses: list[float], *, planned: int = 4, second: float = 0.5, **changes) -> RunResult:
    """A run with an evaluation after every second step of one `second` each."""
    count = 2 * len(losses)
    group = Group(name="all", rule="SGD", tensors=1, weights=8, lr=0.1, weight_decay=0.0, role="", why="")
    fields = {
        "recipe": name,
        "title": name.upper(),
        "settings": {"lr": 0.1},
        "planned_steps": planned,
        "groups": [group],
        "train_loss": [1.0] * count,
        "lr": {"all": [0.1] * count},
        "step_seconds": [second] * count,
        "optimizer_seconds": [second / 5] * count,
        "evaluations": [
            Evaluation(step=2 * index + 2, seconds=second * (2 * index + 2), loss=loss)
            for index, loss in enumerate(losses)
        ],
        "state_bytes": 64,
    }
    return RunResult(**(fields | changes))


def comparison(*runs: RunResult) -> Comparison:
    return Comparison(
        task="t", about="", seed=0, steps=4, clip_norm=1.0, versions={"torch": "2"}, threads=1, runs=list(runs)
    )


def test_the_first_crossing_lies_on_the_line_between_two_evaluations():
    evaluations = [
        Evaluation(step=10, seconds=1.0, loss=4.0),
        Evaluation(step=20, seconds=3.0, loss=2.0),
        Evaluation(step=30, seconds=4.0, loss=3.0),
        Evaluation(step=40, seconds=5.0, loss=1.0),
    ]
    assert first_reach(evaluations, 2.5) == (17.5, 2.5)
    assert first_reach(evaluations, 2.0) == (20.0, 3.0)
    assert first_reach(evaluations, 1.5) == (37.5, 4.75)
    assert first_reach(evaluations, 5.0) == (10.0, 1.0)
    assert first_reach(evaluations, 0.5) == (None, None)
    assert first_reach([], 1.0) == (None, None)


def test_the_table_worked_out_by_hand():
    base, fast, slow = comparison(
        run("base", [3.0, 2.0]), run("fast", [2.5, 1.5], second=1.0), run("slow", [4.0, 3.0])
    ).rows
    assert (base.final_loss, base.steps_to_baseline, base.seconds_to_baseline) == (2.0, 4.0, 2.0)
    assert (fast.final_loss, fast.steps_to_baseline, fast.seconds_to_baseline) == (1.5, 3.0, 3.0)
    assert (slow.final_loss, slow.steps_to_baseline, slow.seconds_to_baseline) == (3.0, None, None)
    assert (base.step_milliseconds, base.optimizer_share, base.state_bytes) == (500.0, pytest.approx(0.2), 64)
    assert base.status == "finished"


def test_one_slow_step_moves_neither_time_nor_share():
    busy = run("a", [3.0, 2.0], step_seconds=[0.5, 0.5, 9.0, 0.5], optimizer_seconds=[0.1, 0.1, 8.0, 0.1])
    row = comparison(busy).rows[0]
    assert (row.step_milliseconds, row.optimizer_share) == (500.0, pytest.approx(0.2))


def test_runs_that_did_not_end():
    interrupted = run("a", [3.0], planned=4)
    diverged = run("b", [3.0], diverged_at=2)
    nothing = run("c", [], planned=4)
    assert [one.status for one in (interrupted, diverged, nothing)] == ["interrupted", "diverged", "interrupted"]
    first, second, third = comparison(interrupted, diverged, nothing).rows
    assert (first.final_loss, second.final_loss, third.final_loss) == (3.0, None, None)
    assert (third.step_milliseconds, third.optimizer_share) == (None, None)


def test_runs_that_are_not_equally_far_are_compared_at_their_last_common_evaluation():
    ahead, behind = run("a", [3.0, 2.0, 1.0], planned=9), run("b", [2.5, 1.5], planned=9)
    found = comparison(ahead, behind)
    assert found.last_step == 4
    first, second = found.rows
    assert (first.final_loss, second.final_loss) == (2.0, 1.5)
    assert (first.steps_to_baseline, second.steps_to_baseline) == (4.0, 3.0)
    behind.diverged_at = 4
    assert found.last_step == 6


def test_without_a_baseline_nothing_is_reached():
    rows = comparison(run("a", [3.0], diverged_at=2), run("b", [2.0, 1.0])).rows
    assert [(row.steps_to_baseline, row.seconds_to_baseline) for row in rows] == [(None, None)] * 2
    assert comparison().rows == []


def test_json_and_back():
    before = comparison(run("a", [3.0, 2.0]), run("b", [3.0], diverged_at=2))
    before.sweep = {"tries": {"a": [{"settings": {"lr": 0.1}, "loss": None}]}}
    text = before.to_json()
    assert Comparison.from_json(text) == before
    content = json.loads(text)
    assert content["format"] == 1
    assert content["results"][0] == {
        "recipe": "a",
        "title": "A",
        "status": "finished",
        "steps": 4,
        "final_loss": 2.0,
        "steps_to_baseline": 4.0,
        "seconds_to_baseline": 2.0,
        "step_milliseconds": 500.0,
        "optimizer_share": pytest.approx(0.2),
        "state_bytes": 64,
    }


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": 2}'])
def test_json_of_another_kind(text):
    with pytest.raises(ValueError, match=r"^results must be of format 1, written by stepwell compare$"):
        Comparison.from_json(text)
