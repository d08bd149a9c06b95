from __future__ import annotations

import pytest

from bench import table
from bench.__main__ import main
from bench.records import Report, ScheduleRow, load
from bench.schedule import SCHEDULES, cosine, in_turn, measure, steppers
from bench.turns import Timing
from stepwell.schedules import Cosine, parse

ROW = ScheduleRow(
    "One step",
    "cosine",
    {
        "stepwell": Timing(1.0, (0.003, 0.004, 0.005)),
        "slow": Timing(1.0, (0.02,)),
        "quick": Timing(1.0, (0.01,)),
    },
    {"absent": "not installed"},
)


def test_contenders_run_the_same_schedule() -> None:
    ours = Cosine(horizon=1_000_000, warmup=1_000)
    assert [ours(step) for step in (0, 500, 1_000, 400_000)] == pytest.approx(
        [cosine(step) for step in (0, 500, 1_000, 400_000)], rel=1e-12
    )
    found, _ = steppers()
    optimizers = {name: step.__self__.optimizer for name, step in found.items()}  # type: ignore[attr-defined]
    for _ in range(3):
        for step in found.values():
            step()
    rates = {name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in optimizers.items()}
    assert all(rate == pytest.approx([0.1 * 3 / 1000] * 10) for rate in rates.values())


def test_a_row_for_each_schedule_and_one_for_the_schedulers() -> None:
    *calls, steps = measure(rounds=2)
    assert [row.subject for row in calls] == list(SCHEDULES)
    assert {"stepwell", "torch LambdaLR"} <= set(steps.timings)
    assert all(
        len(timing.rounds) == 2 and min(timing.rounds) > 0 for row in (*calls, steps) for timing in row.timings.values()
    )
    assert all(parse(row.subject).resolve(1000) for row in calls)


def test_turns_go_round() -> None:
    order = []
    timings = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert [name for name, last in zip(order[2:], order[1:], strict=False) if name != last] == ["a", "b", "a", "b"]
    assert set(timings) == {"a", "b"}


def test_a_schedule_as_a_line() -> None:
    assert ROW.ratio == pytest.approx(0.4)
    assert table.heading_of(ROW) == "One step"
    assert table.line(ROW) == "| cosine | **4.00 µs** | quick 10.00 µs | **0.40** | slow 20.00 µs |"
    alone = ScheduleRow("One call", "Linear()", {"stepwell": Timing(1.0, (0.0005,))})
    assert table.line(alone) == "| `Linear()` | **0.50 µs** | — | — | — |"


def test_a_report_comes_back_and_makes_a_section(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    main(["schedule", "--quick", "--out", str(tmp_path)])
    (path,) = tmp_path.iterdir()
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    report = load(path)
    page = table.text([report, Report("schedule", report.machine, {}, [ROW])])
    assert "### Schedules\n" in page
    assert "| `Cosine(warmup=0.1)` | **" in page
    assert "- Not measured: absent (not installed).\n" in page
