from __future__ import annotations

import io

import pytest
from rich.console import Console

from stepwell.catalogue import entries
from stepwell.checkpoint.contents import GroupContents, Tensors
from stepwell.cli.board import Board
from stepwell.cli.summary import (
    console,
    fair_table,
    groups_table,
    memory_table,
    optimizers_table,
    presets_table,
    results_table,
    show_whole,
)
from stepwell.compare.results import Comparison, Evaluation, RunResult
from stepwell.compare.standing import Standing
from stepwell.planning.memory import Bytes, Memory
from stepwell.planning.spreading import Spread
from stepwell.recipes import PRESETS
from stepwell.text.tabular import WIDTH

TITLES = {"a": "First", "b": "Second"}


def cells(line: str) -> list[str]:
    return line.split()


def board(console: Console) -> Board:
    return Board(console=console, columns=("loss", "time left"), titles=TITLES, total=10)


def test_plain_lines_where_there_is_no_terminal():
    text = io.StringIO()
    with board(Console(file=text, width=80)) as lines:
        for step in range(1, 11):
            lines.update("a", step, (f"{1 / step:.3f}", f"{10 - step} s"))
    assert text.getvalue().splitlines() == [
        f"First                 loss {1 / step:.3f}  time left {10 - step} s" for step in (2, 4, 6, 8, 10)
    ]


def test_a_table_in_a_terminal():
    text = io.StringIO()
    with board(Console(file=text, width=80, force_terminal=True, color_system=None)) as lines:
        lines.update("b", 10, ("0.125", "0 s"))
        lines.update("a", 3, ("diverged", ""), failed=True)
    last = text.getvalue().splitlines()[-4:-1]
    assert last[0].split()[-3:] == ["loss", "time", "left"]
    assert last[1].split()[0] == "First"
    assert "diverged" in last[1]
    assert "0.125" in last[2]


def test_a_long_title_leaves_room_for_the_numbers():
    text = io.StringIO()
    console = Console(file=text, width=60, force_terminal=True, color_system=None)
    with Board(console=console, columns=("loss", "time left"), titles={"a": "a" * 200}, total=10) as lines:
        lines.update("a", 10, ("0.125", "0 s"))
    title, _, *numbers = text.getvalue().splitlines()[-2].split()
    assert title.endswith("a…")
    assert numbers == ["0.125", "0", "s"]


def results(**titles: str) -> Comparison:
    """Of the recipes a and b, by these titles."""

    def run(name: str, loss: float) -> RunResult:
        return RunResult(
            recipe=name,
            title=titles[name],
            settings={},
            planned_steps=2,
            step_seconds=[0.25, 0.25],
            optimizer_seconds=[0.05, 0.05],
            evaluations=[Evaluation(step=2, seconds=0.5, loss=loss)],
            state_bytes=4000,
        )

    return Comparison(
        task="t",
        about="",
        seed=0,
        steps=2,
        clip_norm=1.0,
        versions={},
        threads=1,
        runs=[run("a", 2.0), run("b", 3.0)],
    )


def test_the_results_table():
    text = io.StringIO()
    show_whole(results_table(results(**TITLES)), Console(file=text, width=100))
    assert cells(text.getvalue().splitlines()[-2]) == cells("First 2.000 2 500 ms 250 ms 20 % 4 kB")
    assert cells(text.getvalue().splitlines()[-1]) == cells("Second 3.000 – – 250 ms 20 % 4 kB")


@pytest.mark.parametrize("width", [80, 200])
def test_no_number_of_the_results_is_cut(width):
    text = io.StringIO()
    show_whole(results_table(results(a="First", b="second " * 9)), Console(file=text, width=width))
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert cells(lines[2]) == cells("First 2.000 2 500 ms 250 ms 20 % 4 kB")
    assert cells(" ".join(lines[3:])) == cells("second " * 9 + "3.000 – – 250 ms 20 % 4 kB")


TABLES = {
    "results": results_table(results(a="First", b="second " * 9)),
    "fair": fair_table(
        [
            Standing(
                recipe="a",
                settings={},
                tries=16,
                diverged=3,
                losses=(1.0,),
                mean=1234.567,
                spread=0.891,
                steps_to_baseline=0.94,
                longer=0.0021,
                longer_to_baseline=0.93,
                half=1.02,
                twice=1.3,
                state_bytes=123_456_789,
            )
        ],
        {"a": "a-name-of-one-word-that-is-long"},
    ),
    "memory": memory_table(
        Memory((Bytes("t5-adafactor", 2 << 30, 3 << 30, {"row_factor": 9 << 20}, 7 << 20),), Spread(False, 1, 1))
    ),
    "groups": groups_table(
        [
            GroupContents(
                *("a-group-of-one-long-word", "AdamW", 4321, 123_456_789, 3.14e-4, 0.1, ("exp_avg", "exp_avg_sq")),
                Tensors(4, 5, 987_654_321, {"float32": 5}),
            )
        ]
    ),
    "optimizers": optimizers_table(entries(acts_on="tensors")),
    "presets": presets_table(list(PRESETS.values())),
}


@pytest.mark.parametrize("width", [24, 40, 60, 80])
@pytest.mark.parametrize("name", TABLES)
def test_a_narrow_terminal_cuts_nothing(name, width):
    def shown(width: int) -> str:
        where = Console(file=io.StringIO(), width=width)
        show_whole(TABLES[name], where)
        return where.file.getvalue()

    narrow = shown(width)
    assert "…" not in narrow
    assert all(len(line) <= width for line in narrow.splitlines())
    whole = [str(cell) for column in TABLES[name].columns for cell in column.cells if column.justify == "right"]
    assert all(narrow.count(number) >= whole.count(number) for number in whole)


def test_columns_that_have_no_room_stand_below():
    text = io.StringIO()
    show_whole(results_table(results(**TITLES)), Console(file=text, width=30))
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    assert [cells(line) for line in lines if line.startswith("First")] == [
        cells("First 2.000 2"),
        cells("First 500 ms 250 ms"),
        cells("First 20 % 4 kB"),
    ]


@pytest.mark.parametrize(("columns", "width"), [("80", 80), ("57", 57), (None, WIDTH)])
def test_a_pipe_is_as_wide_as_columns_says_or_as_a_page(monkeypatch, columns, width):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert console().width == width
