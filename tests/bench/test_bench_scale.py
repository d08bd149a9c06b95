from __future__ import annotations

import pytest
from torch import nn

from bench import scale
from bench.scale import BEGIN, END, text


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128, bias=False), nn.Linear(128, 64, bias=False), nn.Linear(64, 8, bias=False))


def test_tables_stand_between_the_marks() -> None:
    """AdamW under DDP: 64·128·2 + 64·8 = 16,896 numbers, four times four bytes of each."""
    page = text(f"Before.\n{BEGIN}\nold\n{END}\nAfter.", {"Two layers": (two_layers, {})})
    before, begin, *lines, end, after = page.splitlines()
    assert (before, begin, end, after) == ("Before.", BEGIN, END, "After.")
    assert "old" not in lines
    assert "## Two layers" in lines
    adamw = [line for line in lines if line.startswith("| AdamW | DDP |")]
    assert adamw[0] == f"| AdamW | DDP |{' 264 KiB |' * 4}"
    # 2·7/8, 2·63/64, 2·511/512 and 2·4095/4096 of 67,584 bytes.
    assert adamw[1] == "| AdamW | DDP | 116 KiB + 0 | 130 KiB + 0 | 132 KiB + 0 | 132 KiB + 0 |"
    assert sum(line.startswith("| Muon | HSDP | – | – |") for line in lines) == 2


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="the page needs the two lines"):
        text("no marks")


@pytest.mark.slow
def test_the_page_is_what_the_plans_give() -> None:
    page = scale.PAGE.read_text(encoding="utf-8")
    assert page == text(page)
