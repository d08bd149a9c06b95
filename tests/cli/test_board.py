from __future__ import annotations

import io

import pytest
from rich.console import Console

from stepwell.cli.board import Board
from stepwell.cli.summary import results_table, show_whole
from stepwell.compare.results import Comparison, Evaluation, RunResult

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


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_number_of_the_results_is_cut(width):
    text = io.StringIO()
    show_whole(results_table(results(a="First", b="second " * 9)), Console(file=text, width=width))
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert cells(lines[2]) == cells("First 2.000 2 500 ms 250 ms 20 % 4 kB")
    assert cells(" ".join(lines[3:])) == cells("second " * 9 + "3.000 – – 250 ms 20 % 4 kB")
