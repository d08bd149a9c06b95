"""The Triton engine's own: how it cuts tensors, counts, judges gradients, and goes into a CUDA graph.

That its kernels give what the reference gives is shown by `make test-triton`, which runs the conformance suite on them.
"""

from __future__ import annotations

import copy
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import stepwell
from conformance.cases import PLAIN_CASES, Case, assert_near, assert_same_bits, rows, such_as
from conformance.training import copies, give_gradients, parameter, parameters_of, train, weights
from engines.every_function import EveryFunction
from engines.triton_graph import Graph
from stepwell import Optimizer, Scheduler, schedules
from stepwell.rules import (
    LAMB,
    SGD,
    Adafactor,
    AdamMini,
    AdamW,
    Lion,
    NAdam,
    Prodigy,
    Rule,
    ScheduleFreeAdamW,
)
from stepwell.rules.registry import _RULES

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="make test-triton runs it, interpreted"),
]
Kernel = pytest.importorskip("stepwell.engines.fused.triton_kernels").Kernel
RULES = (
    AdamW(lr=0.05, betas=(0.8, 0.9), weight_decay=0.1),
    NAdam(lr=0.05, betas=(0.8, 0.9)),  # counts a scalar slot
    ScheduleFreeAdamW(lr=0.05, betas=(0.8, 0.9), warmup_steps=3),  # two, with branches
    LAMB(lr=0.05, betas=(0.8, 0.9)),  # a sum over each tensor
    Adafactor(lr=0.05),  # rows and columns
)
of_rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


def reference(rule: Rule, shapes: Any, dtype: torch.dtype = torch.float64, last: int = 4) -> list[Tensor]:
    """The weights after some steps in the reference engine."""
    parameters = [parameter(shape, dtype, seed) for seed, shape in enumerate(shapes)]
    train(Optimizer(parameters, rule, engine="reference"), parameters, last=last)
    return [p.detach() for p in parameters]


def test_every_function_of_the_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_RULES, "everyfunction", EveryFunction)
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        parameters = [parameter((40,), dtype)]
        train(Optimizer(parameters, EveryFunction(lr=0.01), engine="fused"), parameters)
        assert_near([parameters[0].detach()], reference(EveryFunction(lr=0.01), [(40,)]), tolerance)


# Cutting.


@pytest.mark.parametrize("rule", [SGD(lr=0.1, momentum=0.9, decay="decoupled"), LAMB(lr=0.05)], ids=["SGD", "LAMB"])
def test_every_length_of_the_last_word(rule: Rule) -> None:
    # A chunk is taken in words of 16 elements, 1,024 at once, and what remains: none, some, and all of it.
    shapes = [(size,) for size in (1, 15, 16, 17, 31, 1023, 1024, 1025, 1041, 4096, 4097, 9000)]
    parameters = [parameter(shape, seed=seed) for seed, shape in enumerate(shapes)]
    train(Optimizer(parameters, rule, engine="fused"), parameters, last=2)
    assert_near([p.detach() for p in parameters], reference(rule, shapes, last=2), 2e-6)


@pytest.mark.parametrize("rule", [Adafactor(lr=0.05), AdamMini(lr=0.05)], ids=["Adafactor", "AdamMini"])
def test_every_width_of_a_matrix(rule: Rule) -> None:
    # Tiles are 4, 32 or 256 columns wide and 2,048 elements in all; a chunk is 4,096 elements of them.
    shapes = [(1, 1), (700, 3), (1100, 4), (9, 5), (130, 32), (20, 33), (8, 256), (17, 257), (40, 512), (3, 1100)]
    parameters = [parameter(shape, seed=seed) for seed, shape in enumerate(shapes)]
    train(Optimizer(parameters, rule, engine="fused"), parameters, last=2)
    assert_near([p.detach() for p in parameters], reference(rule, shapes, last=2), 2e-6)


def test_tensors_that_begin_anywhere() -> None:
    # Views into one flat buffer, as gradient buckets and flattened parameters are: no word of 16 bytes begins there.
    rule = AdamW(lr=0.05)
    flat = torch.cat([parameter((3,)).detach(), parameter((40,), seed=0).detach(), parameter((33,), seed=1).detach()])
    views = [flat[3:43].requires_grad_(), flat[43:].detach().requires_grad_()]
    train(Optimizer(views, rule, engine="fused"), views)
    assert_near([v.detach() for v in views], reference(rule, [(40,), (33,)]), 1e-6)
    assert_same_bits([flat[:3].detach()], [parameter((3,)).detach()])


def test_a_thousand_tensors_in_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = _count_launches(monkeypatch)
    parameters = [parameter((seed % 5,), seed=seed) for seed in range(300)]
    optimizer = Optimizer(parameters, AdamW(lr=0.05), engine="fused")
    train(optimizer, parameters, last=2)
    assert launches == ["scalars", "phase0", "phase0"]  # the first does nothing: it is loaded for a graph to come


@of_rules
def test_new_numbers_write_no_new_kernel(rule: Rule) -> None:
    parameters = [parameter((4, 3))]
    optimizer = Optimizer(parameters, rule, engine="fused")
    train(optimizer, parameters, last=1)
    source = optimizer.kernel_source()
    engine = stepwell.engines.choice.fused("cpu")
    before = len(engine._kernels)
    optimizer.param_groups[0]["lr"] = 0.01
    train(optimizer, parameters, first=2, last=3)
    assert len(engine._kernels) == before
    assert optimizer.kernel_source() == source
    assert "@triton.jit" in source


def _count_launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from stepwell.engines.fused.triton_kernels import Kernel

    found: list[str] = []
    launch = Kernel.launch

    def counted(self: Kernel, name: str, *rest: Any, **compiled_in: int) -> None:
        found.append(name)
        launch(self, name, *rest, **compiled_in)

    monkeypatch.setattr(Kernel, "launch", counted)
    return found


# What is asked of the gradients.


SCALED = ({}, {"clip_norm": 0.5}, {"on_nonfinite": "skip"}, {"clip_norm": 0.5, "on_nonfinite": "skip"})


@pytest.mark.parametrize("options", SCALED, ids=str)
@of_rules
def test_a_grad_scaler_whose_answer_the_host_does_not_wait_for(rule: Rule, options: dict[str, Any]) -> None:
    shapes = [(4, 3), (40,)]

    def run(engine: str, dtype: torch.dtype) -> tuple[Optimizer, list[float | None]]:
        parameters = [parameter(shape, dtype, seed) for seed, shape in enumerate(shapes)]
        optimizer = Optimizer(parameters, rule, engine=engine, **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        norms = []
        for step in range(6):
            optimizer.zero_grad()
            overflow = math.inf if step in (2, 4) else 1.0
            losses = [(p * parameter(p.shape, dtype, 10 * step + i).detach()).sum() for i, p in enumerate(parameters)]
            scaler.scale(sum(losses) * overflow).backward()
            scaler.step(optimizer)
            scaler.update()
            norms.append(optimizer.gradient_norm)
        return optimizer, [norm for step, norm in enumerate(norms) if step not in (2, 4)]

    (ours, our_norms), (expected, norms) = run("fused", torch.float32), run("reference", torch.float64)
    assert_near(parameters_of(ours), parameters_of(expected), 2e-6)
    assert ours.skipped == expected.skipped == 2
    assert our_norms == (norms if norms[0] is None else pytest.approx(norms, rel=1e-6))
    assert [float(ours.state[p]["step"]) for p in ours.state] == [4.0, 4.0]
    assert all(isinstance(state["step"], Tensor) for state in ours.state.values())


@rows(such_as(lambda case: "fused" in case.engines and not case.measures, PLAIN_CASES))
def test_a_step_left_out_leaves_every_bit_alone(case: Case) -> None:
    parameters = weights(case)
    optimizer = Optimizer(parameters, case.rule, engine="fused", on_nonfinite="skip")
    train(optimizer, parameters, last=2)
    before = copies(all_of(optimizer))
    give_gradients(parameters, 3)
    parameters[3].grad[0, 0] = math.nan
    optimizer.step()
    assert_same_bits(all_of(optimizer), before)
    assert optimizer.skipped == 1
    train(optimizer, parameters, first=3)  # and the training goes on as if nothing had been
    expected = weights(case)
    train(Optimizer(expected, case.rule, engine="fused"), expected)
    assert_near(parameters_of(optimizer), [p.detach() for p in expected], 1e-6)


def all_of(optimizer: Optimizer) -> list[Tensor]:
    """Weights and state, the steps and scalar slots among them as float64."""
    states = [optimizer.state[p] for p in optimizer.state]
    values = [torch.as_tensor(state[name]) for state in states for name in sorted(state)]
    return parameters_of(optimizer) + [value.double() for value in values]


def test_the_norm_of_huge_gradients_is_finite() -> None:
    parameters = [parameter((40,))]
    optimizer = Optimizer(parameters, SGD(lr=0.1), engine="fused", clip_norm=1.0)
    for _ in range(2):  # the host asks at the first step, the device from then on
        parameters[0].grad = torch.full((40,), 1e30)
        optimizer.step()
        assert optimizer.gradient_norm == pytest.approx(1e30 * math.sqrt(40), rel=1e-6)


def test_what_only_the_device_knows_can_be_saved_and_loaded(tmp_path: Any) -> None:
    def made() -> tuple[list[Tensor], Optimizer]:
        parameters = [parameter((4, 3)), parameter((5,), seed=1)]
        return parameters, Optimizer(parameters, NAdam(lr=0.05), engine="fused", on_nonfinite="skip")

    parameters, optimizer = made()
    train(optimizer, parameters, last=3)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    others, other = made()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with torch.no_grad():
        for p, q in zip(others, parameters, strict=True):
            p.copy_(q)
    twin = copy.deepcopy(optimizer)
    train(optimizer, parameters, first=4, last=5)
    train(other, others, first=4, last=5)
    assert_same_bits(parameters_of(optimizer), parameters_of(other))
    twins = [p for group in twin.param_groups for p in group["params"]]
    train(twin, twins, first=4, last=5)
    assert_same_bits(parameters_of(optimizer), parameters_of(twin))


@pytest.mark.parametrize("without", [[0], [1, 2]], ids=["the first", "the others"])
def test_other_parameters_go_on_from_what_the_device_has_counted(without: list[int]) -> None:
    # Parameters that have no gradient any more make another batch of the others.
    rule = NAdam(lr=0.05, betas=(0.8, 0.9))
    parameters, expected = ([parameter((4, 3)), parameter((5,), seed=1), parameter((7,), seed=2)] for _ in range(2))
    ours = Optimizer(parameters, rule, engine="fused", on_nonfinite="skip")
    plain = Optimizer(expected, rule, engine="fused")
    for optimizer, ps in ((ours, parameters), (plain, expected)):
        train(optimizer, ps, last=3)
        give_gradients(ps, 4)
        for index in without:
            ps[index].grad = None
        optimizer.step()
        give_gradients(ps, 5)
        optimizer.step()
    assert_near(parameters_of(ours), parameters_of(plain), 1e-12 if parameters[0].dtype == torch.float64 else 1e-6)
    steps = [float(ours.state[p]["step"]) for p in parameters]
    assert steps == [4.0 if index in without else 5.0 for index in range(3)]


class WithoutReading(TorchDispatchMode):
    """An error for what would make the host wait for a GPU: a number that it reads."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(kwargs or {}))


def test_of_steps_that_none_can_leave_out_nobody_asks_the_device() -> None:
    parameters = [parameter((40,))]
    optimizer = Optimizer(parameters, AdamW(lr=0.05), engine="fused", clip_norm=0.5)
    scheduler = Scheduler(optimizer, lr=schedules.Linear(), horizon=10, counts="steps")
    train(optimizer, parameters, last=2)
    with WithoutReading():
        optimizer.step()
    assert (scheduler.last_epoch, optimizer.skipped) == (3, 0)


# A learning rate on the device, and graphs.


@of_rules
def test_a_graph_goes_on_counting(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(4, 3), (40,)]
    parameters, expected = ([parameter(shape, seed=seed) for seed, shape in enumerate(shapes)] for _ in range(2))
    ours, plain = (Optimizer(ps, rule, engine="fused") for ps in (parameters, expected))
    train(ours, parameters, last=2)
    for p in parameters:
        p.grad = torch.zeros_like(p)  # at the addresses that the graph will read
    before = copies(parameters)
    with Graph(monkeypatch) as graph:
        ours.step()
    assert_same_bits([p.detach() for p in parameters], before)
    for step in (3, 4, 5):
        given = [p.grad for p in parameters]
        give_gradients(parameters, step)
        for p, place in zip(parameters, given, strict=True):
            place.copy_(p.grad)
            p.grad = place
        graph.replay()
    assert [float(ours.state[p]["step"]) for p in parameters] == [5.0, 5.0]
    train(ours, parameters, first=6, last=7)  # and from there without the graph
    give_gradients(parameters, 8)
    for p, place in zip(parameters, given, strict=True):
        place.copy_(p.grad)
    graph.replay()
    train(plain, expected, last=8)
    assert_near(parameters_of(ours), parameters_of(plain), 1e-6)
    assert [float(ours.state[p]["step"]) for p in parameters] == [8.0, 8.0]


def test_what_the_host_adds_up_the_device_does_not_count() -> None:
    parameters, expected = [parameter((40,))], [parameter((40,))]
    train(Optimizer(parameters, Prodigy(lr=torch.tensor(1.0)), engine="fused"), parameters, last=12)
    train(Optimizer(expected, Prodigy(lr=1.0), engine="fused"), expected, last=12)
    assert_same_bits(parameters, expected)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5, "on_nonfinite": "skip"}], ids=str)
def test_a_graph_reads_the_learning_rate_and_judges(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    lr = torch.tensor(0.05)
    parameters, expected = ([parameter((40,))] for _ in range(2))
    ours = Optimizer(parameters, AdamW(lr=lr), engine="fused", **options)
    plain = Optimizer(expected, AdamW(lr=0.05), engine="fused", **options)
    for step in range(1, 7):
        give_gradients(expected, step)
        give_gradients(parameters, step)
        if step == 5:
            expected[0].grad[0] = parameters[0].grad[0] = math.inf
        rate = 0.05 / step
        lr.fill_(rate)
        plain.param_groups[0]["lr"] = float(lr)
        if step <= 2:
            ours.step()
        elif step == 3:
            place = parameters[0].grad
            with Graph(monkeypatch) as graph:
                ours.step()
            graph.replay()
        else:
            place.copy_(parameters[0].grad)
            graph.replay()
        if step != 5 or options:
            plain.step()
        else:
            break
    if options:
        assert ours.skipped == plain.skipped == 1
        assert_near(parameters_of(ours), parameters_of(plain), 1e-6)


@pytest.mark.parametrize("options", [{}, {"master": "stochastic"}, {"clip_norm": 0.5}], ids=str)
def test_what_a_graph_launches_has_been_launched_before(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel is loaded when it is first launched, and that cannot be captured."""
    before = set()
    launch = Kernel.launch

    def noted(kernel: Kernel, name: str, *arguments: Any, **compiled_in: int) -> None:
        before.add((kernel, name))
        launch(kernel, name, *arguments, **compiled_in)

    monkeypatch.setattr(Kernel, "launch", noted)
    parameters = [parameter((40,), torch.bfloat16 if "master" in options else torch.float32)]
    optimizer = Optimizer(parameters, NAdam(lr=0.05, betas=(0.8, 0.9)), engine="fused", **options)
    train(optimizer, parameters, last=2 if "clip_norm" in options else 1)
    with Graph(monkeypatch) as graph:
        optimizer.step()
    assert {name for _, name in graph.launched} >= {"scalars", "phase0"}
    assert before.issuperset(graph.launched)


def test_a_second_step_that_clips_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [parameter((4,))]
    optimizer = Optimizer(parameters, AdamW(lr=0.05), engine="fused", clip_norm=1.0)
    train(optimizer, parameters, last=1)
    with pytest.raises(RuntimeError, match=r"^a CUDA graph can capture .*\.step\(\) twice"), Graph(monkeypatch):
        optimizer.step()
    optimizer.step()
    assert optimizer.state[parameters[0]]["step"] == 2
    with Graph(monkeypatch):
        optimizer.step()


def test_a_first_step_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [parameter((4,))]
    optimizer = Optimizer(parameters, AdamW(lr=0.05), engine="fused")
    give_gradients(parameters, 1)
    with (
        pytest.raises(RuntimeError, match=r"^a CUDA graph can capture a step like one .* call optimizer.step\(\) once"),
        Graph(monkeypatch),
    ):
        optimizer.step()


def test_what_the_host_adds_up_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [parameter((4,))]
    optimizer = Optimizer(parameters, Prodigy(), engine="fused")
    train(optimizer, parameters, last=1)
    with pytest.raises(RuntimeError, match=r"^Prodigy cannot be captured in a CUDA graph"), Graph(monkeypatch):
        optimizer.step()


def test_what_the_host_decides_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [parameter((4,))]
    optimizer = Optimizer(parameters, Lion(), engine="fused", on_nonfinite="raise")
    train(optimizer, parameters, last=1)
    with pytest.raises(RuntimeError, match="on_nonfinite='raise' cannot be captured"), Graph(monkeypatch):
        optimizer.step()
