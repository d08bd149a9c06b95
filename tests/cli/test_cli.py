from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stepwell as package

FULL = Path("/dev/full")


def test_version(stepwell):
    code, out, err = stepwell("--version")
    assert (code, err) == (0, "")
    assert out == f"stepwell {package.__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(stepwell, arguments):
    code, out, _ = stepwell(*arguments)
    assert code == 0
    assert "compare" in out
    assert "--version" in out


def test_help_of_compare_is_complete(stepwell):
    code, out, _ = stepwell("compare", "--help")
    assert code == 0
    for option in ("--recipes", "--task", "--steps", "--seed", "--out", "--sweep", "--tries"):
        assert option in out
    for recipe in ("adamw", "lion", "muon", "schedule-free"):
        assert f"\n   {recipe} " in out
    assert "Ctrl-C" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("comparee",), "no such command 'comparee'"),
        (("compare", "--stepz", "3"), "no such option: --stepz"),
        (("compare", "--out"), "option '--out' requires an argument"),
        (("compare", "extra"), "got unexpected extra argument"),
    ],
)
def test_a_wrong_use_is_one_line(stepwell, arguments, message):
    code, out, err = stepwell(*arguments)
    assert (code, out) == (2, "")
    assert err.lower().startswith(f"stepwell: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("advise --reference-batch-size 64", "--reference-batch-size says what .*; give --batch-size to scale it to"),
        ("advise --architecture x", "--architecture must be one of 'cnn', .*, got 'x'"),
        ("advise --optimizer x", "--optimizer must be one of 'sgd', .*, got 'x'"),
        ("advise --data x", "--data must be one of 'simple', 'complex', got 'x'"),
        ("advise adamw", ".*argument.*adamw.*; give it to one of --optimizer, --architecture, .*, --adamw-decay"),
        ("list --acts-on matrix", "--acts-on must be one of .*"),
        ("find-lr --low 1 --high 0.1 --task tiny:fit", "--high must be a finite number above 1, got 0.1"),
        ("find-lr --sweep linaer --task tiny:fit", "--sweep must be one of .*"),
        ("inspect recipe.toml", "recipe.toml is a file, .*; `stepwell migrate` reads files of other packages"),
        ("plan mun --model tiny:fit", "unknown recipe 'mun' .*, every rule of `stepwell list`, and files .*"),
        (
            "find-lr --optimizer Dion --task tiny:fit",
            r""".* as a recipe does with routes = \[{rule = "Dion", select = "role\('hidden matrix'\)"}, """
            r"""{rule = "AdamW"}\] .*""",
        ),
        ("plot recipe.toml", "recipe.toml holds a recipe and no schedule: write recipe:recipe.toml"),
        ("plot Function(function=f)", ".* needs a Python function, which no command line can give"),
        ("plot linear noam", "noam: warmup must be at most the horizon of 1000 steps, got 4000; give --horizon"),
        ("plot sequence(cosine,linear)", "sequence needs at: give at=…"),
        ("plot repeat(cosine)", "repeat needs every: give every=…"),
        ("migrate", "missing argument .?SOURCE.?"),
    ],
)
def test_an_error_speaks_as_the_command_line_does(stepwell, here, command, message):
    package.Recipe.preset("adamw").save(here / "recipe.toml")
    code, out, err = stepwell(*command.split())
    assert (code, out) == (2, "")
    assert re.fullmatch(f"stepwell: {message}\n", err), err


@pytest.mark.parametrize("arguments", [("list",), ("plot", "Cosine(warmup=0.1)", "--horizon", "100"), ("advise",)])
def test_a_stream_that_has_no_bytes_for_a_sign_gets_a_question_mark(arguments):
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    command = [sys.executable, "-m", "stepwell", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "?" in done.stdout.decode("cp1252")


@pytest.mark.skipif(not FULL.exists(), reason="a disk that is full is a file of Linux")
@pytest.mark.parametrize("arguments", ["list", "presets adamw", "plot cosine --json", "--version"])
def test_a_full_disk_is_one_line(arguments):
    with FULL.open("w") as full:
        command = [sys.executable, "-m", "stepwell", *arguments.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "stepwell: the output cannot be written: No space left on device\n")


def test_importing_the_package_imports_no_terminal():
    script = (
        "import sys, stepwell; "
        "print(sorted({'rich', 'typer', 'plotly', 'stepwell.compare', 'stepwell.cli'} & set(sys.modules)))"
    )
    source = str(next(iter(package.__path__)) + "/..")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
    )
    assert done.stdout == "[]\n"


def test_as_a_module(stepwell):
    done = subprocess.run([sys.executable, "-m", "stepwell", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == stepwell("--version")[1]


def test_what_the_command_line_needs_is_named_where_it_is_missing():
    code = "import sys; sys.modules['typer'] = None; from stepwell.cli import main; main(['list'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stepwell: the command line needs typer: pip install 'stepwell[cli]'\n"
