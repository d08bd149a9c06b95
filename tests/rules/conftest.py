from __future__ import annotations

from collections.abc import Iterator

import pytest

from rules.walking import Walk, in_the_optimizer, on_floats
from stepwell.rules.registry import _RULES


@pytest.fixture(params=[on_floats, in_the_optimizer], ids=["on floats", "in the optimizer"])
def walk(request: pytest.FixtureRequest) -> Walk:
    """`walk(rule, weight, gradients)` gives the weight and the slots by name after each update."""
    return request.param


@pytest.fixture
def own_rules_are_forgotten() -> Iterator[None]:
    """Rules that a test defines are gone after it."""
    before = dict(_RULES)
    yield
    _RULES.clear()
    _RULES.update(before)
