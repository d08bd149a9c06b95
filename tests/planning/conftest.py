from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stepwell.planning import laying


@pytest.fixture
def set_depths(monkeypatch) -> Callable[[Callable[[str], int]], None]:
    """Gives parameters depths by their names, whatever the module graph says."""

    def patch(depth_of: Callable[[str], int]) -> None:
        read = laying.parameter_roles

        def with_depths(*arguments: Any) -> list[Any]:
            return [replace(entry, depth=depth_of(entry.name)) for entry in read(*arguments)]

        monkeypatch.setattr(laying, "parameter_roles", with_depths)

    return patch
