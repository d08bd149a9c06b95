"""An elementwise step makes no temporary the size of a parameter, and state is as large as a rule says."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import stepwell
from conformance.cases import CASES, PLAIN_CASES, Case, acting_on, rows, rows_and_engines, such_as
from conformance.training import give_gradients, parameter, weights
from stepwell import Optimizer, Rule, rules
from stepwell.catalogue import state_numbers

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


def _alive_after(optimizer: Optimizer, parameters: list[Tensor], step: int) -> int:
    """How many gradients are alive after a step and `zero_grad`."""
    give_gradients(parameters, step)
    gradients = [weakref.ref(p.grad) for p in parameters]
    optimizer.step()
    optimizer.zero_grad()
    return sum(gradient() is not None for gradient in gradients)


@rows_and_engines(PLAIN_CASES)
def test_a_step_holds_on_to_no_gradient(case: Case, engine: str) -> None:
    parameters = weights(case)
    optimizer = Optimizer(parameters, case.rule, engine=engine, clip_norm=1.0, on_nonfinite="skip")
    for step in range(1, 5):
        optimizer.observe(step % 2 == 0)
        assert _alive_after(optimizer, parameters, step) == 0
    assert _alive_after(stepwell.offload(optimizer), parameters, 5) == 0


def test_a_step_that_fails_or_is_taken_in_the_backward_pass_holds_on_to_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.ParameterList([parameter((3, 4)), parameter((5,))])
    optimizer = Optimizer(model.parameters(), rules.AdamW(), engine="foreach")
    assert _alive_after(optimizer, list(model), 1) == 0
    with monkeypatch.context() as broken:
        broken.setattr(rules.AdamW, "update", None)
        give_gradients(list(model), 2)
        gradients = [weakref.ref(p.grad) for p in model]
        with pytest.raises(TypeError):
            optimizer.step()
        optimizer.zero_grad()
        assert [gradient() for gradient in gradients] == [None, None]
    seen: list[weakref.ref[Tensor]] = []
    for p in model:
        p.register_post_accumulate_grad_hook(lambda p: seen.append(weakref.ref(p.grad)))
    with stepwell.step_in_backward(model, optimizer, chunk_bytes=0):
        sum(p.square().sum() for p in model).backward()
        optimizer.step()
    assert [gradient() for gradient in seen] == [None, None]


def _state_numbers(rule: Rule, shape: tuple[int, ...]) -> int:
    """The numbers that stand in an optimizer's state after a step, the count of steps aside."""
    p = parameter(shape, torch.float32, seed=0)
    p.grad = parameter(shape, torch.float32, seed=1).detach()
    optimizer = Optimizer([p], rule, engine="reference")
    optimizer.step()
    kept = [value for name, value in optimizer.state[p].items() if name != "step"]
    return sum(value.numel() if isinstance(value, torch.Tensor) else 1 for value in kept)


@rows(CASES)
def test_state_is_as_large_as_the_slots_say(case: Case) -> None:
    for shape in case.shapes:
        assert _state_numbers(case.rule, shape) == state_numbers(case.rule, shape)


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        (rules.Lion(), 24 * 96),  # one slot
        (rules.AdamMini(), 24 * 96 + 24),  # one slot, and a number a row
        (rules.Adafactor(), 24 + 96),  # no slot: a number a row and a column
        (rules.CAME(), 24 * 96 + 2 * (24 + 96)),  # the momentum; both second moments by rows and columns
        (rules.AdamW(), 2 * 24 * 96),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Rule) else "",
)
def test_state_of_a_matrix_of_24_by_96(rule: Rule, numbers: int) -> None:
    assert _state_numbers(rule, (24, 96)) == numbers


@pytest.mark.parametrize("rule", [rules.Adafactor(), rules.CAME()], ids=lambda rule: type(rule).__name__)
def test_factored_second_moments_are_sublinear(rule: Rule) -> None:
    # Sides of twice the length hold four times the numbers, and rows and columns twice as many.
    momentum = sum(slot.shape is None for slot in rule.slot_list())
    small, large = (_state_numbers(rule, (n, 4 * n)) - momentum * 4 * n * n for n in (12, 24))
    assert large == 2 * small > 0
