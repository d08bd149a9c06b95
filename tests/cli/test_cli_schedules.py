"""`stepwell plot`, `advise` and `find-lr`."""

from __future__ import annotations

import json
import re
import shlex
from xml.etree import ElementTree

import pytest

from stepwell import Recipe, Route
from stepwell.cli.plot import HELP


def test_plot_draws_in_the_terminal(stepwell):
    code, out, err = stepwell("plot", "Cosine(warmup=0.1)", "recipe:schedule-free", "--horizon", "2000", "--lr", "3e-4")
    assert (code, err) == (0, "")
    assert "⠀" in out
    assert "learning rate" in out
    assert "Cosine(warmup=0.1): 0 at step 0, at most 3e-4, 0 from step 2,000 on\n" in out
    assert "recipe:schedule-free: 0 at step 0, at most 3e-4, 3e-4 from step 2,000 on\n" in out


def test_plot_draws_what_a_recipe_schedules(stepwell, here):
    recipe = Recipe(
        routes=(
            Route(rule="Lion", name="tables", select="role('embedding')", schedules={"lr": "Linear()"}),
            Route(rule="AdamW"),
        ),
        schedules={"lr": "Cosine()", "betas[0]": "Linear(end=0.5)"},
    )
    recipe.save(here / "mine.toml")
    code, out, err = stepwell("plot", "recipe:mine.toml", "recipe:llama", "--horizon", "10000")
    assert (code, err) == (0, "")
    assert [line.partition(" at step")[0] for line in out.splitlines() if " at step 0" in line] == [
        "recipe:mine.toml tables: 1",
        "recipe:mine.toml adamw: 1",
        "recipe:mine.toml betas[0]: 1",
        "recipe:llama: 0",
    ]


@pytest.mark.parametrize("command", re.findall(r"stepwell (plot .*)", HELP))
def test_the_examples_of_plot_run(stepwell, here, command):
    code, _, err = stepwell(*shlex.split(command))
    assert (code, err) == (0, "")


def test_plot_says_the_peak_of_cycles_that_it_cannot_draw_one_by_one(stepwell):
    code, out, _ = stepwell("plot", "Cyclic(up=50)", "--horizon", "60000")
    assert code == 0
    assert "Cyclic(up=50): 0.1 at step 0, at most 1, 0.1 from step 60,000 on\n" in out
    assert len(re.findall("⣿{72}", out)) >= 10  # a band, up to its peak


def test_plot_draws_a_schedule_up_to_its_own_horizon(stepwell):
    _, out, _ = stepwell("plot", "Linear(horizon=5000)", "Linear()")
    assert "Linear(horizon=5000): 1 at step 0, at most 1, 0 from step 5,000 on\n" in out
    assert "Linear(): 1 at step 0, at most 1, 0 from step 5,000 on\n" in out
    _, out, _ = stepwell("plot", "Linear(horizon=5000)", "--horizon", "1000")
    assert "Linear(horizon=5000): 1 at step 0, at most 1, 0.8 at step 1,000\n" in out


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        ("clamp(Linear(horizon=5000), low=0.1)", "0.1 from step 5,000 on"),
        ("product(Linear(horizon=5000), Linear(horizon=2000, end=1))", "0 from step 5,000 on"),
        ("warmup(Linear(horizon=5000), 100)", "0 from step 5,100 on"),
        ("shift(clamp(Linear(horizon=5000)), 100)", "0 from step 5,100 on"),
        ("sequence(Linear(horizon=9000), Linear(horizon=5000), at=[100], cut=True)", "0 from step 5,100 on"),
        ("warmup(Linear(horizon=5000), 0.1)", "0.1 at step 5,000"),
        ("sequence(Linear(), Linear(), at=[800])", "0 from step 1,000 on"),
    ],
)
def test_plot_draws_what_is_inside_up_to_its_horizon(stepwell, schedule, last):
    code, out, _ = stepwell("plot", schedule)
    assert code == 0
    assert out.endswith(f", {last}\n")


@pytest.mark.parametrize("name", ["s.svg", "s.html"])
def test_plot_writes_a_picture(stepwell, here, name):
    code, out, _ = stepwell("plot", "wsd", "--out", name)
    assert (code, out) == (0, f"{name}\n")
    text = (here / name).read_text(encoding="utf-8")
    assert re.search(r">wsd</text>", text)
    if name.endswith("svg"):
        ElementTree.fromstring(text)
    else:
        assert text.startswith("<!doctype html>")


def test_plot_prints_data(stepwell):
    code, out, err = stepwell("plot", "Linear()", "recipe:schedule-free", "--horizon", "4", "--lr", "2", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "horizon": 4,
        "lr": 2.0,
        "schedules": [
            {
                "name": "Linear()",
                "schedule": "Linear(horizon=4)",
                "steps": [0, 1, 2, 3, 4],
                "values": [2.0, 1.5, 1.0, 0.5, 0.0],
            },
            {
                "name": "recipe:schedule-free",
                "schedule": "Constant()",  # a tenth of four steps is none, and what never moves has no end
                "steps": [0, 1, 2, 3, 4],
                "values": [2.0] * 5,
            },
        ],
    }
    code, out, err = stepwell("plot", "Linear()", "--json", "--out", "s.svg")
    assert (code, out, err) == (2, "", "stepwell: --out writes a picture and --json prints data: give one of them\n")


def test_plot_reads_data(stepwell, here):
    (here / "a.toml").write_text('kind = "Linear"\nend = 0.5\n')
    (here / "b.json").write_text(json.dumps({"kind": "Linear", "end": 0.25}))
    code, out, _ = stepwell("plot", "a.toml", "b.json")
    assert code == 0
    assert "a.toml: 1 at step 0, at most 1, 0.5 from step 1,000 on" in out
    assert "b.json: 1 at step 0, at most 1, 0.25 from step 1,000 on" in out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "kind = ", "a.toml: no TOML: Invalid value (at line 1, column 8)"),
        ("a.json", "{", "a.json: Expecting property name enclosed in double quotes: line 1 column 2"),
        ("a.json", "[]", "a.json: a schedule must be a dict with a 'kind', got []"),
        ("a.toml", 'kind = "Linear"\nends = 1', "a.toml: unknown argument 'ends' for Linear"),
        ("a.json", "[" * 100_000, "a.json: no schedule is nested that deep"),
        ("a.toml", f"a = {'[' * 100_000}", "a.toml: no TOML that can be read: it is nested too deep"),
        ("a.toml", b"\xff", "'a.toml' is no text: invalid start byte at byte 0"),
    ],
)
def test_a_file_that_is_no_schedule_is_named(stepwell, here, name, content, message):
    (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = stepwell("plot", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"stepwell: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plot", "cosin"), "unknown schedule 'cosin' (did you mean 'Cosine'?)"),
        (
            ("plot", "Cosine(warmup=2000)"),
            "warmup must be at most the horizon of 1000 steps, got 2000; give --horizon\n",
        ),
        (
            ("plot", "recipe:llama", "--horizon", "999"),
            "warmup must be at most the horizon of 999 steps, got 2000\n",
        ),
        (("plot", "Cosine(warmpu=3)"), "unknown argument 'warmpu' for Cosine"),
        (("plot", "Step"), "Step needs every: give every=…"),
        (("plot", "missing.toml"), "cannot read 'missing.toml': No such file or directory"),
        (("plot", "cosine", "--horizon", "0"), "--horizon must be a whole number of at least 1, got '0'"),
        (("plot", "cosine", "--lr", "nan"), "--lr must be a number above 0, got 'nan'"),
        (("plot", "cosine", "--out", "x.png"), "--out must end in .svg or .html, got 'x.png'"),
        (("plot", "cosine", "--horizon", "9" * 400), "--horizon must be below 2^63, got '999"),
        (("plot", f"Cosine(end=1{'0' * 400})"), "end must be a finite number of at least 0, got 1000"),
        (("plot", f"Cosine(warmup=1{'0' * 400})"), "warmup must be at most 1.798e+308, got 1000"),
        (("find-lr", "--task", "tiny:fit", "--steps", "9" * 400), "--steps must be below 2^63, got '999"),
        (("plot", "recipe:adamm"), "unknown recipe 'adamm' (did you mean 'adam'?)"),
        (("plot", "recipe:mine.toml"), "mine.toml: cannot be read: No such file or directory"),
        (("plot",), "missing argument 'SCHEDULE"),
        (("advise", "--optimizer", "adan"), "--optimizer must be one of 'sgd'"),
        (("advise", "--samples", "many"), "--samples must be a whole number of at least 1, got 'many'"),
        (("advise", "--epochs", "-1"), "--epochs must be a number above 0, got '-1'"),
        (("find-lr", "--low", "0"), "--low must be a number above 0, got '0'"),
        (("find-lr", "--steps", "1"), "--steps must be a whole number of at least 2, got '1'"),
        (("find-lr", "--task", "bytegtp"), "unknown task 'bytegtp'"),
        (("find-lr", "--out", "x.pdf"), "--out must end in .svg or .html, got 'x.pdf'"),
        (("find-lr", "--task", "tiny:failing", "--out", "no/x.svg"), "cannot write 'no/x.svg': No such file or"),
        (("find-lr", "--task", "tiny:failing", "--out", "tiny.py/x.svg"), "cannot write 'tiny.py/x.svg': Not a dir"),
        (("find-lr", "--task", "tiny:failing", "--out", "folder.svg"), "cannot write 'folder.svg': Is a directory"),
        (("plot", "cosine", "--out", "tiny.py/x.svg"), "cannot write 'tiny.py/x.svg': Not a directory"),
    ],
)
def test_bad_input_is_one_line(stepwell, here, arguments, message):
    (here / "folder.svg").mkdir()
    code, out, err = stepwell(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"stepwell: {message}")
    assert err.count("\n") == 1


def test_advise_prints_the_reasons(stepwell):
    code, out, err = stepwell("advise", "--architecture", "transformer", "--samples", "5000", "--fine-tuning")
    assert (code, err) == (0, "")
    assert out.startswith("lr\n  1e-05 to 0.0001\n    0.0001 to 0.001 (lecture")
    assert "or, by another source," in out


def test_advise_as_json(stepwell):
    code, out, _ = stepwell("advise", "--optimizer", "lion", "--adamw-lr", "3e-4", "--json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)][:2] == ["lr", "lr"]


def test_find_lr_runs_a_task(stepwell, here):
    code, out, err = stepwell("find-lr", "--task", "tiny:fit", "--steps", "12", "--out", "rates.html")
    assert (code, err) == (0, "")
    assert re.search(r"steepest|no rate lowers the loss", out)
    assert "after 12 steps" in out
    assert (here / "rates.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_find_lr_as_json(stepwell, here):
    code, out, err = stepwell("find-lr", "--task", "tiny:fit", "--steps", "12", "--out", "rates.svg", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert list(found) == ["steepest", "valley", "diverged", "rates", "losses", "smoothed"]
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"]) <= 12
    assert found["rates"][0] == pytest.approx(1e-6)
    assert (here / "rates.svg").exists()


@pytest.mark.parametrize(
    ("task", "code", "message"),
    [
        ("tiny:failing", 2, "task 'tiny:failing' failed: FileNotFoundError"),
        ("tiny:diverging", 2, "the loss is not finite at the first rate, 1e-06"),
        ("tiny:interrupted_at_once", 130, "interrupted; nothing was changed"),
    ],
)
def test_find_lr_that_cannot_go_on(stepwell, here, task, code, message):
    found, out, err = stepwell("find-lr", "--task", task, "--steps", "12")
    assert (found, out) == (code, "")
    assert err.startswith(f"stepwell: {message}")


@pytest.mark.parametrize("columns", [40, 60, 300])
def test_a_drawing_fits_the_terminal(stepwell, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = stepwell("plot", "cosine", "--lr", "2.5e-4")
    drawn, *_ = out.split("\ncosine:")
    widest = max(map(len, drawn.splitlines()))
    assert min(columns, 80) - 8 <= widest <= min(columns, 80)
