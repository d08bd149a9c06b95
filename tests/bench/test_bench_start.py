from __future__ import annotations

import pytest

from bench.start import measure, measure_imports, shapes_for
from bench.subjects import SUBJECTS


def test_shapes_that_take_no_time() -> None:
    assert all(shapes_for(subject).parameters < 1_000_000 for subject in SUBJECTS.values())


@pytest.mark.slow
def test_imports_are_timed_in_a_fresh_process() -> None:
    row = measure_imports(1)
    assert row.torch > 0
    assert row.stepwell > 0
    assert row.numba > 0


@pytest.mark.slow
def test_an_empty_cache_needs_numba_and_a_filled_one_does_not() -> None:
    _, empty, filled = measure([SUBJECTS["lion"]], repeats=1)
    assert (empty.rule, empty.cache, empty.needs_numba) == ("Lion", "empty", True)
    assert (filled.rule, filled.cache, filled.needs_numba) == ("Lion", "filled", False)
    assert min(empty.construct, empty.first_step, empty.second_step) > 0
