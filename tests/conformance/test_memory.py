"""An elementwise step makes no temporary the size of a parameter."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from conformance.cases import Case, acting_on, rows, such_as
from conformance.training import parameter
from stepwell import Optimizer

LIMIT = 1 << 20
SHAPES = [(1024, 1025), (1 << 20,), (3,)]  # 4 MiB each in float32, 2 in bfloat16


def _largest_allocation(step: Callable[[], object]) -> int:
    """The bytes of the largest piece that torch allocates during the step, or of all that Python and NumPy do."""
    tracemalloc.start()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            step()
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return max([peak - before, *(event.self_cpu_memory_usage for event in profiler.events())])


def _optimizer(case: Case, engine: str, dtype: torch.dtype, **options: object) -> Optimizer:
    parameters = [parameter(shape, dtype, seed) for seed, shape in enumerate(SHAPES)]
    optimizer = Optimizer(parameters, case.rule, engine=engine, **options)
    for seed, p in enumerate(parameters):
        p.grad = parameter(p.shape, dtype, seed=seed + 10).detach()
    optimizer.step()  # state and kernels are made here
    return optimizer


@pytest.mark.filterwarnings("ignore::UserWarning")  # the profiler's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@rows(such_as(lambda case: "fused" in case.engines))
def test_no_temporary_above_a_mebibyte(case: Case, dtype: torch.dtype) -> None:
    optimizer = _optimizer(case, "fused", dtype, clip_norm=1.0, on_nonfinite="skip")
    assert _largest_allocation(optimizer.step) < LIMIT


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_measure_sees_temporaries_where_there_are_some() -> None:
    case = acting_on("elements")[0]
    optimizer = _optimizer(case, "foreach", torch.float32)
    assert _largest_allocation(optimizer.step) >= 4 * LIMIT
    assert _largest_allocation(lambda: torch.zeros(LIMIT // 4).numpy().copy()) >= LIMIT
