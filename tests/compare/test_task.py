from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from stepwell.compare import Task, TaskError
from stepwell.compare.task import MAKING, load_task, seed_of
from stepwell.compare.training import make_model

FIELDS = {
    "model": lambda: nn.Linear(1, 1),
    "batch": lambda step: step,
    "loss": lambda _model, batch: batch,
    "validate": lambda _model: 0.0,
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty current directory whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def example() -> str:
    """The module in Task's docstring."""
    lines = Task.__doc__.splitlines()
    start = next(index for index, line in enumerate(lines) if line.strip() == "import torch")
    end = next(index for index, line in enumerate(lines) if line.strip() == ")")
    return textwrap.dedent("\n".join(lines[start : end + 1]))


def test_the_example_in_the_docstring_is_a_task(here):
    (here / "lines.py").write_text(example())
    task = load_task("lines:fit", 0)
    assert (task.name, task.steps) == ("lines:fit", 300)
    model = make_model(task, 0)
    assert task.loss(model, task.batch(0)).requires_grad
    assert task.validate(model) > 0


def test_data_that_the_function_draws_are_those_of_the_seed_and_not_the_weights(here):
    (here / "lines.py").write_text(example().replace("torch.linspace(-3, 3, 512).unsqueeze(1)", "torch.randn(512, 1)"))

    def losses(seed: int) -> float:
        task = load_task("lines:fit", seed)
        return task.validate(make_model(task, 0))

    assert losses(3) == losses(3) != losses(4)
    torch.manual_seed(3)
    drawn = torch.randn(512, 1)
    torch.manual_seed(seed_of(3, MAKING))
    assert not torch.equal(torch.randn(512, 1), drawn)  # what a model made from the seed 3 draws first


def test_a_module_in_a_package_and_a_name_of_its_own(here):
    (here / "mine").mkdir()
    (here / "mine" / "tasks.py").write_text(example().replace("steps=300", "steps=7, name='sine'"))
    task = load_task("mine.tasks:fit", 0)
    assert (task.name, task.steps) == ("sine", 7)


@pytest.mark.parametrize(
    ("spec", "source", "message"),
    [
        ("bytegtp", "", "unknown task 'bytegtp'; allowed are 'bytegpt' and module:function (did you mean 'bytegpt'?)"),
        ("lines:", "", "unknown task 'lines:'; allowed are 'bytegpt' and module:function"),
        ("./lines.py:fit", "", "unknown task './lines.py:fit'; allowed are 'bytegpt' and module:function"),
        (":fit", "", "unknown task ':fit'; allowed are 'bytegpt' and module:function"),
        ("lines:fit.it", "", "unknown task 'lines:fit.it'; allowed are 'bytegpt' and module:function"),
        (
            "line:fit",
            "",
            "unknown task module 'line': no such module in {here} or among the installed packages "
            "(did you mean 'lines'?)",
        ),
        ("lines:fit", "import nowhere", "cannot import task module 'lines': No module named 'nowhere'"),
        (
            "lines:fit",
            "\n\n1 / 0",
            "cannot import task module 'lines': ZeroDivisionError: division by zero (lines.py:3)",
        ),
        (
            "lines:fit",
            "def fit(seed:",
            "cannot import task module 'lines': SyntaxError: '(' was never closed (lines.py, line 1)",
        ),
        (
            "lines:fti",
            "def fit(seed): ...",
            "task module 'lines' has no function 'fti' (did you mean 'fit'?)",
        ),
        ("lines:fit", "fit = 3", "task 'lines:fit' must be a function of the seed, got int"),
        (
            "lines:fit",
            "def fit(): ...",
            "task 'lines:fit' must be a function that takes the seed and nothing else, got one that takes ()",
        ),
        (
            "lines:fit",
            "def fit(seed, at): ...",
            "task 'lines:fit' must be a function that takes the seed and nothing else, got one that takes (seed, at)",
        ),
        (
            "lines:fit",
            "def fit(seed): return 3",
            "task 'lines:fit' must return a stepwell.compare.Task, got int",
        ),
        (
            "lines:fit",
            "def fit(seed):\n    return open('nowhere.bin')",
            "task 'lines:fit' failed: FileNotFoundError: [Errno 2] No such file or directory: 'nowhere.bin' "
            "(lines.py:2)",
        ),
    ],
)
def test_a_task_that_cannot_be_found_or_used(here, spec, source, message):
    (here / "lines.py").write_text(source)
    with pytest.raises(TaskError) as caught:
        load_task(spec, 0)
    assert str(caught.value) == message.format(here=here)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": nn.Linear}, None),
        ({"model": 3}, "Task.model must be a function, got 3"),
        ({"batch": [1, 2]}, "Task.batch must be a function, got [1, 2]"),
        ({"steps": 0}, "Task.steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, "Task.steps must be a whole number of at least 1, got 2.5"),
        ({"steps": True}, "Task.steps must be a whole number of at least 1, got True"),
        ({"name": 7}, "Task.name must be a string, got 7"),
    ],
)
def test_fields_are_checked(change, message):
    if message is None:
        assert Task(**(FIELDS | change)).steps == 300
        return
    with pytest.raises(TaskError) as caught:
        Task(**(FIELDS | change))
    assert str(caught.value) == message
