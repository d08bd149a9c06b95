"""The names that errors propose."""

from __future__ import annotations

import pytest

from stepwell.text.naming import nearest


@pytest.mark.parametrize(
    ("name", "known", "proposed"),
    [
        ("adamw_schedule_free", ["AdamW", "ScheduleFreeAdamW"], "ScheduleFreeAdamW"),
        ("decay-layer", ["weight_decay", "layer_decay"], "layer_decay"),
        ("layerdecay", ["decay", "layer_decay"], "layer_decay"),
        ("abcdef", ["efabcd", "abcdex"], "abcdex"),  # halves are words, not any letters
        ("none", ["Cosine"], None),
    ],
)
def test_nearest(name: str, known: list[str], proposed: str | None) -> None:
    assert nearest(name, known) == (f" (did you mean {proposed!r}?)" if proposed else "")
