from __future__ import annotations

from pathlib import Path

import pytest
from test_bench_table import MACHINE

from bench import __main__ as command
from bench import checkpoint, table
from bench.__main__ import main
from bench.checkpoint import measure
from bench.records import CheckpointRow, Report, load, merged
from bench.shapes import Shapes
from bench.turns import Timing

SAVE = CheckpointRow(
    *("save", "GPT-2 small", 124_000_000, 1_500_000_000),
    {"stepwell": Timing(1.0, (500.0, 600.0, 700.0)), "torch.save, fsync": Timing(1.0, (800.0,))},
    {},
)
LOAD = CheckpointRow(
    *("load", "GPT-2 small", 124_000_000, 1_500_000_000),
    {"stepwell": Timing(1.0, (300.0,)), "torch.save, fsync": Timing(1.0, (400.0,))},
    {"stepwell": 8 << 20, "torch.save, fsync": None},
)


def test_figures_and_lines() -> None:
    assert SAVE.ratio == 0.75
    assert table.heading_of(SAVE) == "GPT-2 small: 124.0 M parameters"
    assert table.line(SAVE) == "| save | 1.4 GiB | **600 ms** | 800 ms | **0.75** | — | — |"
    assert table.line(LOAD) == "| load | 1.4 GiB | **300 ms** | 400 ms | **0.75** | 8.0 MiB | — |"
    assert len(table.header(SAVE)[0].split("|")) == len(table.line(SAVE).split("|"))


def test_results_come_back_and_merge(tmp_path: Path) -> None:
    report = Report("checkpoint", MACHINE, {"rounds": "3"}, [SAVE, LOAD])
    assert load(report.save(tmp_path)) == report
    assert merged(report, Report("checkpoint", MACHINE, {"rounds": "3"}, [LOAD])).rows == [SAVE, LOAD]
    assert "### Checkpoints" in table.section(report)[0]


def test_both_save_and_load_the_same() -> None:
    shapes = Shapes("tiny", "two tensors", ((30, 40), (50,)))
    save, loaded = measure(1, shapes)
    assert (save.what, loaded.what) == ("save", "load")
    assert set(save.timings) == set(loaded.timings) == set(loaded.above) == {"stepwell", checkpoint.PEER}
    assert save.size > 12 * shapes.parameters
    assert all(len(timing.rounds) == 1 for timing in (*save.timings.values(), *loaded.timings.values()))


def test_a_quick_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESULTS", Path("/nowhere"))
    monkeypatch.setattr(checkpoint, "measure", lambda *_: [SAVE, LOAD])
    main(["checkpoint", "--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "too few rounds, so nothing is saved; --out DIR saves it there"
    assert lines[-3].startswith("| load |")
