"""A comparison that was killed goes on where it stopped, and ends with the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.compare.results import Comparison
from stepwell.compare.sweep import Sweep

KILLED = """
import os, signal
from dataclasses import replace
from tiny import fit


def at(step, *, recipe_batches=None):
    def killed(seed):
        task, seen = fit(seed), []

        def batch(number):
            seen.append(number)
            if len(seen) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return task.batch(number)

        return replace(task, batch=batch, name="tiny")

    return killed


early, late, in_sweep = at(9), at(21), at(16)
SEEN = []


def whole(seed):
    task = fit(seed)

    def batch(number):
        SEEN.append(number)
        return task.batch(number)

    return replace(task, batch=batch, name="tiny")
"""


@pytest.fixture
def killed(here) -> Iterator[None]:
    """`killed.py`, whose tasks kill the process in which they are trained."""
    (here / "killed.py").write_text(KILLED)
    yield
    sys.modules.pop("killed", None)


def kill(folder: Path, *arguments: str) -> None:
    """The command in a process of its own, which its task kills."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from stepwell.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "compare", *arguments]
    ran = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    assert ran.returncode == -signal.SIGKILL


def bits(path: Path) -> list[tuple[object, ...]]:
    """All that a comparison measured but the times."""
    found = Comparison.from_json((path / "results.json").read_text())
    assert not found.interrupted
    return [
        (
            run.recipe,
            run.settings,
            run.train_loss,
            run.lr,
            [(one.step, one.loss) for one in run.evaluations],
            run.status,
        )
        for run in found.runs
    ]


@pytest.mark.parametrize("when", ["early", pytest.param("late", marks=pytest.mark.slow)])
def test_a_killed_comparison_goes_on_with_the_same_bits(when, here, killed, stepwell):
    assert stepwell("compare", "--task", "killed:whole", "--out", "expected")[0] == 0
    kill(here, "--task", f"killed:{when}", "--out", "o")
    assert [path.name for path in (here / "o").iterdir()] == ["unfinished"]
    code, _, err = stepwell("compare", "--task", "killed:whole", "--out", "o", "--resume")
    assert (code, err) == (0, "")
    assert bits(here / "o") == bits(here / "expected")
    assert sorted(path.name for path in (here / "o").iterdir()) == ["report.html", "results.json"]


def test_only_what_is_missing_is_trained(here, killed, stepwell):
    options = ("--recipes", "adamw,lion", "--steps", "12", "--out", "o")
    kill(here, "--task", "killed:late", *options)
    unfinished = here / "o" / "unfinished"
    # Four batches of preparation, then turns of one step: the 21st batch is AdamW's ninth.
    for name in ("adamw", "lion"):
        (manifest,) = (unfinished / name).glob("*/checkpoint.json")
        assert json.loads(manifest.read_text())["step"] == 8
    assert stepwell("compare", "--task", "killed:whole", *options, "--resume")[0] == 0
    assert sys.modules["killed"].SEEN == [0, 1, 0, 1, 8, 8, 9, 9, 10, 10, 11, 11]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_its_tries(here, killed, stepwell):
    options = ("--recipes", "adamw,lion", "--sweep", "--tries", "2")
    assert stepwell("compare", "--task", "killed:whole", "--out", "expected", *options)[0] == 0
    kill(here, "--task", "killed:in_sweep", "--out", "o", *options)  # in Lion's first try, of six steps each
    done = Sweep.from_json((here / "o" / "unfinished" / "sweep.json").read_text())
    assert {name: len(tries) for name, tries in done.tries.items()} == {"adamw": 2, "lion": 0}
    assert stepwell("compare", "--task", "killed:whole", "--out", "o", *options, "--resume")[0] == 0
    found, expected = (Sweep.from_json((here / name / "sweep.json").read_text()).tries for name in ("o", "expected"))
    assert found == expected
    assert bits(here / "o") == bits(here / "expected")


def test_an_interrupted_one_goes_on(here, stepwell):
    assert stepwell("compare", "--task", "tiny:fit", "--recipes", "adamw,lion", "--out", "expected")[0] == 0
    code, out, _ = stepwell("compare", "--task", "tiny:interrupted", "--recipes", "adamw,lion", "--out", "o")
    assert code == 130
    assert "go on     the same command with --resume" in out
    code, *_ = stepwell("compare", "--task", "tiny:interrupted", "--recipes", "adamw,lion", "--out", "o", "--resume")
    assert code == 0
    assert bits(here / "o") == bits(here / "expected")


def test_a_new_one_begins_anew(here, stepwell):
    assert stepwell("compare", "--task", "tiny:interrupted", "--out", "o")[0] == 130
    assert (here / "o" / "unfinished").is_dir()
    assert stepwell("compare", "--task", "tiny:fit", "--recipes", "adamw", "--steps", "3", "--out", "o")[0] == 0
    assert sorted(path.name for path in (here / "o").iterdir()) == ["report.html", "results.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "nowhere"), "there is no unfinished comparison in 'nowhere' to go on with"),
        (("--steps", "8"), "the unfinished comparison in 'o' has steps 6, this one 8; give the same, or another --out"),
        (("--seed", "3"), "the unfinished comparison in 'o' has seed 0, this one 3; give the same, or another --out"),
        (("--recipes", "adamw"), None),
    ],
)
def test_what_cannot_be_gone_on_with(here, stepwell, arguments, message):
    code, *_ = stepwell("compare", "--task", "tiny:interrupted", "--recipes", "adamw,lion", "--out", "o")
    assert code == 130
    given = {"--out": "o", "--recipes": "adamw,lion", "--task": "tiny:interrupted"} | dict([arguments])
    code, _, err = stepwell("compare", "--resume", *(part for pair in given.items() for part in pair))
    assert (code, err.count("\n")) == (2, 1)
    if message is not None:
        assert err == f"stepwell: {message}\n"
    assert (here / "o" / "unfinished" / "adamw").is_dir()


def test_a_damaged_one_is_one_line(here, stepwell):
    code, *_ = stepwell("compare", "--task", "tiny:interrupted", "--recipes", "adamw,lion", "--out", "o")
    assert code == 130
    (path,) = (here / "o" / "unfinished" / "adamw").rglob("model.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    code, _, err = stepwell("compare", "--task", "tiny:fit", "--recipes", "adamw,lion", "--out", "o", "--resume")
    assert (code, err.count("\n")) == (2, 1)
    (here / "o" / "unfinished" / "comparison.json").write_text("{")
    code, _, err = stepwell("compare", "--task", "tiny:fit", "--recipes", "adamw,lion", "--out", "o", "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be read" in err


def test_a_comparison_that_cannot_be_kept_goes_on(here, stepwell, caplog, monkeypatch):
    from stepwell import checkpoint
    from stepwell.compare import unfinished

    def refuse(*_: object, **__: object) -> None:
        raise checkpoint.CheckpointError("cannot save to o: No space left on device")

    monkeypatch.setattr(unfinished.checkpoint, "save", refuse)
    assert stepwell("compare", "--task", "tiny:fit", "--recipes", "adamw", "--out", "o")[0] == 0
    assert caplog.messages == ["this comparison cannot be resumed: cannot save to o: No space left on device"]
