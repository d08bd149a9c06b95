"""Offloaded optimizers and the same ones without, for tests."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import stepwell
from conformance.cases import PLAIN_CASES, Case, assert_same_bits, such_as
from conformance.training import numbers_of, parameters_of, slots_of, train, weights
from stepwell import Optimizer
from stepwell.optimizer.offloading import Offloaded

# Whatever is offloaded is worked out by the CPU's engines, which have tests of their own: one rule of each kind.
CHOSEN = such_as(
    lambda case: (
        case.name
        in ("SGD", "AdamW", "LAMB", "Adafactor", "Muon", "SOAP", "Prodigy", "NAdam", "ScheduleFreeAdamW", "ema(AdamW)")
    ),
    PLAIN_CASES,
)


def pair(case: Case, **options: Any) -> tuple[Offloaded, Optimizer]:
    """An optimizer with its state offloaded, and the same without."""
    ours, plain = (Optimizer(weights(case), case.rule, **options) for _ in range(2))
    return stepwell.offload(ours), plain


def of(optimizer: Optimizer) -> list[Tensor]:
    """Its parameters."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def assert_same(ours: Optimizer, plain: Optimizer) -> None:
    assert_same_bits(parameters_of(ours), parameters_of(plain))
    assert_same_bits(slots_of(ours), slots_of(plain))
    assert numbers_of(ours) == numbers_of(plain)


def train_both(one: Optimizer, other: Optimizer, **steps: int) -> None:
    for optimizer in (one, other):
        train(optimizer, of(optimizer), **steps)
