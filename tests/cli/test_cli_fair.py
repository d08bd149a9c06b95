from __future__ import annotations

import json

import pytest

from stepwell.compare import fair
from stepwell.recipes import PRESETS

MORE = """
from dataclasses import replace

import tiny


def other(seed):
    return tiny.fit(seed)


def fit(seed):
    # The task of another name, edited.
    task = tiny.fit(seed)
    return replace(task, name="tiny:fit", validate=lambda model: 2 * task.validate(model))


def breaking(seed, at):
    task = tiny.fit(seed)

    def batch(step):
        return task.batch(step), step == at

    def loss(model, batch):
        rows, breaks = batch
        return task.loss(model, rows) * (float("nan") if breaks else 1.0)

    return replace(task, batch=batch, loss=loss)


def breaks(seed):
    return breaking(seed, 4)


def breaks_on_the_way(seed):
    return breaking(seed, {1: 17, 2: 3}.get(seed))


def ends(seed):
    task, drawn = tiny.fit(seed), []

    def batch(step):
        drawn.append(step)
        if len(drawn) > 10:
            raise StopIteration
        return task.batch(step)

    return replace(task, batch=batch)


def bracketed(seed):
    return replace(tiny.fit(seed), name="sweep [/2] :boom:")
"""


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
    code, _, err = stepwell("compare", "--task", "tiny:interrupted", "--recipes", "adamw", "--fair", "2", "--out", "o")
    assert (code, err) == (130, "stepwell: interrupted; the same command goes on\n")
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


def bracketed(seed):
    return replace(tiny.fit(seed), name="sweep [/2] :boom:")
"""
    )
    code, _, err = stepwell("compare", "--task", "short:ends", "--recipes", "adamw", "--fair", "2", "--out", "o")
    assert code == 2
    assert "task 'short:ends': its data ended at step 0; what was measured is kept in 'o/fair'" in err
    assert sorted(path.stem for path in (here / "o" / "fair" / "adamw").iterdir()) == ["seed-1", "try-00", "try-01"]


@pytest.mark.parametrize("where", ["check", "task"])
def test_an_interrupt_before_the_first_run(where, here, stepwell):
    (here / "early.py").write_text(
        "import signal, tiny\n"
        "def task(seed):\n    signal.raise_signal(signal.SIGINT)\n"
        "check = tiny.interrupted_at_once\n"
    )
    code, out, err = stepwell("compare", "--task", f"early:{where}", "--recipes", "adamw", "--fair", "2", "--out", "o")
    assert (code, err) == (130, "stepwell: interrupted; the same command goes on\n")
    assert "final" not in out
    assert not (here / "o").exists()


class TestAgain:
    """The same folder, and a command that is not quite the same."""

    @pytest.fixture
    def run(self, here, stepwell):
        (here / "more.py").write_text(MORE)

        def run(task: str, tries: int = 2, *more: str) -> tuple[int, str, str]:
            return stepwell(
                *("compare", "--task", task, "--recipes", "adamw", "--fair", str(tries), "--out", "o", "--steps", "4"),
                *more,
            )

        assert run("tiny:fit")[0] == 0
        return run

    @pytest.fixture
    def written(self, here):
        return lambda: json.loads((here / "o" / "fair.json").read_text())

    @pytest.mark.parametrize(
        ("task", "more", "told"),
        [
            (
                "more:other",
                (),
                "is a run with task 'tiny:fit', not 'more:other'; give another --out, or remove 'o/fair'",
            ),
            ("tiny:fit", ("--steps", "3"), "is a run with steps 4, not 3; give another --out, or remove 'o/fair'"),
            ("more:fit", (), "task 'tiny:fit' is another than that whose runs are kept: the loss of its untrained"),
        ],
    )
    def test_another_test_is_refused_and_leaves_the_files(self, task, more, told, here, run):
        before = (here / "o" / "fair.json").read_bytes()
        code, out, err = run(task, 2, *more)
        assert (code, err.count("\n")) == (2, 1)
        assert told in err
        assert "adamw  try-00" not in out
        assert (here / "o" / "fair.json").read_bytes() == before

    def test_tries_can_be_added_and_left_out(self, run, written):
        two = written()["standings"]
        assert run("tiny:fit", 1)[0] == 0
        (one,) = written()["standings"]
        assert (one["tries"], one["settings"]["lr"]) == (1, 0.001)
        code, out, _ = run("tiny:fit", 2)
        assert (code, out.count("was there")) == (0, 2)  # 0.01 is better: the rest was of 0.001
        assert written()["standings"] == two

    def test_a_damaged_run_is_one_line_and_the_others_stand(self, here, run, written):
        path = here / "o" / "fair" / "adamw" / "seed-2.json"
        whole = path.read_bytes()
        for damaged in ("null", "", whole.decode().replace("[[0, ", '[["0", ')):
            path.write_text(damaged)
            code, out, err = run("tiny:fit")
            assert (code, err) == (0, "")
            assert "'o/fair/adamw/seed-2.json' cannot be read as a run: " in out
            assert "; remove it to run it again\n" in out
            assert (len(written()["standings"][0]["losses"]), out.count("was there")) == (2, 7)
        path.unlink()
        (path.parent / "notes.json").write_text("not JSON")
        assert run("tiny:fit")[0] == 0
        assert path.read_bytes() == whole

    def test_a_folder_that_cannot_be_written(self, here, stepwell):
        (here / "p").mkdir()
        (here / "p" / "fair").write_text("")
        code, _, err = stepwell(
            *("compare", "--task", "tiny:fit", "--recipes", "adamw", "--fair", "2", "--out", "p", "--steps", "4")
        )
        told = "stepwell: runs cannot be kept in 'p/fair': Not a directory; give another --out\n"
        assert (code, err) == (2, told)


class TestDivergence:
    @pytest.fixture
    def run(self, here, stepwell):
        (here / "more.py").write_text(MORE)

        def run(task: str) -> tuple[int, str, str]:
            return stepwell("compare", "--task", task, "--recipes", "adamw,lion", "--fair", "2", "--out", "o")

        return run

    def test_all_tries_of_all_recipes(self, run):
        code, out, err = run("more:breaks")
        told = "diverged in all of its 2 tries: in try-00 the training loss was not finite at step 4"
        assert f"recipe 'adamw' {told}\n" in out
        assert (code, err) == (2, f"stepwell: recipe 'lion' {told}\n")

    def test_runs_that_followed(self, run):
        code, out, err = run("more:breaks_on_the_way")
        assert (code, err) == (0, "")
        for recipe in ("adamw", "lion"):
            assert f"{recipe}: seed 2 diverged at step 3; the longer run diverged at step 17\n" in out

    def test_data_that_end_in_the_longer_run(self, run):
        for _ in range(2):
            code, out, err = run("more:ends")
            assert (code, err) == (0, "")
            for recipe in ("adamw", "lion"):
                told = "the longer run is left out: task 'more:ends': its data ended at step 10"
                assert f"recipe '{recipe}': {told}\n" in out
        assert out.count("was there") == 14


def test_names_are_shown_as_they_are(here, stepwell):
    (here / "more.py").write_text(MORE)
    PRESETS["lion"].save(here / "a[red]&<b>.toml")
    arguments = ("--task", "more:bracketed", "--recipes", "adamw,a[red]&<b>.toml")
    code, out, err = stepwell("compare", *arguments, "--fair", "1")
    assert (code, err) == (0, "")
    assert "stepwell compare  sweep [/2] :boom:: a fair test\n" in out
    assert "  a[red]&<b>  try-00  " in out
    assert "\na[red]&<b>  " in out.split("half the")[1]  # the table


def test_more_tries_of_a_sweep_are_not_taken(here, stepwell):
    code, _, err = stepwell("compare", "--fair", "2", "--tries", "3")
    assert (code, err) == (2, "stepwell: --fair takes no --tries: it makes as many as it says itself, here 2\n")


@pytest.mark.parametrize("other", ["--sweep", "--resume", "--json"])
def test_it_stands_alone(other, here, stepwell):
    code, _, err = stepwell("compare", "--fair", "2", other)
    assert code == 2
    assert f"--fair takes no {other}" in err


@pytest.mark.parametrize("given", ["0", ""])
def test_tries_are_a_number(given, here, stepwell):
    code, _, err = stepwell("compare", "--fair", given)
    assert (code, err) == (2, f"stepwell: --fair must be a whole number of at least 1, got {given!r}\n")
