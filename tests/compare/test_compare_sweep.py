from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stepwell.compare.contestants import CONTESTANTS, Axis, Contestant, choose
from stepwell.compare.sweep import TRIES, Sweep, Try, committed_sweep, narrowed, search, sobol_points, sweep
from stepwell.compare.task import Task
from stepwell.recipes import PRESETS


def fields(**changes):
    return {"task": "t", "steps": 3, "seed": 1, "tries_each": 2, "date": "2025-01-02", "versions": {}} | changes


def linear_task(**changes) -> Task:
    made = {
        "name": "linear",
        "model": lambda: nn.Linear(4, 1, bias=False),
        "batch": lambda _step: torch.randn(8, 4),
        "loss": lambda model, x: model(x).square().mean(),
        "validate": lambda model: float(model.weight.square().sum()),
    }
    return Task(**(made | changes))


def test_points_lie_in_the_box_and_spread_over_it():
    box = [(-2.0, 0.0), (3.0, 5.0)]
    points = sobol_points(box, 8, seed=0)
    assert len(points) == 8
    for dimension, (low, high) in enumerate(box):
        values = sorted(point[dimension] for point in points)
        # Eight points of a Sobol sequence: one in each eighth of every range.
        assert [math.floor(8 * (value - low) / (high - low)) for value in values] == list(range(8))
    assert sobol_points(box, 0, seed=0) == []


def test_a_box_half_as_wide_around_the_best():
    space = (Axis(name="lr", low=1, high=1), Axis(name="momentum", low=1, high=1, complement=True))
    assert narrowed([(0.0, 4.0), (-4.0, -1.0)], [3.5, -2.0], space) == [(2.5, 4.5), (-2.75, -1.25)]
    # 1 − momentum may not rise past one half.
    assert narrowed([(0.0, 4.0), (-4.0, 0.0)], [1.0, -0.5], space)[1] == (-1.5, math.log(0.5))


def test_the_search_closes_in_on_the_best():
    space = (Axis(name="lr", low=1e-4, high=1e-1),)
    recipe = Contestant(name="r", title="R", recipe=PRESETS["adamw"], space=space)

    def distance(_recipe, settings):
        return abs(math.log10(settings["lr"]) + 3.2)

    found: list[Try] = []
    search(recipe, 16, 0, found, distance)
    first, second = found[:8], found[8:]
    assert len(found) == 16
    assert min(one.loss for one in second) < min(one.loss for one in first)
    # The second box is half of the first three decades, so no try in it is further than one box from the best.
    centre = math.log10(min(first, key=lambda one: one.loss).settings["lr"])
    assert all(abs(math.log10(one.settings["lr"]) - centre) <= 0.75 + 1e-2 for one in second)


def test_a_search_in_which_every_try_diverges_still_ends():
    recipe = CONTESTANTS["adamw"]
    found: list[Try] = []
    search(recipe, 5, 0, found, lambda *_: None)
    assert [one.loss for one in found] == [None] * 5


def test_a_sweep_gives_every_recipe_the_same_number_of_tries():
    found = sweep(linear_task(), choose(["adamw", "lion"]), tries=3, steps=2, seed=1)
    assert {name: len(tries) for name, tries in found.tries.items()} == {"adamw": 3, "lion": 3}
    assert (found.task, found.steps, found.seed, found.tries_each, found.interrupted) == ("linear", 2, 1, 3, False)
    best = found.best("adamw")
    assert best.loss == min(one.loss for one in found.tries["adamw"])


def test_an_interrupted_sweep_keeps_its_tries():
    calls = []

    def batch(step):
        calls.append(step)
        if len(calls) == 2 * 4 + 1:
            raise KeyboardInterrupt
        return torch.randn(8, 4)

    found = sweep(linear_task(batch=batch), choose(["adamw", "lion"]), tries=3, steps=2, seed=1)
    assert found.interrupted
    assert {name: len(tries) for name, tries in found.tries.items()} == {"adamw": 3, "lion": 1}


def test_the_best_is_the_lowest_finite_loss():
    tries = [Try(settings={"lr": rate}, loss=loss) for rate, loss in ((1.0, None), (2.0, 0.5), (3.0, 0.4))]
    found = Sweep(**fields(tries={"a": tries, "b": tries[:1]}))
    assert found.best("a").settings == {"lr": 3.0}
    assert found.best("b") is None
    assert found.best("c") is None
    assert found.of(["b", "c"]).tries == {"b": tries[:1]}


def test_sweep_json_and_back():
    before = Sweep(**fields(tries={"a": [Try(settings={"lr": 1.0}, loss=None)]}))
    assert Sweep.from_json(before.to_json()) == before


@pytest.mark.parametrize("text", ["[]", '{"format": 7}'])
def test_sweep_json_of_another_kind(text):
    with pytest.raises(ValueError, match=r"^a sweep must be of format 1, written by stepwell compare --sweep$"):
        Sweep.from_json(text)


def test_the_committed_sweep_is_fair_and_complete():
    found = committed_sweep()
    assert list(found.tries) == list(CONTESTANTS)
    assert {len(tries) for tries in found.tries.values()} == {found.tries_each} == {TRIES}
    assert found.task == "bytegpt"
    assert not found.interrupted


@pytest.mark.parametrize("name", list(CONTESTANTS))
def test_no_committed_rate_is_at_the_edge_of_what_was_tried(name):
    found = committed_sweep()
    rates = sorted(one.settings["lr"] for one in found.tries[name])
    assert rates[0] < found.best(name).settings["lr"] < rates[-1]
