"""Pages in a real browser: driven by a script of the test's, which says what it found."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

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

in_a_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None,
        reason=f"NO PAGE WAS DRIVEN IN A BROWSER: none of {', '.join(BROWSERS)} is installed",
    ),
]


def drive(page: str, script: str, folder: Path, width: int) -> tuple[dict[str, Any], str]:
    """What the script returns on the page, once that is loaded in a window so wide, and what the browser logged.

    `script` is the body of a JavaScript function; what it returns comes back by way of JSON.
    """
    finding = f"""
<script>
addEventListener("load", () => {{
  const result = document.createElement("pre");
  result.id = "found";
  result.textContent = JSON.stringify((() => {{{script}}})());
  document.body.append(result);
}});
</script>
"""
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"{finding}</body>"), encoding="utf-8")
    command = [
        *(BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"),
        *("--dump-dom", path.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    return json.loads(html.unescape(found.group(1))), done.stderr
