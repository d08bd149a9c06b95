from __future__ import annotations

from stepwell.schedules import Constant


def test_without_warmup_it_is_one_everywhere() -> None:
    assert [Constant()(step) for step in (0, 1, 10, 10**9)] == [1.0, 1.0, 1.0, 1.0]


def test_warmup_rises_from_zero_to_one() -> None:
    # transformers' get_constant_schedule_with_warmup: t / 4 for t < 4, then 1.
    schedule = Constant(warmup=4)
    assert [schedule(step) for step in range(7)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert schedule(10**9) == 1.0
