"""The fused engine on a real GPU: agreement, streams and devices, graphs, and that the host waits for nothing."""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.cases import DTYPES, PLAIN_CASES, Case, assert_near, assert_same_bits, such_as
from conformance.storage import STORAGES, Kept, assert_alike
from conformance.training import parameter, parameters_of
from stepwell import Optimizer, Scheduler, schedules
from stepwell.algebra import tensors
from stepwell.engines.choice import fused
from stepwell.optimizer import preparing
from stepwell.rules import LAMB, SGD, Adafactor, AdamW, Lion, NAdam, Rule, ScheduleFreeAdamW

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
triton_products = pytest.importorskip("stepwell.algebra.triton_products")
RULES = (
    AdamW(lr=0.05, betas=(0.8, 0.9), weight_decay=0.1),
    NAdam(lr=0.05, betas=(0.8, 0.9)),
    ScheduleFreeAdamW(lr=0.05, betas=(0.8, 0.9), warmup_steps=3),
    LAMB(lr=0.05, betas=(0.8, 0.9)),
    Adafactor(lr=0.05),
)
of_rules = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
SHAPES = ((4, 3), (40,), (300, 1100))


def on_gpu(shapes: Any, dtype: torch.dtype = torch.float32, device: str = "cuda") -> list[Tensor]:
    """Parameters of these shapes on a GPU, each with a gradient that stays where it is."""
    found = [parameter(shape, dtype, seed).detach().to(device).requires_grad_() for seed, shape in enumerate(shapes)]
    for p in found:
        p.grad = torch.zeros_like(p)
    return found


def give(parameters: list[Tensor], step: int) -> None:
    """The gradients of a step, put where the gradients are."""
    for index, p in enumerate(parameters):
        assert p.grad is not None
        p.grad.copy_(parameter(p.shape, seed=1000 * step + index).detach())


def train(optimizer: Optimizer, parameters: list[Tensor], first: int = 1, last: int = 4) -> None:
    """Some steps."""
    for step in range(first, last + 1):
        give(parameters, step)
        optimizer.step()


def test_a_symmetric_product_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MIRRORED", 128)
    programs = torch.cuda.get_device_properties("cuda").multi_processor_count  # that fill the GPU
    for shape, in_tiles in (
        ((1504, 704), programs <= 78),
        ((programs, 272, 144), True),
        ((programs, 300, 144), False),  # rows that do not begin at whole words are left to torch
        ((programs, 272, 100), False),
    ):
        x = parameter(shape).detach().to("cuda", torch.bfloat16)
        assert tensors._in_tiles(x) == in_tiles
        ours, whole = triton_products.symmetric(x, x.mT), (x.float() @ x.float().mT)
        torch.testing.assert_close(ours.float(), whole, rtol=2**-7, atol=2**-7 * float(whole.abs().max()))
        assert_same_bits([ours], [ours.mT])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one device")
def test_a_symmetric_product_on_a_device_that_is_not_the_current_one() -> None:
    x = parameter((24, 512, 512)).detach().to("cuda:1", torch.bfloat16)
    ours, whole = triton_products.symmetric(x, x.mT), (x.float() @ x.float().mT)
    torch.testing.assert_close(ours.float(), whole, rtol=2**-7, atol=2**-7 * float(whole.abs().max()))


def reference(rule: Rule, shapes: Any, last: int = 4, **options: Any) -> list[Tensor]:
    """The weights after some steps in the reference engine, on the GPU in float64."""
    parameters = on_gpu(shapes, torch.float64)
    train(Optimizer(parameters, rule, engine="reference", **options), parameters, last=last)
    return [p.detach() for p in parameters]


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """An error for whatever makes the host wait for the device."""
    torch.cuda.synchronize()
    _when_waiting("error")
    try:
        yield
    finally:
        _when_waiting("default")


def _when_waiting(mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this is a prototype
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case.name}-{dtype}")
        for case in such_as(lambda case: "fused" in case.engines)
        for dtype in DTYPES
        if case in PLAIN_CASES or dtype == torch.float32
    ],
)
def test_agreement(case: Case, dtype: torch.dtype) -> None:
    parameters = on_gpu(case.shapes, dtype)
    optimizer = Optimizer(parameters, case.rule, engine="fused")
    train(optimizer, parameters)
    assert_near([p.detach() for p in parameters], reference(case.rule, case.shapes), case.tolerance(dtype))


@of_rules
def test_large_and_small_tensors_in_one_launch(rule: Rule) -> None:
    shapes = [(1 << 22,), *[(size,) for size in range(1, 60)], (513, 4097), (50_000, 3)]
    parameters = on_gpu(shapes)
    train(Optimizer(parameters, rule, engine="fused"), parameters, last=2)
    assert_near([p.detach() for p in parameters], reference(rule, shapes, last=2), 1e-5)


@of_rules
def test_twice_the_same_bits(rule: Rule) -> None:
    results = []
    for _ in range(2):
        parameters = on_gpu(((1 << 20,), (513, 257)))
        train(Optimizer(parameters, rule, engine="fused", clip_norm=1.0), parameters)
        results.append([p.detach() for p in parameters])
    assert_same_bits(*results)


def test_tensors_that_begin_anywhere() -> None:
    rule = AdamW(lr=0.05)
    first, second = (parameter(shape, seed=seed).detach() for seed, shape in enumerate(((5000,), (33,))))
    flat = torch.cat([torch.zeros(3), first, second]).cuda()
    views = [flat[3:5003].requires_grad_(), flat[5003:].detach().requires_grad_()]
    for view in views:
        view.grad = torch.zeros_like(view)
    train(Optimizer(views, rule, engine="fused"), views)
    assert_near([v.detach() for v in views], reference(rule, ((5000,), (33,))), 1e-6)
    assert not flat[:3].any()


OPTIONS = ({}, {"clip_norm": 0.5}, {"on_nonfinite": "skip"}, {"clip_norm": 0.5, "on_nonfinite": "skip"})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@of_rules
def test_the_host_waits_for_nothing(rule: Rule, options: dict[str, Any]) -> None:
    parameters = on_gpu(SHAPES)
    optimizer = Optimizer(parameters, rule, engine="fused", **options)
    train(optimizer, parameters, last=2)
    with without_waiting():
        for step in (3, 4):
            optimizer.param_groups[0]["lr"] = rule.lr / step
            optimizer.step()


def test_a_scheduler_that_counts_steps_waits_for_none_that_only_clips() -> None:
    parameters = on_gpu(SHAPES)
    optimizer = Optimizer(parameters, AdamW(lr=0.05), engine="fused", clip_norm=0.5)
    scheduler = Scheduler(optimizer, lr=schedules.Linear(), horizon=10, counts="steps")
    train(optimizer, parameters, last=2)
    with without_waiting():
        optimizer.step()
    assert scheduler.last_epoch == 3


def test_an_overflow_is_left_out_without_waiting() -> None:
    parameters, expected = on_gpu(SHAPES), on_gpu(SHAPES)
    rule = AdamW(lr=0.05)
    ours, plain = Optimizer(parameters, rule, engine="fused"), Optimizer(expected, rule, engine="fused")
    ours.grad_scale, ours.found_inf = torch.ones((), device="cuda"), torch.zeros((), device="cuda")
    train(ours, parameters, last=2)
    give(parameters, 3)
    ours.found_inf.fill_(1.0)
    with without_waiting():
        ours.step()
    ours.found_inf.fill_(0.0)
    train(ours, parameters, first=3)
    train(plain, expected)
    assert_near([p.detach() for p in parameters], [p.detach() for p in expected], 1e-6)
    assert ours.skipped == 1
    assert float(ours.state[parameters[0]]["step"]) == 4.0


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@of_rules
def test_a_graph_goes_on_counting(rule: Rule, options: dict[str, Any]) -> None:
    parameters, expected = on_gpu(SHAPES), on_gpu(SHAPES)
    lr = torch.tensor(rule.lr, device="cuda")
    ours = Optimizer(parameters, rule.but(lr=lr), engine="fused", **options)
    plain = Optimizer(expected, rule, engine="fused", **options)
    train(ours, parameters, last=3)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for step in (4, 5, 6):
        lr.fill_(rule.lr / step)
        give(parameters, step)
        graph.replay()
    train(plain, expected, last=3)
    for step in (4, 5, 6):
        plain.param_groups[0]["lr"] = float(lr.fill_(rule.lr / step))
        train(plain, expected, first=step, last=step)
    assert_near([p.detach() for p in parameters], [p.detach() for p in expected], 1e-5)
    assert float(ours.state[parameters[0]]["step"]) == 6.0


def test_a_whole_training_step_in_a_graph() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)).cuda()
    x, y = torch.randn(128, 32, device="cuda"), torch.randn(128, 1, device="cuda")
    optimizer = Optimizer(model.parameters(), AdamW(lr=1e-2), engine="fused", clip_norm=1.0)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        first, *_ = (step().item() for _ in range(3))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for _ in range(50):
        graph.replay()
    assert loss.item() < 0.5 * first
    assert float(optimizer.state[model[0].weight]["step"]) == 53.0


@pytest.mark.filterwarnings("ignore")  # the compiler's own, such as of TensorFloat32
def test_a_compiled_model() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)).cuda()
    compiled = torch.compile(model, mode="reduce-overhead")
    x, y = torch.randn(128, 32, device="cuda"), torch.randn(128, 1, device="cuda")
    optimizer = Optimizer(model.parameters(), Lion(lr=1e-3), engine="fused")
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(compiled(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_on_a_stream_of_its_own() -> None:
    parameters = on_gpu(((1 << 22,),))
    optimizer = Optimizer(parameters, SGD(lr=0.1), engine="fused")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        parameters[0].grad.fill_(1.0)  # waits for the sleep, and the step for this
        optimizer.step()
    stream.synchronize()
    expected = parameter((1 << 22,)).detach().cuda() - 0.1
    assert_near([parameters[0].detach()], [expected], 1e-6)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one device")
def test_several_devices_in_one_optimizer() -> None:
    parameters = [*on_gpu(SHAPES, device="cuda:1"), *on_gpu(SHAPES, device="cuda:0")]
    optimizer = Optimizer(parameters, AdamW(lr=0.05), engine="fused", clip_norm=1.0)
    expected = on_gpu(SHAPES * 2, torch.float64)
    with torch.no_grad():
        for p, q in zip(parameters, expected, strict=True):
            q.copy_(p)
    plain = Optimizer(expected, AdamW(lr=0.05), engine="reference", clip_norm=1.0)
    train(optimizer, parameters)
    train(plain, expected)
    assert_near([p.detach().cpu() for p in parameters], [p.detach().cpu() for p in expected], 1e-5)


def test_a_thousand_steps_leak_nothing() -> None:
    parameters = on_gpu(SHAPES)
    optimizer = Optimizer(parameters, AdamW(lr=0.05), engine="fused", clip_norm=1.0, on_nonfinite="skip")
    train(optimizer, parameters, last=5)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for step in range(1000):
        optimizer.param_groups[0]["lr"] = 0.05 / (1 + step)
        optimizer.step()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_infinite_gradients_clip_as_torch_clips() -> None:
    parameters, expected = on_gpu(SHAPES), on_gpu(SHAPES)
    ours = Optimizer(parameters, SGD(lr=0.1), engine="fused", clip_norm=0.5)
    plain = torch.optim.SGD(expected, lr=0.1)
    for step, bad in ((1, 1.0), (2, math.inf)):
        for ps in (parameters, expected):
            give(ps, step)
            ps[0].grad[0, 0] *= bad
        torch.nn.utils.clip_grad_norm_(expected, 0.5)
        ours.step()
        plain.step()
    assert_near([p.detach() for p in parameters], [p.detach() for p in expected], 1e-5)


def test_the_page_runs_as_written() -> None:
    page = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {}
    exec(compile(block, "gpu.md", "exec", dont_inherit=True), scope)
    torch.cuda.synchronize()
    assert {float(state["step"]) for state in scope["optimizer"].state.values()} == {103.0}


# Storage, telemetry, matrices.


@pytest.mark.parametrize("kept", STORAGES, ids=str)
def test_every_storage(kept: Kept) -> None:
    # The bits of chance are the same in every engine, and on every device.
    shapes = ((7,), (18, 256), (300, 1100))
    found = []
    for engine in ("fused", "foreach"):
        parameters = on_gpu(shapes, kept.dtype)
        found.append(Optimizer(parameters, AdamW(lr=0.05), engine=engine, **kept.options))
        train(found[-1], parameters, last=1)
    assert_alike(*found, kept)


@pytest.mark.parametrize("kept", STORAGES, ids=str)
def test_a_graph_goes_on_with_the_bits_of_chance(kept: Kept) -> None:
    parameters, expected = on_gpu(SHAPES, kept.dtype), on_gpu(SHAPES, kept.dtype)
    ours, plain = (Optimizer(ps, AdamW(lr=0.05), engine="fused", **kept.options) for ps in (parameters, expected))
    train(ours, parameters, last=2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for step in (3, 4):
        give(parameters, step)
        graph.replay()
    train(plain, expected)
    # Where the host and the device round a bias correction to two neighbours, a number may be rounded to another one.
    for p, q in zip(parameters_of(ours), parameters_of(plain), strict=True):
        assert float((p != q).double().mean()) < 0.02


@of_rules
def test_telemetry_without_waiting(rule: Rule) -> None:
    parameters = on_gpu(SHAPES)
    optimizer = Optimizer(parameters, rule, engine="fused", clip_norm=1.0)
    optimizer.observe()
    train(optimizer, parameters, last=2)
    before = [p.detach().clone() for p in parameters]
    with without_waiting():
        optimizer.step()
    readings, units = optimizer.telemetry(by="parameter"), optimizer.units()
    assert [found.total for found in units.values()] == [p.shape[0] for p in parameters if p.ndim > 1]
    assert all(found.dead == 0 for found in units.values())
    for reading, p, was in zip(readings.values(), parameters, before, strict=True):
        for name, tensor in (("update", p.detach() - was), ("weight", was)):
            expected = float(tensor.double().square().mean().sqrt())
            assert reading[f"{name}_rms"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_auto_is_fused_on_a_gpu() -> None:
    assert fused("cuda") is not None
    optimizer = Optimizer(on_gpu(SHAPES), AdamW(lr=0.05))
    assert "@triton.jit" in optimizer.kernel_source()


@pytest.mark.parametrize("engine", ["fused", "foreach"])
def test_a_model_that_is_moved_between_steps(engine: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The parameters stay the same objects; their state follows them, and the engine is that of where they are."""
    preparing._say_moved.cache_clear()
    model, other = torch.nn.Linear(64, 32), torch.nn.Linear(64, 32)
    other.load_state_dict(model.state_dict())
    optimizer = Optimizer(model.parameters(), AdamW(lr=0.05), engine=engine, clip_norm=1.0)
    plain = Optimizer(other.parameters(), AdamW(lr=0.05), engine="reference", clip_norm=1.0)
    for step, device in enumerate(("cpu", "cuda", "cuda", "cpu", "cuda")):
        model.to(device)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            q.grad = parameter(q.shape, seed=step).detach()
            p.grad = q.grad.to(device)
        optimizer.step()
        plain.step()
        held = [slots[name] for slots in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        assert {slot.device.type for slot in held} == {device}
    assert_near([p.detach().cpu() for p in model.parameters()], [p.detach() for p in other.parameters()], 1e-5)
    assert "was moved" in caplog.text
