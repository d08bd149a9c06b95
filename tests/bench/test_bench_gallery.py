from __future__ import annotations

import re

import pytest
from test_bench_table import MACHINE, REPORT, STEP

from bench import gallery
from bench.gallery import BEGIN, END, WHEN, text
from bench.records import Report, StepRow, load_all
from bench.turns import Timing

EMPTY = f"# Title\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n"


def _sections(page: str) -> dict[str, str]:
    names = re.split(r"^### (\w+)\n", page.partition(END)[0], flags=re.MULTILINE)[1:]
    return dict(zip(names[::2], names[1::2], strict=True))


def test_the_page_is_what_the_rules_and_the_results_give() -> None:
    page = gallery.PAGE.read_text(encoding="utf-8")
    assert page == text(page, load_all())


def test_every_rule_has_a_row_a_section_and_a_use() -> None:
    names = [entry.name for entry in gallery.own_entries()]
    page = text(EMPTY, [])
    assert list(_sections(page)) == names
    assert re.findall(r"^\| \[`(\w+)`\]", page, flags=re.MULTILINE) == names
    assert sorted(WHEN) == sorted(names)


def test_what_is_written_by_hand_stays() -> None:
    page = text(EMPTY, [])
    assert page.startswith(f"# Title\n\nBefore.\n\n{BEGIN}\n\n## Gallery\n")
    assert page.endswith(f"\n{END}\n\nAfter.\n")
    assert "old" not in page.splitlines()
    assert text(page, []) == page


def test_a_page_without_its_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match=r"^the page needs the two lines "):
        text(f"# Title\n{END}\n{BEGIN}\n", [])


def test_a_section() -> None:
    assert _sections(text(EMPTY, [REPORT]))["Lion"] == (
        "\nSign of an interpolated momentum "
        "(Chen et al. 2023, [arXiv:2302.06675](https://arxiv.org/abs/2302.06675), Alg. 2).\n\n"
        "```text\n"
        "θₜ = θₜ₋₁ − η·(sign(β₁·mₜ₋₁ + (1 − β₁)·gₜ) + λ·θₜ₋₁)\n"
        "mₜ = β₂·mₜ₋₁ + (1 − β₂)·gₜ\n"
        "```\n\n"
        f"- When: {WHEN['Lion']}\n"
        "- Acts on elements. State a parameter: 1 (`exp_avg`), 4 bytes.\n"
        "- A step: 50.0 ms (GPT-2 small) on AMD EPYC, 2 cores, 2 threads, AVX2.\n\n"
    )


def test_what_is_not_measured_says_so() -> None:
    sections = _sections(text(EMPTY, [REPORT]))
    assert "- A step: not measured.\n" in sections["AdamW"]
    bf16 = Report("step", MACHINE, {}, [StepRow("AdamW, all bf16", "few", 1, 1, 2, {"stepwell": Timing(1, (1.0,))})])
    assert "- A step: not measured.\n" in _sections(text(EMPTY, [bf16]))["AdamW"]


def test_the_largest_tensors_stand_for_a_rule_and_another_form_is_named() -> None:
    small = StepRow("Lion", "few", 1, 10, 20, {"stepwell": Timing(1, (1.0,))})
    momentum = StepRow("SGD + momentum", "few", 1, 10, 20, {"stepwell": Timing(1, (1.0,))})
    report = Report("step", MACHINE, {}, [small, STEP, momentum])
    assert gallery.measured("Lion", [report]) == [(MACHINE.title, STEP)]
    assert "| 50.0 ms (GPT-2 small) |" in text(EMPTY, [report])
    assert "| 1.00 ms (SGD + momentum, few) |" in text(EMPTY, [report])
