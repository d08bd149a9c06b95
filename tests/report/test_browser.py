"""The report in a real browser. Skipped, with the reason, where none is installed."""

from __future__ import annotations

import re

import pytest

from browsing import drive, in_a_browser
from stepwell.report import render

# Drives the page as a reader would.
DRIVE = """
  const chart = [...document.querySelectorAll("svg[data-unit]")].find((one) => one.getBoundingClientRect().width > 0);
  const box = chart.getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 0.4 * box.width, clientY: box.top + 50}));
  const tip = chart.closest("figure").querySelector(".tip");
  const shown = tip.hidden ? "" : tip.innerText;
  document.querySelector("[data-toggle='1']").click();
  const hidden = [...document.querySelectorAll("[data-series='1']")].every((one) => !one.getBoundingClientRect().width);
  chart.focus();
  chart.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
  return {
    shown,
    hidden,
    without: tip.innerText,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
    charts: document.querySelectorAll("figure svg[role=img]").length,
    tables: document.querySelectorAll("table").length,
  };
"""

pytestmark = in_a_browser


@pytest.mark.parametrize("width", [1280, 500])
def test_the_report_works_in_a_browser(make_comparison, tmp_path, width):
    found, log = drive(render(make_comparison()), DRIVE, tmp_path, width)
    assert "CONSOLE" not in log
    assert found["fetched"] == []
    assert found["overflow"] == 0
    assert found["charts"] == 2 * 2 + 4 + 4  # curves wide and narrow, schedules, tries
    assert found["tables"] == 4
    title, *lines = [line for line in found["shown"].splitlines() if line]
    assert re.fullmatch(r"step \d+", title)
    assert {"AdamW + cosine", "Lion + cosine", "Muon + AdamW", "Schedule-Free AdamW"} <= set(lines)
    assert found["hidden"]
    assert "Lion + cosine" not in found["without"]
    assert "Muon + AdamW" in found["without"]
