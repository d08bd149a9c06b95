from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_bench_table import MACHINE

from bench import __main__ as command
from bench import ranks, table
from bench.__main__ import main
from bench.records import RanksRow, Report, load, merged
from bench.shapes import Shapes
from bench.subjects import SUBJECTS
from bench.turns import Timing

PARTS, STATE = (
    RanksRow("Muon", "2 matrices", 8_000, way, 2, Timing(9.0, (400.0, 500.0, 600.0)), Timing(8.0, (together,)))
    for way, together in ((ranks.FSDP2, 300.0), (ranks.STATE, 350.0))
)


def test_figures_and_lines() -> None:
    assert PARTS.ratio == 0.6
    assert table.heading_of(PARTS) == "2 matrices: 8,000 parameters"
    assert table.line(PARTS) == "| Muon | FSDP2 | 2 | 500 ms | **300 ms** | **0.60** |"
    assert len(table.header(PARTS)[0].split("|")) == len(table.line(PARTS).split("|"))


def test_results_come_back_and_merge(tmp_path: Path) -> None:
    report = Report("ranks", MACHINE, {"rounds": "9"}, [PARTS, STATE])
    assert load(report.save(tmp_path)) == report
    assert merged(report, Report("ranks", MACHINE, {"rounds": "9"}, [STATE])).rows == [PARTS, STATE]
    assert "### Many ranks" in table.section(report)[0]


@pytest.mark.slow
def test_two_ranks_step_as_one_does() -> None:
    shapes = Shapes("tiny", "three matrices", ((6, 8), (7, 5), (4, 4)))
    rows = list(ranks.measure(2, shapes))
    assert [row.way for row in rows] == [ranks.FSDP2, ranks.STATE]
    assert all(len(times.rounds) == 2 for row in rows for times in (row.alone, row.together))


def test_weights_that_have_gone_elsewhere_are_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: 0)
    weights = [torch.ones(4, 4)]
    ranks._check_same(weights, [weights[0] * (1 + 1e-6)], SUBJECTS["muon"])
    with pytest.raises(RuntimeError, match=r"^Muon: weights on many ranks are off by 1\.0e-02 of their norm$"):
        ranks._check_same(weights, [weights[0] * 1.01], SUBJECTS["muon"])


def test_a_quick_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RESULTS", Path("/nowhere"))
    monkeypatch.setattr(ranks, "measure", lambda *_: [PARTS])
    main(["ranks", "--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "too few rounds, so nothing is saved; --out DIR saves it there"
    assert lines[-3].startswith("| Muon | FSDP2 |")
