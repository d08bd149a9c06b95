"""Modules run in fresh processes, where nothing is imported and nothing is warm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent


def fresh(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a module prints last, as JSON, in a new process. Raises RuntimeError where it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
