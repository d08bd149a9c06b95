from __future__ import annotations

import pytest

from bench import presets
from bench.presets import BEGIN, END, text
from stepwell.recipes import PRESETS


def test_the_page_is_what_the_presets_give() -> None:
    page = presets.PAGE.read_text(encoding="utf-8")
    assert page == text(page)


def test_a_row_for_each_preset() -> None:
    before, begin, *lines, end, after = text(f"Before.\n{BEGIN}\nold\n{END}\nAfter.").splitlines()
    assert (before, begin, end, after) == ("Before.", BEGIN, END, "After.")
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    assert [row[0] for row in rows] == [f"| `{name}`" for name in PRESETS]
    original = next(row for row in rows if row[0] == "| `muon-original`")
    assert original[1:6] == ["Muon, AdamW", "0.02, 0.0003", "–", "0.01", "`Cosine(warmup=0.1)`"]
    assert next(row for row in rows if row[0] == "| `vit-finetune`")[2] == "0.004, × 0.75 a block"


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page needs the two lines"):
        text("no marks")
