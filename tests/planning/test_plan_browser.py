"""The page of a plan in a real browser. Skipped, with the reason, where none is installed."""

from __future__ import annotations

import pytest

import stepwell
from browsing import drive, in_a_browser
from small_models import Language

LOOK = """
  const outside = (text) => {
    const box = text.getBoundingClientRect(), frame = text.closest("svg").getBoundingClientRect();
    return box.left < frame.left || box.right > frame.right || box.bottom > frame.bottom;
  };
  return {
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
    pictures: [...document.querySelectorAll("figure svg")].map((one) => one.getBoundingClientRect().width > 200),
    cut: [...document.querySelectorAll("figure svg text")].filter(outside).map((one) => one.textContent),
    rows: document.querySelectorAll("table.rules tbody tr").length,
  };
"""

pytestmark = in_a_browser


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_reads_well(tmp_path, width):
    page = stepwell.plan(Language(), "muon", horizon=1000).to_html()
    found, log = drive(page, LOOK, tmp_path, width)
    assert "CONSOLE" not in log
    assert found == {"overflow": 0, "fetched": [], "pictures": [True], "cut": [], "rows": 4}
