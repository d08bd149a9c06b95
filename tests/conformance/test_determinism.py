"""The same training twice gives the same bits, on one thread and on two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from conformance.cases import CASES, PLAIN_CASES, Case, assert_same_bits, rows, rows_and_engines, such_as
from conformance.training import parameter, parameters_of, slots_of, train, trained
from stepwell import Optimizer


@rows_and_engines(CASES)
def test_twice_the_same_bits(case: Case, engine: str) -> None:
    first, second = (trained(case, engine, clip_norm=1.0) for _ in range(2))
    assert_same_bits(parameters_of(first), parameters_of(second))
    assert_same_bits(slots_of(first), slots_of(second))


@rows_and_engines(PLAIN_CASES)
def test_the_default_device_changes_nothing(case: Case, engine: str) -> None:
    plain, other = (trained(case, engine, clip_norm=1.0) for _ in range(2))
    for optimizer in (plain, other):
        with torch.device("cpu" if optimizer is plain else "meta"):
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.eval()
    assert_same_bits(parameters_of(other), parameters_of(plain))
    assert_same_bits(slots_of(other), slots_of(plain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@rows(such_as(lambda case: "fused" in case.engines))
def test_fused_bits_do_not_depend_on_the_threads(
    case: Case, dtype: torch.dtype, set_threads: Callable[[int], None]
) -> None:
    # Several chunks a tensor, so that threads share the work of a reduction.
    results = []
    for threads in (1, 2, 2):
        set_threads(threads)
        parameters = [parameter(shape, dtype, seed) for seed, shape in enumerate([(150_001,), (7,), (70_000,)])]
        optimizer = Optimizer(parameters, case.rule, engine="fused", clip_norm=1.0)
        train(optimizer, parameters, last=2)
        results.append((parameters_of(optimizer) + slots_of(optimizer), optimizer.gradient_norm))
    for tensors, norm in results[1:]:
        assert_same_bits(tensors, results[0][0])
        assert norm == results[0][1]
