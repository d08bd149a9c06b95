from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from stepwell.text.values import shown

MODEL = nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (None, "None"),
        ("x" * 100, f"'{'x' * 78}…"),
        ([0.5] * 100, f"[{'0.5, ' * 15}0.5…"),
        (10**90, f"1{'0' * 78}…"),
        (MODEL, "a Sequential"),
        (list(MODEL.parameters()), "a list of 40"),
        (stepwell.AdamW(MODEL.parameters()), "an AdamW"),
        (stepwell.schedules.Cosine(warmup=0.1), "Cosine(warmup=0.1)"),
    ],
)
def test_a_value_is_a_short_line(value: Any, text: str) -> None:
    assert shown(value) == text


def test_the_type_is_told_once() -> None:
    assert shown("0.1", typed=True) == "'0.1' of type str"
    assert shown(MODEL, typed=True) == "a Sequential"


def test_arguments_in_another_order_and_of_another_kind_are_named_on_one_line() -> None:
    optimizer = torch.optim.AdamW(MODEL.parameters())
    swapped = "takes the model first, then the recipe, got 'muon' and a Sequential"
    for make, message in (
        (lambda: stepwell.plan("muon", MODEL), f"plan {swapped}"),
        (lambda: stepwell.create_optimizer("muon", MODEL), f"create_optimizer {swapped}"),
        (
            lambda: stepwell.create_scheduler("cosine", optimizer, horizon=5),
            "create_scheduler takes the optimizer first, then the schedule, got 'cosine' and an AdamW",
        ),
        (
            lambda: stepwell.Scheduler(optimizer, lr=MODEL, horizon=5),
            "lr must be a schedule, such as Cosine(warmup=0.1), got a Sequential; its base stands in the optimizer",
        ),
        (
            lambda: stepwell.AdamW(MODEL.parameters(), lr=list(MODEL.parameters())),
            "lr must be a number at least 0, got a list of 40",
        ),
        (
            lambda: stepwell.rules.lookahead(MODEL),
            "lookahead takes a stepwell.Rule such as stepwell.rules.AdamW(), got a Sequential",
        ),
    ):
        with pytest.raises(TypeError) as refused:
            make()
        assert str(refused.value) == message
