from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell.compare.results import Comparison
from stepwell.compare.sweep import Sweep
from stepwell.recipes import PRESETS

ALL = ["adamw", "lion", "muon", "schedule-free"]


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_comparison_from_end_to_end(here, stepwell):
    code, out, err = stepwell("compare", "--task", "tiny:fit", "--out", "deep/result")
    assert (code, err) == (0, "")
    assert written(here / "deep" / "result") == ["report.html", "results.json"]
    found = Comparison.from_json((here / "deep" / "result" / "results.json").read_text())
    assert [run.recipe for run in found.runs] == ALL
    assert [(run.status, run.steps) for run in found.runs] == [("finished", 6)] * 4
    assert (found.task, found.seed, found.steps, found.interrupted) == ("tiny:fit", 0, 6, False)
    page = (here / "deep" / "result" / "report.html").read_text()
    assert "A tiny network learns a parabola." in page
    assert "on another task (bytegpt), not on this one" in page
    for text in ("AdamW + cosine", "Schedule-Free AdamW", "step 6/6", "deep/result/report.html"):
        assert text in out


def test_recipes_steps_and_seed(here, stepwell):
    code, *_ = stepwell(
        "compare", "--task", "tiny:fit", "--recipes", "Muon, adamw", "--steps", "3", "--seed", "5", "--out", "o"
    )
    assert code == 0
    found = Comparison.from_json((here / "o" / "results.json").read_text())
    assert [run.recipe for run in found.runs] == ["muon", "adamw"]
    assert (found.seed, found.steps, found.runs[0].steps) == (5, 3, 3)


def test_tries_without_a_sweep(here, stepwell):
    code, out, err = stepwell("compare", "--task", "tiny:fit", "--tries", "3", "--out", "o")
    assert (code, out) == (2, "")
    assert "--tries needs --sweep: without it every recipe runs once, as it is written" in " ".join(err.split())
    assert not (here / "o").exists()


def test_results_as_json(here, stepwell):
    code, out, err = stepwell("compare", "--task", "tiny:fit", "--recipes", "adamw,lion", "--out", "o", "--json")
    assert code == 0
    assert out == (here / "o" / "results.json").read_text()
    assert [run.recipe for run in Comparison.from_json(out).runs] == ["adamw", "lion"]
    assert "step 6/6" in err


def test_recipes_as_files(here, stepwell):
    PRESETS["adamw"].set(lr=0.01).save(here / "a.toml")
    PRESETS["muon-original"].save(here / "B.json")
    code, out, err = stepwell("compare", "--task", "tiny:fit", "--recipes", "a.toml,B.json,lion", "--out", "o")
    assert (code, err) == (0, "")
    found = Comparison.from_json((here / "o" / "results.json").read_text())
    assert [(run.recipe, run.settings) for run in found.runs[:2]] == [("a", {}), ("B", {})]
    assert found.runs[2].settings  # the best of the sweep that comes with stepwell
    assert {group.rule: group.lr for group in found.runs[1].groups} == {"Muon": 0.02, "AdamW": 3e-4}
    assert found.clip_norm is None  # Lion's are clipped, the others are not
    assert "a and B ran as written, while others were tuned." in " ".join(out.split())
    page = (here / "o" / "report.html").read_text()
    assert "a and B ran as written, without a search for better settings." in page
    assert "Settings of Lion + cosine are the best of 16 tries" in page
    assert "Gradients are clipped where a recipe says so." in page


def test_a_sweep_of_recipes_in_files(here, stepwell):
    PRESETS["muon-original"].save(here / "a.toml")
    code, *_ = stepwell(
        "compare", "--task", "tiny:fit", "--recipes", "a.toml,finetune", "--sweep", "--tries", "2", "--out", "o"
    )
    assert code == 0
    sweep = Sweep.from_json((here / "o" / "sweep.json").read_text())
    assert {name: [sorted(one.settings) for one in tries] for name, tries in sweep.tries.items()} == {
        "a": [["lr", "weight_decay"]] * 2,
        "finetune": [["lr", "weight_decay"]] * 2,
    }
    found = Comparison.from_json((here / "o" / "results.json").read_text())
    assert [run.settings for run in found.runs] == [sweep.best(name).settings for name in ("a", "finetune")]


def test_a_sweep_of_a_recipe_without_a_rate(here, stepwell):
    arguments = ("compare", "--task", "tiny:fit", "--recipes", "adamw,a.toml", "--sweep", "--tries", "2", "--out", "o")
    PRESETS["adamw"].set(lr=0.0, weight_decay=0.0).save(here / "a.toml")
    code, out, err = stepwell(*arguments)
    assert (code, out) == (2, "")
    assert err == (
        "stepwell: recipe 'a' has no range to search: no rate or decay above 0 in its first route; give it one, or "
        "compare it as it is written\n"
    )
    assert not (here / "o").exists()
    PRESETS["adamw"].set(lr=0.0, weight_decay=0.1).save(here / "a.toml")
    code, _, err = stepwell(*arguments)
    assert (code, err) == (0, "")
    assert written(here / "o") == ["report.html", "results.json", "sweep.json"]
    sweep = Sweep.from_json((here / "o" / "sweep.json").read_text())
    assert [sorted(one.settings) for one in sweep.tries["a"]] == [["weight_decay"]] * 2


def test_recipes_none_of_which_was_tuned(here, stepwell):
    code, out, _ = stepwell("compare", "--task", "tiny:fit", "--recipes", "finetune,gpt", "--out", "o")
    assert code == 0
    assert "while others were tuned" not in out
    page = (here / "o" / "report.html").read_text()
    assert "finetune and gpt ran as written, without a search for better settings." in page
    assert "Gradients are clipped to a global norm of 1 in every recipe." in page


def test_the_default_task(here, stepwell):
    code, *_ = stepwell("compare", "--recipes", "adamw", "--steps", "2", "--out", "o")
    assert code == 0
    found = Comparison.from_json((here / "o" / "results.json").read_text())
    assert found.task == "bytegpt"
    assert "1,049,984 parameters" in found.about
    # Two float32 numbers for each weight.
    assert found.runs[0].state_bytes == 8 * 1_049_984


def test_a_sweep_and_the_comparison_at_its_best(here, stepwell):
    code, out, err = stepwell(
        "compare", "--task", "tiny:fit", "--recipes", "adamw,lion", "--sweep", "--tries", "3", "--out", "o"
    )
    assert (code, err) == (0, "")
    assert written(here / "o") == ["report.html", "results.json", "sweep.json"]
    sweep = Sweep.from_json((here / "o" / "sweep.json").read_text())
    assert {name: len(tries) for name, tries in sweep.tries.items()} == {"adamw": 3, "lion": 3}
    assert (sweep.seed, sweep.steps) == (1, 6)  # another seed than the comparison's
    found = Comparison.from_json((here / "o" / "results.json").read_text())
    assert [run.settings for run in found.runs] == [sweep.best(name).settings for name in ("adamw", "lion")]
    assert "try 3/3" in out


def test_ctrl_c_writes_the_report_of_what_there_is(here, stepwell):
    code, out, _ = stepwell("compare", "--task", "tiny:interrupted", "--recipes", "adamw,lion", "--out", "o")
    assert code == 130
    assert written(here / "o") == ["report.html", "results.json", "unfinished"]
    found = Comparison.from_json((here / "o" / "results.json").read_text())
    # Four batches of preparation, then turns of one step: the twelfth batch is Lion's fourth.
    assert [run.steps for run in found.runs] == [4, 3]
    assert found.interrupted
    assert "Interrupted after 3 to 4 of 6 steps" in out
    assert "Interrupted after 3 to 4 of 6 steps" in (here / "o" / "report.html").read_text()


def test_ctrl_c_before_the_first_step_writes_nothing(here, stepwell):
    code, _, err = stepwell("compare", "--task", "tiny:interrupted_at_once", "--out", "o")
    assert (code, err) == (130, "stepwell: interrupted; nothing was written\n")
    assert not (here / "o").exists()


def test_ctrl_c_in_a_sweep_keeps_its_tries(here, stepwell):
    code, out, _ = stepwell(
        "compare", "--task", "tiny:interrupted", "--sweep", "--tries", "2", "--recipes", "adamw", "--out", "o"
    )
    assert code == 130
    assert written(here / "o") == ["report.html", "results.json", "sweep.json", "unfinished"]
    sweep = Sweep.from_json((here / "o" / "sweep.json").read_text())
    assert len(sweep.tries["adamw"]) == 1
    assert "Interrupted during the sweep: no comparison was run." in out


def test_divergence_is_reported(here, stepwell):
    code, out, err = stepwell("compare", "--task", "tiny:diverging", "--recipes", "adamw,muon", "--out", "o")
    assert (code, err) == (0, "")
    assert "Every run diverged." in out
    results = json.loads((here / "o" / "results.json").read_text())["results"]
    assert [(row["status"], row["steps"], row["final_loss"]) for row in results] == [("diverged", 0, None)] * 2


def test_a_recipe_that_diverges_in_all_of_a_sweep_is_left_out(here, stepwell):
    PRESETS["sgd"].set(lr=1e30).save(here / "wild.toml")
    recipes = ("--recipes", "wild.toml,adamw,lion", "--sweep", "--tries", "2", "--out", "o")
    code, out, err = stepwell("compare", "--task", "tiny:fit", *recipes)
    assert (code, err) == (0, "")
    assert "wild diverged in all of its 2 tries, and is left out." in " ".join(out.split())
    found = Comparison.from_json((here / "o" / "results.json").read_text())
    assert [(run.recipe, run.steps) for run in found.runs] == [("adamw", 6), ("lion", 6)]
    code, _, err = stepwell("compare", "--task", "tiny:diverging", *recipes)
    assert code == 2
    assert err == "stepwell: every recipe diverged in all of its 2 tries, so there is nothing to compare\n"


def test_a_sweep_in_which_all_diverges(here, stepwell):
    code, _, err = stepwell(
        "compare", "--task", "tiny:diverging", "--recipes", "lion", "--sweep", "--tries", "2", "--out", "o"
    )
    assert code == 2
    assert err == "stepwell: recipe 'lion' diverged in all of its 2 tries, so there is nothing to compare\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--steps", ""), "--steps must be a whole number of at least 1, got ''"),
        (("--out", ""), "--out must be a directory that can be written, got ''"),
        (("--steps", "0"), "--steps must be a whole number of at least 1, got '0'"),
        (("--steps", "-3"), "--steps must be a whole number of at least 1, got '-3'"),
        (("--steps", "many"), "--steps must be a whole number of at least 1, got 'many'"),
        (("--steps", "1.5"), "--steps must be a whole number of at least 1, got '1.5'"),
        (("--seed", "-1"), "--seed must be a whole number from 0 to 2147483646, got '-1'"),
        (("--seed", "9999999999"), "--seed must be a whole number from 0 to 2147483646, got '9999999999'"),
        (("--tries", "0"), "--tries must be a whole number of at least 1, got '0'"),
        (
            ("--recipes", "adamw,moun"),
            f"unknown recipe 'moun' (did you mean 'muon'?); recipes are {', '.join(PRESETS)}",
        ),
        (("--recipes", ","), f"no recipe is named; recipes are {', '.join(PRESETS)}"),
        (("--recipes", "mine.toml"), "mine.toml: cannot be read: No such file or directory"),
        (("--recipes", "tiny.py"), "tiny.py: a recipe's file ends in .toml or .json"),
        (("--recipes", "lion,lion"), "recipe 'lion' is named twice; name each recipe once"),
        (
            ("--task", "bytegp"),
            "unknown task 'bytegp'; allowed are 'bytegpt' and module:function (did you mean 'bytegpt'?)",
        ),
        (
            ("--task", "tinny:fit"),
            "unknown task module 'tinny': no such module in {here} or among the installed packages "
            "(did you mean 'tiny'?)",
        ),
        (("--task", "tiny:fitt"), "task module 'tiny' has no function 'fitt' (did you mean 'fit'?)"),
        (("--task", "tiny:mse_loss"), None),
        (
            ("--task", "tiny:failing"),
            "task 'tiny:failing' failed: FileNotFoundError: [Errno 2] No such file or directory: '/data/train.bin' "
            "(tiny.py:45)",
        ),
        (
            ("--out", "tiny.py"),
            "--out must be a directory that can be written, got 'tiny.py': File exists",
        ),
        (
            ("--out", "tiny.py/deeper"),
            "--out must be a directory that can be written, got 'tiny.py/deeper': Not a directory",
        ),
        (
            ("--out", "/proc/stepwell"),
            "--out must be a directory that can be written, got '/proc/stepwell': No such file or directory",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(here, stepwell, arguments, message):
    given = ("--task", "tiny:fit", *arguments) if "--task" not in arguments else arguments
    code, out, err = stepwell("compare", "--out", "o", *given) if "--out" not in given else stepwell("compare", *given)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("stepwell: ")
    if message is not None:
        assert err == f"stepwell: {message.format(here=here)}\n"
    assert [name for name in written(here) if name != "__pycache__"] == ["tiny.py"]


def test_data_that_cannot_be_read(here, stepwell, monkeypatch):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(here / "nowhere")})
    code, out, err = stepwell("compare", "--out", "o")
    assert (code, out) == (2, "")
    assert err == (
        f"stepwell: task 'bytegpt' needs at least 1,000,000 bytes of Python source in {here / 'nowhere'}, found 0; "
        "give a task of your own with --task module:function\n"
    )


def test_an_earlier_report_is_replaced_whole(here, stepwell):
    (here / "o").mkdir()
    (here / "o" / "report.html").write_text("old")
    (here / "o" / "notes.txt").write_text("mine")
    code, *_ = stepwell("compare", "--task", "tiny:fit", "--recipes", "adamw", "--steps", "2", "--out", "o")
    assert code == 0
    assert written(here / "o") == ["notes.txt", "report.html", "results.json"]
    assert (here / "o" / "report.html").read_text().endswith("</html>\n")


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_names_are_shown_as_they_are(here, stepwell, more):
    (here / "named.py").write_text(
        "from dataclasses import replace\n"
        "import tiny\n"
        "def task(seed):\n"
        "    return replace(tiny.fit(seed), name='sweep [/2] :boom:')\n"
    )
    PRESETS["adamw"].save(here / "a[red]&<b>.toml")
    code, *shown = stepwell("compare", "--task", "named:task", "--recipes", "lion,a[red]&<b>.toml", *more)
    assert code == 0
    lines = shown["--json" in more].splitlines()
    assert any(line.startswith("stepwell compare  sweep [/2] :boom:: ") for line in lines)
    # Its progress, and its line of the table.
    assert sum(line.lstrip().startswith("a[red]&<b>  ") for line in lines) > 1
