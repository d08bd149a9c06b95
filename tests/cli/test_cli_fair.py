from __future__ import annotations

import json

import pytest

from stepwell.compare import fair


@pytest.fixture(autouse=True)
def points(monkeypatch):
    """Two tries, at rates of 0.001 and 0.01, drawn without Optuna."""

    def drawn(space, count, seed):
        rates = [0.001, 0.01][:count]
        return [[rate, *((axis.low * axis.high) ** 0.5 for axis in space[1:])] for rate in rates]

    monkeypatch.setattr(fair, "drawn", drawn)


def test_a_fair_test_from_end_to_end(here, stepwell):
    arguments = ("compare", "--task", "tiny:fit", "--recipes", "adamw,lion", "--fair", "2", "--out", "o")
    code, out, err = stepwell(*arguments)
    assert (code, err) == (0, "")
    found = json.loads((here / "o" / "fair.json").read_text())
    assert [one["recipe"] for one in found["standings"]] == ["adamw", "lion"]
    assert [(one["tries"], len(one["losses"])) for one in found["standings"]] == [(2, 3), (2, 3)]
    assert found["protocol"] == {"steps": 6, "tries": 2, "seed": 0, "fresh": 3, "longer": 4}
    assert len(list((here / "o" / "fair" / "lion").iterdir())) == 8
    assert "66 steps for each of 2 recipes" in out  # (2 + 2 + 3 + 4) · 6
    assert "half the" in out
    assert "was there" not in out
    assert stepwell(*arguments)[1].count("was there") == 16


def test_an_interrupt_keeps_what_was_run(here, stepwell):
    code, _, _ = stepwell("compare", "--task", "tiny:interrupted", "--recipes", "adamw", "--fair", "2", "--out", "o")
    assert code == 130
    kept = sorted(path.stem for path in (here / "o" / "fair" / "adamw").iterdir())
    assert kept == [
        "half",
        "seed-1",
        "seed-2",
        "seed-3",
        "try-00",
        "try-01",
        "twice",
    ]  # the longer run has a 12th batch
    assert json.loads((here / "o" / "fair.json").read_text())["standings"][0]["longer"] is None


def test_a_task_whose_loss_is_not_finite(here, stepwell):
    code, _, err = stepwell("compare", "--task", "tiny:diverging", "--recipes", "adamw", "--fair", "2", "--out", "o")
    assert code == 2
    assert err.strip().endswith("task 'tiny:diverging': the training loss is not finite before the first update")


def test_a_task_whose_data_run_out_on_the_way(here, stepwell):
    (here / "short.py").write_text(
        (here / "tiny.py").read_text()
        + """

def ends(seed):
    task = fit(seed)
    from dataclasses import replace

    def batch(step):
        if seed == 2:
            raise StopIteration("no more data")
        return task.batch(step)

    return replace(task, batch=batch)
"""
    )
    code, _, err = stepwell("compare", "--task", "short:ends", "--recipes", "adamw", "--fair", "2", "--out", "o")
    assert code == 2
    assert "StopIteration: no more data" in err
    assert "what was measured is kept in" in err
    assert sorted(path.stem for path in (here / "o" / "fair" / "adamw").iterdir()) == ["seed-1", "try-00", "try-01"]


@pytest.mark.parametrize("other", ["--sweep", "--resume", "--json"])
def test_it_stands_alone(other, here, stepwell):
    code, _, err = stepwell("compare", "--fair", "2", other)
    assert code == 2
    assert f"--fair takes no {other}" in err


def test_tries_are_a_number(here, stepwell):
    code, _, err = stepwell("compare", "--fair", "0")
    assert code == 2
    assert "--fair must be a whole number of at least 1, got '0'" in err
