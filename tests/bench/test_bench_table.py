from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import table
from bench.machine import Machine
from bench.records import ImportRow, MemoryRow, Report, StartRow, StepRow, load, load_all, merged
from bench.turns import Timing

MACHINE = Machine(
    processor="AMD EPYC",
    cores=2,
    threads=2,
    instructions="AVX2",
    device="AMD EPYC",
    system="Linux",
    python="3.11.7",
    torch="2.13.0",
    numba="0.61.0",
    stepwell="0.1.0",
    date="2026-01-02",
)
STEP = StepRow(
    rule="Lion",
    shapes="GPT-2 small",
    tensors=148,
    parameters=100_000_000,
    bytes_per_parameter=20,
    timings={
        "stepwell": Timing(900.0, (50.0, 40.0, 60.0)),
        "slow": Timing(300.0, (250.0, 240.0, 260.0)),
        "quick": Timing(100.0, (100.0, 90.0, 1000.0)),
        "equal pass": Timing(45.0, (45.0, 45.0, 45.0)),
    },
    missing={"absent": "not installed"},
    note="slow overwrites the gradients",
)
REPORT = Report("step", MACHINE, {"rounds": "3"}, [STEP])


def test_the_page_is_what_the_results_give() -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.text(load_all())


def test_figures_of_a_row() -> None:
    assert STEP.peers == ["quick", "slow"]
    assert STEP.ratio == 50.0 / 100.0
    assert STEP.share == 45.0 / 50.0
    assert STEP.gigabytes_per_second("stepwell") == pytest.approx(20 * 0.1 / 0.05)


def test_a_step_as_a_line() -> None:
    assert table.heading_of(STEP) == "GPT-2 small: 148 tensors, 100.0 M parameters"
    assert (
        table.line(STEP) == "| Lion | **50.0 ms** | 40.0 | 90% of 44.4 GB/s | quick 100 ms | **0.50** | slow 250 ms |"
    )


def test_a_step_without_peers_and_without_a_pass() -> None:
    row = StepRow("Muon", "2 matrices", 2, 131_072, None, {"stepwell": Timing(1.0, (1.0,))})
    assert table.heading_of(row) == "2 matrices: 2 tensors, 131,072 parameters"
    assert table.line(row) == "| Muon | **1.00 ms** | — | — | — | — | — |"


def test_memory_and_start_as_lines() -> None:
    memory = MemoryRow("AdamW", "GPT-2 small", 124_439_808, "stepwell", 12_288, None)
    assert table.line(memory) == "| AdamW | stepwell | 12.0 KiB | — |"
    assert table.line(ImportRow(1.5, 0.07, 0.25)) == "| 1.500 s | 0.070 s | 0.250 s |"
    start = StartRow("Lion", "300 tensors of 768", "empty", 0.001, 1.2, 0.0004, True)
    assert table.line(start) == "| Lion | empty | 0.001 s | 1.200 s | 0.000 s | yes |"


def test_sizes_and_times_keep_their_digits() -> None:
    assert [table.size(n) for n in (12, 1536, 200 << 20, 1 << 30)] == ["12 B", "1.5 KiB", "200 MiB", "1.0 GiB"]
    assert [table.milliseconds(n) for n in (0.2, 12.34, 4711.0)] == ["0.20 ms", "12.3 ms", "4,711 ms"]


def test_a_page_has_a_chapter_for_each_machine_and_says_what_is_missing() -> None:
    page = table.text([REPORT])
    assert "## AMD EPYC, 2 cores, 2 threads, AVX2\n" in page
    assert (
        "stepwell 0.1.0, torch 2.13.0, Numba 0.61.0, Python 3.11.7, Linux, 2 threads, 2026-01-02. Rounds: 3.\n" in page
    )
    assert "- Lion: slow overwrites the gradients.\n- Not measured: absent (not installed).\n" in page


def test_what_a_gpu_has_besides() -> None:
    machine = replace(MACHINE, device="NVIDIA H200", triton="3.7.1")
    row = replace(STEP, host={"stepwell": 0.0854, "quick": 0.3})
    settings = {"rounds": "9", "peers": "torch 2", "GB/s of a copy": "4312"}
    page = table.text([Report("step", machine, settings, [row])])
    assert "2 threads, Triton 3.7.1, 2026-01-02. Rounds: 9; peers: torch 2; GB/s of a copy: 4312.\n" in page
    assert "- Lion, until the host goes on: stepwell 85.40 µs, quick 300.00 µs.\n" in page
    again = Report("step", machine, {**settings, "GB/s of a copy": "4298"}, [row])
    assert merged(again, Report("step", machine, settings, [row])).settings["GB/s of a copy"] == "4298 to 4312"


def test_reports_come_back_from_their_files(tmp_path: Path) -> None:
    start = Report("start", MACHINE, {}, [ImportRow(1.5, 0.1, 0.2), StartRow("Lion", "few", "empty", 0, 1, 0, True)])
    memory = Report("memory", MACHINE, {}, [MemoryRow("AdamW", "few", 12, "stepwell", 100, 200)])
    paths = [report.save(tmp_path) for report in (REPORT, start, memory)]
    assert [path.name for path in paths] == [
        f"{what}-amd-epyc-2-cores-avx2.json" for what in ("step", "start", "memory")
    ]
    assert [load(path) for path in paths] == [REPORT, start, memory]
    assert load_all(tmp_path) == [memory, start, REPORT]


def test_writing_the_page(tmp_path: Path) -> None:
    REPORT.save(tmp_path / "results")
    page = table.write(tmp_path / "docs" / "benchmarks.md", tmp_path / "results")
    assert page.read_text(encoding="utf-8") == table.text([REPORT])


def test_a_part_is_merged_into_what_was_measured_before() -> None:
    adam, lion, small = replace(STEP, rule="AdamW"), STEP, replace(STEP, shapes="300 tensors of 768")
    old = Report("step", MACHINE, {"rounds": "9", "peers": "timm 1, torch 2"}, [adam, lion, small])
    again, first = replace(STEP, note="again"), replace(STEP, rule="RMSprop")
    later = replace(MACHINE, date="2026-02-01")
    new = Report("step", later, {"rounds": "11", "peers": "optimi 3, torch 2"}, [again, first])
    found = merged(old, new)
    assert found.rows == [adam, again, first, small]
    assert found.settings == {"rounds": "9 to 11", "peers": "optimi 3, timm 1, torch 2"}
    assert found.machine.date == "2026-01-02 to 2026-02-01"
    assert merged(found, new) == found
    assert "2026-01-02 to 2026-02-01. Rounds: 9 to 11; peers: optimi 3" in table.text([found])


def test_contenders_of_a_subject_are_replaced_together() -> None:
    ours, gone = MemoryRow("AdamW", "few", 12, "stepwell", 100, 0), MemoryRow("AdamW", "few", 12, "gone", 100, 0)
    other, fresh = MemoryRow("SGD", "few", 12, "stepwell", 100, 0), MemoryRow("AdamW", "few", 12, "stepwell", 50, 0)
    old, new = (Report("memory", MACHINE, {}, rows) for rows in ([ours, gone, other], [fresh]))
    assert merged(old, new).rows == [fresh, other]
