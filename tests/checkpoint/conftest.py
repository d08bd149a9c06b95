from __future__ import annotations

from collections.abc import Callable

import pytest

from checkpoint.small_training import Training, training


@pytest.fixture
def make() -> Callable[..., Training]:
    return training
