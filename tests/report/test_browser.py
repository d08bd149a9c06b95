"""The report in a real browser. Skipped, with the reason, where none is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stepwell.report import render

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=2000",
)
# Drives the page as a reader would, then writes what it found into the page.
DRIVE = """
<script>
addEventListener("load", () => {
  const chart = [...document.querySelectorAll("svg[data-unit]")].find((one) => one.getBoundingClientRect().width > 0);
  const box = chart.getBoundingClientRect();
  chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + 0.4 * box.width, clientY: box.top + 50}));
  const tip = chart.closest("figure").querySelector(".tip");
  const shown = tip.hidden ? "" : tip.innerText;
  document.querySelector("[data-toggle='1']").click();
  const hidden = [...document.querySelectorAll("[data-series='1']")].every((one) => !one.getBoundingClientRect().width);
  chart.focus();
  chart.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
  const result = document.createElement("pre");
  result.id = "driven";
  result.textContent = JSON.stringify({
    shown,
    hidden,
    without: tip.innerText,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
    charts: document.querySelectorAll("figure svg[role=img]").length,
    tables: document.querySelectorAll("table").length,
  });
  document.body.append(result);
});
</script>
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None,
        reason=f"THE REPORT WAS NOT DRIVEN IN A BROWSER: none of {', '.join(BROWSERS)} is installed",
    ),
]


def browse(page: Path, profile: Path, width: int) -> tuple[dict, str]:
    """What the driven page found, and what the browser wrote to its log."""
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="driven">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(found.group(1).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")), done.stderr


@pytest.mark.parametrize("width", [1280, 500])
def test_the_report_works_in_a_browser(make_comparison, tmp_path, width):
    page = tmp_path / "report.html"
    page.write_text(render(make_comparison()).replace("</body>", DRIVE + "</body>"), encoding="utf-8")
    found, log = browse(page, tmp_path / "profile", width)
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
