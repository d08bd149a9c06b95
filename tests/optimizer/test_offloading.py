"""State on the host: the same bits, and live groups; on a CPU, where the host is a second place."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from offloaded_training import CHOSEN, assert_same, of, pair, train_both
from torch import Tensor, nn

import stepwell
from conformance.cases import Case, assert_same_bits, rows
from conformance.storage import SHAPES, STORAGES, Kept
from conformance.training import give_gradients, parameter, parameters_of, slots_of, train, weights
from stepwell import Optimizer, Scheduler, rules
from stepwell.optimizer import offloading

# The same training


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}, {"engine": "foreach"}], ids=str)
@rows(CHOSEN)
def test_the_same_bits(case: Case, options: dict[str, Any]) -> None:
    ours, plain = pair(case, **options)
    assert isinstance(ours, Optimizer)
    train_both(ours, plain)
    assert_same(ours, plain)
    assert ours.gradient_norm == plain.gradient_norm


@pytest.mark.parametrize("kept", STORAGES, ids=str)
def test_every_storage(kept: Kept) -> None:
    ours, plain = (
        Optimizer([parameter(shape, kept.dtype, n) for n, shape in enumerate(SHAPES)], rules.AdamW(), **kept.options)
        for _ in range(2)
    )
    ours = stepwell.offload(ours)
    train_both(ours, plain)
    assert_same(ours, plain)


def test_what_lies_on_the_host_is_no_parameter() -> None:
    p = parameter((100, 50))
    optimizer = stepwell.offload(stepwell.AdamW([p], master="float32"))
    train(optimizer, [p], last=1)
    assert optimizer.param_groups[0]["params"][0] is p
    assert {name for name, value in optimizer.state[p].items() if isinstance(value, Tensor)} == {
        "exp_avg",
        "exp_avg_sq",
    }
    assert optimizer._host.param_groups[0]["params"][0].data_ptr() != p.data_ptr()
    half = parameter((100, 50), torch.bfloat16)
    optimizer = stepwell.offload(stepwell.AdamW([half], master="float32"))
    train(optimizer, [half], last=1)
    assert optimizer.state[half]["weight_master"].dtype == torch.float32


def test_groups_are_live() -> None:
    def trained(offloaded: bool) -> Optimizer:
        parameters = [parameter((4, 3), seed=seed) for seed in range(3)]
        groups = [{"params": parameters[:1], "name": "first"}, {"params": parameters[1:2], "rule": rules.Lion()}]
        optimizer = Optimizer(groups, rules.AdamW(lr=0.1))
        if offloaded:
            optimizer = stepwell.offload(optimizer)
        train(optimizer, parameters[:2], last=2)
        optimizer.param_groups[0].update(lr=0.03, weight_decay=0.4, betas=(0.5, 0.6))
        optimizer.clip_norm = 0.7
        optimizer.add_param_group({"params": parameters[2:], "lr": 0.2, "name": "later"})
        train(optimizer, parameters, first=3)
        return optimizer

    assert_same(trained(True), trained(False))


def test_schedulers() -> None:
    def trained(offloaded: bool, counts: Any) -> Optimizer:
        parameters = [parameter((4, 3))]
        optimizer: Optimizer = stepwell.AdamW(parameters, lr=0.1)
        if offloaded:
            optimizer = stepwell.offload(optimizer)
        scheduler = Scheduler(optimizer, lr=stepwell.schedules.Cosine(warmup=2), horizon=6, counts=counts)
        for step in range(1, 6):
            give_gradients(parameters, step)
            optimizer.step()
            scheduler.step()
        assert scheduler.last_epoch == 5
        return optimizer

    for counts in ("calls", "steps"):
        assert_same(trained(True, counts), trained(False, counts))


def test_parameters_without_a_gradient_stay() -> None:
    ours, plain = pair(CHOSEN[0])
    for optimizer in (ours, plain):
        train(optimizer, of(optimizer), last=2)
        give_gradients(of(optimizer), 3)
        for p in of(optimizer)[::2]:
            p.grad = None
        optimizer.step()
        train(optimizer, of(optimizer), first=4, last=5)
    assert_same(ours, plain)


def test_weights_that_were_written_behind_torchs_back_count() -> None:
    ours, plain = pair(CHOSEN[0])
    for optimizer in (ours, plain):
        train(optimizer, of(optimizer), last=2)
        of(optimizer)[3].data.clamp_(-0.1, 0.1)
        train(optimizer, of(optimizer), first=3)
    assert_same(ours, plain)


def test_a_closure() -> None:
    p = nn.Parameter(torch.zeros(2))
    optimizer = stepwell.offload(stepwell.SGD([p], lr=1.0))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 0.0
    assert p.tolist() == [-1.0, -1.0]


# Non-finite gradients and scalers


def test_a_step_that_is_not_finite_is_left_out() -> None:
    ours, plain = pair(CHOSEN[0], on_nonfinite="skip", clip_norm=1.0)
    for optimizer in (ours, plain):
        train(optimizer, of(optimizer), last=2)
        before = [t.clone() for t in parameters_of(optimizer) + slots_of(optimizer)]
        give_gradients(of(optimizer), 3, factor=math.nan)
        optimizer.step()
        assert_same_bits(parameters_of(optimizer) + slots_of(optimizer), before)
        assert optimizer.skipped == 1
        train(optimizer, of(optimizer), first=3)
    assert_same(ours, plain)


def test_a_bad_gradient_is_named() -> None:
    p = parameter((3,))
    optimizer = stepwell.offload(stepwell.AdamW([("layer.weight", p)], on_nonfinite="raise"))
    p.grad = torch.full((3,), math.inf)
    with pytest.raises(FloatingPointError, match=r"^the gradient of parameter 'layer.weight' holds NaN or infinity"):
        optimizer.step()


def test_sparse_gradients_are_refused_by_name() -> None:
    table = nn.Embedding(4, 3, sparse=True)
    table(torch.tensor([1])).sum().backward()
    optimizer = stepwell.offload(stepwell.AdamW(table.named_parameters()))
    with pytest.raises(ValueError, match=r"^the gradient of parameter 'weight' is sparse_coo, and only dense"):
        optimizer.step()


def test_a_grad_scaler() -> None:
    found = []
    for offloaded in (True, False):
        p = parameter((4, 3))
        optimizer: Optimizer = stepwell.AdamW([p], lr=0.1)
        optimizer = stepwell.offload(optimizer) if offloaded else optimizer
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale((p * parameter((4, 3), seed=step).detach()).sum() * (math.inf if step == 1 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.skipped == 1
        found.append(optimizer)
    assert_same(*found)


def test_averaged_weights() -> None:
    case = next(case for case in CHOSEN if case.name == "ScheduleFreeAdamW")
    ours, plain = pair(case)
    train_both(ours, plain, last=3)
    before = [p.clone() for p in parameters_of(ours)]
    with ours.averaged(), plain.averaged():
        assert_same_bits(parameters_of(ours), parameters_of(plain))
        assert not torch.equal(parameters_of(ours)[3], before[3])
    assert_same_bits(parameters_of(ours), before)
    for optimizer in (ours, plain):
        optimizer.eval()
        assert optimizer.param_groups[0]["holds"] == "averaged"
        with pytest.raises(RuntimeError, match=r"^the parameters hold the averaged weights; call optimizer.train"):
            optimizer.step()
        optimizer.train()
    train_both(ours, plain, first=4, last=5)
    assert_same(ours, plain)


# In the backward pass


def test_together_with_a_step_in_backward() -> None:
    trained = []
    for offloaded in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(6)))
        optimizer: Optimizer = stepwell.AdamW(model.named_parameters(), lr=0.01, clip_norm=100.0)
        if offloaded:
            optimizer = stepwell.offload(optimizer)
            stepwell.step_in_backward(model, optimizer, chunk_bytes=2000)
        optimizer.observe()
        for step in range(4):
            optimizer.zero_grad()
            model(parameter((8, 32), seed=step).detach()).square().mean().backward()
            optimizer.step()
        trained.append(optimizer)
    ours, plain = trained
    assert_same(ours, plain)
    assert ours.gradient_norm == pytest.approx(plain.gradient_norm)
    for name, reading in plain.telemetry(by="parameter").items():
        assert ours.telemetry(by="parameter")[name] == pytest.approx(reading)
    assert ours.units() == plain.units()


def test_an_error_of_the_thread_comes_out_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(4, 3)
    optimizer = stepwell.offload(stepwell.AdamW(model.parameters()))
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)

    def broken(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(optimizer._host, "_step_only", broken)
    model(torch.randn(2, 4)).sum().backward()
    with pytest.raises(OSError, match="no room"):
        optimizer.step()


# What cannot be


def test_what_is_refused() -> None:
    p = parameter((3,))
    with pytest.raises(TypeError, match=r"^optimizer must be a stepwell.Optimizer, got a AdamW$"):
        stepwell.offload(torch.optim.AdamW([p]))  # type: ignore[arg-type]
    sam = Optimizer([p], stepwell.sam(rules.SGD(lr=0.1)))
    with pytest.raises(ValueError, match=r"moves the weights between two gradients, which offloading does not serve$"):
        stepwell.offload(sam)
    model = nn.Linear(2, 2)
    optimizer = stepwell.AdamW(model.parameters())
    with (
        stepwell.step_in_backward(model, optimizer),
        pytest.raises(ValueError, match=r"^the optimizer steps in backward; offload it first, and then call step_in_"),
    ):
        stepwell.offload(optimizer)
    offloaded = stepwell.offload(optimizer)
    assert stepwell.offload(offloaded) is offloaded
    assert "def phase0(" in offloaded.kernel_source()


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
class TestOnCuda:
    """Pinned buffers, a stream of its own, and events between it and the device's work."""

    def test_the_same_bits_as_on_the_cpu(self) -> None:
        for case in CHOSEN:
            there = [p.detach().cuda().requires_grad_() for p in weights(case)]
            ours, plain = stepwell.offload(Optimizer(there, case.rule)), Optimizer(weights(case), case.rule)
            train_both(ours, plain)
            assert_same_bits([p.cpu() for p in parameters_of(ours)], parameters_of(plain))
            assert_same_bits(slots_of(ours), slots_of(plain))
            assert {slot.device.type for slot in slots_of(ours)} <= {"cpu"}

    def test_it_waits_for_gradients_that_are_still_worked_out(self) -> None:
        p = nn.Parameter(torch.zeros(1 << 22, device="cuda"))
        p.grad = torch.zeros_like(p)
        optimizer = stepwell.offload(stepwell.SGD([p], lr=1.0))
        for step in range(1, 4):
            torch.cuda._sleep(10_000_000)
            p.grad.fill_(1.0)
            optimizer.step()
            assert bool((p == -float(step)).all())
            p.grad.zero_()

    @pytest.mark.parametrize("chunk_bytes", [0, 1 << 22])
    def test_together_with_a_step_in_backward(self, chunk_bytes: int) -> None:
        trained = []
        for in_backward in (True, False):
            torch.manual_seed(0)
            model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8))).cuda()
            optimizer = stepwell.offload(stepwell.AdamW(model.parameters(), lr=1e-3))
            if in_backward:
                stepwell.step_in_backward(model, optimizer, chunk_bytes=chunk_bytes)
            for step in range(6):
                optimizer.zero_grad()
                model(parameter((64, 512), seed=step).detach().cuda()).square().mean().backward()
                optimizer.step()
            trained.append(optimizer)
        assert_same(*trained)

    def test_the_device_holds_no_state(self) -> None:
        p = nn.Parameter(torch.zeros(1 << 22, device="cuda"))
        p.grad = torch.ones_like(p)
        optimizer = stepwell.offload(stepwell.AdamW([p]))
        optimizer.step()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            optimizer.step()
        torch.cuda.synchronize()
        assert torch.cuda.memory_allocated() == before
        assert torch.cuda.max_memory_allocated() == before

    def test_buffers_are_pinned(self) -> None:
        p = nn.Parameter(torch.zeros(100, device="cuda"))
        p.grad = torch.ones_like(p)
        optimizer = stepwell.offload(stepwell.AdamW([p]))
        optimizer.step()
        (twin,) = of(optimizer._host)
        assert twin.is_pinned()
        assert twin.grad is not None
        assert twin.grad.is_pinned()


def test_a_graph_cannot_capture_what_the_host_does(monkeypatch: pytest.MonkeyPatch) -> None:
    p = parameter((4,))
    optimizer = stepwell.offload(Optimizer([p], rules.AdamW(lr=0.1)))
    train(optimizer, [p], last=1)
    before = p.detach().clone()
    with monkeypatch.context() as captured:
        captured.setattr(offloading, "capturing", lambda _: True)
        with pytest.raises(RuntimeError, match=r"^a CUDA graph cannot capture what is done with offloaded state"):
            optimizer.step()
    assert_same_bits([p.detach()], [before])
    assert optimizer.state[p]["step"] == 1
    train(optimizer, [p], first=2, last=2)
    assert optimizer.state[p]["step"] == 2
