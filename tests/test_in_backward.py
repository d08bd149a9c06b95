"""Steps in the backward pass: memory, clipping, accumulation, schedulers, and what cannot be."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import stepwell
from bench.memory import allocated_peak
from conformance.cases import assert_same_bits
from conformance.training import parameters_of, slots_of
from stepwell import Optimizer, Scheduler, rules
from stepwell.in_backward import StepInBackward


class Weights(nn.Module):
    """Weights whose gradients are what is asked for."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.all = nn.ParameterList([nn.Parameter(torch.zeros(size)) for size in sizes])

    def loss(self, *gradients: float) -> Tensor:
        """Each number is the gradient of every element of one of the weights; the last comes first in the pass."""
        parts = [g * p.sum() for p, g in zip(self.all, gradients, strict=True)]
        return torch.stack(parts).sum()

    def values(self) -> list[float]:
        return [p[0].item() for p in self.all]


def descending(model: nn.Module, **options: Any) -> Optimizer:
    """Plain descent: the first step from 0 leaves −g·factor."""
    return Optimizer(model.parameters(), rules.SGD(lr=1.0), **options)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(4, 6, generator=generator)
    return model(x).square().mean()


def assert_same(model: nn.Module, optimizer: Optimizer, other: nn.Module, plain: Optimizer) -> None:
    assert_same_bits([p.detach() for p in model.parameters()], [p.detach() for p in other.parameters()])
    assert_same_bits(slots_of(optimizer), slots_of(plain))


# A training loop


def test_a_network_with_a_scheduler_that_hears_one_step_each() -> None:
    weights = []
    for in_backward in (True, False):
        for counts in ("calls", "steps"):
            model = network()
            optimizer = stepwell.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
            scheduler = Scheduler(optimizer, lr=stepwell.schedules.Cosine(warmup=3), horizon=10, counts=counts)  # type: ignore[arg-type]
            if in_backward:
                stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
            for step in range(6):
                loss_of(model, step).backward()
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            assert scheduler.last_epoch == 6
            assert {state["step"] for state in optimizer.state.values()} == {6}
            weights.append([p.detach() for p in model.parameters()])
    for found in weights[1:]:
        assert_same_bits(found, weights[0])


def test_torchs_scheduler() -> None:
    model = Weights(3)
    optimizer = descending(model)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for _ in range(3):
        model.loss(1.0).backward()
        optimizer.step()
        scheduler.step()
    assert model.values() == [-1.75]


def test_the_step_is_taken_in_the_backward_pass() -> None:
    model = Weights(2, 3)
    optimizer = descending(model)
    with stepwell.step_in_backward(model, optimizer, chunk_bytes=0) as stepping:
        assert isinstance(stepping, StepInBackward)
        model.loss(1.0, 2.0).backward()
        assert model.values() == [-1.0, -2.0]
        optimizer.step()
        assert model.values() == [-1.0, -2.0]
        assert optimizer.state_dict()["state"][0]["step"] == 1


def test_small_gradients_wait_for_each_other() -> None:
    model = Weights(10, 10, 10)  # 40 bytes each
    optimizer = descending(model)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=80)
    model.loss(1.0, 2.0, 3.0).backward()
    assert sorted(model.values()) != [-3.0, -2.0, -1.0]
    assert sum(value == 0 for value in model.values()) == 1
    optimizer.step()
    assert model.values() == [-1.0, -2.0, -3.0]


def test_after_remove_all_is_as_usual() -> None:
    model = Weights(2)
    optimizer = descending(model)
    stepping = stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    model.loss(1.0).backward()
    optimizer.step()
    stepping.remove()
    model.loss(1.0).backward()
    assert model.values() == [-1.0]
    optimizer.step()
    assert model.values() == [-2.0]
    assert model.all[0].grad is not None
    stepwell.step_in_backward(model, optimizer).remove()


def test_a_copy_steps_as_usual() -> None:
    model = Weights(2)
    optimizer = descending(model)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    twin = copy.deepcopy(optimizer)
    (p,) = twin.param_groups[0]["params"]
    p.grad = torch.ones(2)
    twin.step()
    assert p.tolist() == [-1.0, -1.0]
    assert model.values() == [0.0]


def test_groups_that_are_added_and_parameters_that_are_thawed() -> None:
    model = Weights(2, 2, 2)
    model.all[1].requires_grad_(False)
    optimizer = descending(Weights(2))
    optimizer = Optimizer([model.all[0], model.all[1]], rules.SGD(lr=1.0))
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    model.loss(1.0, 1.0, 0.0).backward()
    optimizer.step()
    assert model.values() == [-1.0, 0.0, 0.0]
    model.all[1].requires_grad_()
    optimizer.add_param_group({"params": [model.all[2]], "lr": 0.5})
    model.all[2].grad = None
    for step in (1, 2):
        model.loss(1.0, 1.0, 1.0).backward()
        assert model.all[1].grad is None or step == 1  # at first they have no hook, and are left for step()
        optimizer.step()
        assert model.values() == [-1.0 - step, -1.0 * step, -0.5 * step]


def test_parameters_of_no_module_are_left_for_the_step() -> None:
    model, temperature = Weights(2), nn.Parameter(torch.zeros(1))
    optimizer = Optimizer([*model.parameters(), temperature], rules.SGD(lr=1.0))
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    (model.loss(1.0) + 3 * temperature.sum()).backward()
    optimizer.step()
    assert (model.values(), temperature.item()) == ([-1.0], -3.0)


def test_telemetry_sees_the_whole_step() -> None:
    readings = []
    for in_backward in (True, False):
        model = network()
        optimizer = stepwell.AdamW(model.parameters(), lr=0.1)
        optimizer.observe()
        if in_backward:
            stepwell.step_in_backward(model, optimizer, chunk_bytes=100)
        for step in range(2):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        readings.append(optimizer.telemetry(by="parameter"))
    assert list(readings[0]) == list(readings[1])
    assert len(readings[0]) == 6
    for name, reading in readings[1].items():
        assert readings[0][name] == pytest.approx(reading)


class Tied(nn.Module):
    """One matrix at both ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(10, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = checkpoint(self.body, self.embedding(tokens), use_reentrant=False)
        return self.head(hidden)


def test_tied_weights_and_activation_checkpoints() -> None:
    tokens = torch.arange(8)
    trained = []
    for in_backward in (True, False):
        model = Tied()
        optimizer = stepwell.AdamW(model.parameters(), lr=0.05)
        if in_backward:
            stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens), tokens).backward()
            optimizer.step()
        trained.append((model, optimizer))
    assert_same(*trained[0], *trained[1])


@pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
def test_who_reads_a_weight_after_its_step_gets_torchs_error(engine: Any) -> None:
    # A kernel writes through addresses; without a word to torch, this gradient would be wrong.
    weight, x = nn.Parameter(torch.ones(3)), torch.ones(3, requires_grad=True)
    model = nn.ParameterList([weight])
    optimizer = Optimizer(model.parameters(), rules.SGD(lr=1.0), engine=engine)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    early = x * weight.detach()  # has the weight, and gives it no gradient
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (early + weight).sum().backward()


# Memory


def test_the_gradients_held_are_those_of_one_chunk() -> None:
    width, layers, chunk = 128, 12, 150_000
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))  # 65,536 bytes each
    one = width * width * 4
    held: list[int] = []

    def look(p: Tensor) -> None:
        assert p.grad is not None
        held.append(sum(q.grad.nbytes for q in model.parameters() if q.grad is not None))

    optimizer = stepwell.AdamW(model.parameters())
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(look)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=chunk)
    for _ in range(2):
        held.clear()
        model(torch.randn(2, width)).square().mean().backward()
        assert max(held) <= chunk + one
        assert max(held) == 3 * one
        optimizer.step()


def test_the_peak_of_a_pass_falls_by_the_gradients() -> None:
    width, layers = 256, 16
    gradients = layers * width * width * 4

    def peak(in_backward: bool) -> int:
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
        optimizer = stepwell.SGD(model.parameters(), lr=0.1)
        if in_backward:
            stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
        x = torch.randn(2, width)

        def step() -> None:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

        step()
        optimizer.zero_grad()
        return allocated_peak(step)

    usual, ours = peak(False), peak(True)
    assert usual >= gradients
    # What is left: one gradient, the gradient of one activation, and a kernel's own.
    assert ours <= usual - gradients + 4 * width * width * 4


# Clipping


def test_the_running_norm_by_hand() -> None:
    # Two weights of one element; the second's gradient comes first. lr = 1, limit 1, with torch's 1e-6 left out.
    model = Weights(1, 1)
    optimizer = descending(model, clip_norm=1.0)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    order: list[int] = []
    for index, p in enumerate(model.all):
        p.register_post_accumulate_grad_hook(lambda _, index=index: order.append(index))
    model.loss(3.0, 4.0).backward()
    first, second = order
    gradients = [3.0, 4.0]
    # Nothing is known: the first is clipped by its own norm, the second by that of both, 5.
    expected = [0.0, 0.0]
    expected[first], expected[second] = -1.0, -gradients[second] / 5
    assert model.values() == pytest.approx(expected, rel=1e-5)
    optimizer.step()
    assert optimizer.gradient_norm == pytest.approx(5.0)
    # The average is 5 (bias-corrected: 0.1·5 / 0.1), above what the pass gives: 0.6, 0.8, together 1.
    model.loss(0.6, 0.8).backward()
    optimizer.step()
    expected = [expected[0] - 0.6 / 5, expected[1] - 0.8 / 5]
    assert model.values() == pytest.approx(expected, rel=1e-5)
    # Now (0.9·0.5 + 0.1·1) / (1 − 0.81) = 0.55/0.19 = 2.894…; a spike of 30 and 40 is seen as it comes.
    average = 0.55 / 0.19
    assert optimizer.param_groups[0]["running_norm"] == (pytest.approx(0.55), 2)
    model.loss(30.0, 40.0).backward()
    spike = [30.0, 40.0]
    assert average < min(spike)
    expected[first] -= 1.0
    expected[second] -= spike[second] / 50
    assert model.values() == pytest.approx(expected, rel=1e-5)


def test_below_the_limit_nothing_is_clipped() -> None:
    trained = []
    for in_backward in (True, False):
        model = network()
        optimizer = stepwell.AdamW(model.parameters(), lr=0.1, clip_norm=1e6)
        if in_backward:
            stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
        for step in range(4):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        trained.append((model, optimizer))
    assert_same(*trained[0], *trained[1])
    assert trained[0][1].gradient_norm == pytest.approx(trained[1][1].gradient_norm)


def test_the_measured_norm_clips_as_usual() -> None:
    trained = []
    for in_backward in (True, False):
        model = network()
        optimizer = stepwell.AdamW(model.parameters(), lr=0.1, clip_norm=0.01)
        options: dict[str, Any] = {"norm": "measured", "chunk_bytes": 0}
        stepping = stepwell.step_in_backward(model, optimizer, **options) if in_backward else None
        for step in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            if stepping is not None:
                norm = stepping.measure(loss)
                assert norm > 0.01
                assert all(p.grad is None for p in model.parameters())
            loss.backward()
            optimizer.step()
            if stepping is not None:
                assert optimizer.gradient_norm == norm
        trained.append((model, optimizer))
    (ours, mine), (theirs, plain) = trained
    assert mine.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-5)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_measuring_leaves_other_parameters_alone() -> None:
    model, outside = Weights(2), nn.Parameter(torch.zeros(1))
    optimizer = descending(model, clip_norm=1.0)
    stepping = stepwell.step_in_backward(model, optimizer, norm="measured")
    loss = model.loss(3.0) + 2 * outside.sum()
    assert stepping.measure(loss) == pytest.approx(3 * math.sqrt(2))
    assert outside.grad is None
    loss.backward()
    optimizer.step()
    assert outside.grad is not None
    assert outside.grad.item() == 2.0
    assert model.values() == pytest.approx([-1 / math.sqrt(2)], rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_left_out_when_measured(bad: float) -> None:
    model = Weights(2, 2)
    optimizer = Optimizer(model.parameters(), rules.AdamW(lr=0.1), clip_norm=1.0, on_nonfinite="skip")
    scheduler = Scheduler(optimizer, lr=stepwell.schedules.Linear(), horizon=10, counts="steps")
    stepping = stepwell.step_in_backward(model, optimizer, norm="measured", chunk_bytes=0)
    for gradients in ((1.0, 2.0), (bad, 1.0), (1.0, bad), (2.0, 1.0)):
        before = [t.clone() for t in parameters_of(optimizer) + slots_of(optimizer)]
        loss = model.loss(*gradients)
        stepping.measure(loss)
        loss.backward()
        optimizer.step()
        assert all(p.grad is None for p in model.parameters())
        if bad in gradients or any(map(math.isnan, gradients)):
            assert_same_bits(parameters_of(optimizer) + slots_of(optimizer), before)
    assert optimizer.skipped == 2
    assert scheduler.last_epoch == 2
    assert {state["step"] for state in optimizer.state.values()} == {2}


def test_a_gradient_that_is_not_finite_is_named_when_measured() -> None:
    model = Weights(2, 2)
    optimizer = Optimizer(model.named_parameters(), rules.SGD(lr=1.0), on_nonfinite="raise")
    stepping = stepwell.step_in_backward(model, optimizer, norm="measured", chunk_bytes=0)
    with pytest.raises(FloatingPointError, match=r"^the gradient of parameter 'all.1' holds NaN or infinity; no "):
        stepping.measure(model.loss(1.0, math.nan))
    assert model.values() == [0.0, 0.0]
    assert all(p.grad is None for p in model.parameters())


def test_training_goes_on_with_the_running_norm_that_it_had() -> None:
    def trained(steps: range, model: Weights, state: Any = None) -> Optimizer:
        optimizer = descending(model, clip_norm=1.0)
        if state is not None:
            optimizer.load_state_dict(state)
        stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
        for step in steps:
            model.loss(3.0 + step, 5.0 - step).backward()
            optimizer.step()
        return optimizer

    whole, halves = Weights(1, 2), Weights(1, 2)
    trained(range(6), whole)
    state = copy.deepcopy(trained(range(3), halves).state_dict())
    resumed = Weights(1, 2)
    resumed.load_state_dict(halves.state_dict())
    trained(range(3, 6), resumed, state)
    assert_same_bits(list(map(Tensor.detach, resumed.all)), list(map(Tensor.detach, whole.all)))


def test_a_norm_that_is_not_finite_does_not_stay() -> None:
    model = Weights(1)
    optimizer = descending(model, clip_norm=1.0)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    for gradient in (2.0, math.nan, 2.0):
        model.loss(gradient).backward()
        optimizer.step()
        with torch.no_grad():
            model.all[0].nan_to_num_(0.0)
    assert optimizer.param_groups[0]["running_norm"] == (pytest.approx(0.9 * 0.2 + 0.2), 2)


# Accumulation


def test_several_passes_a_step() -> None:
    trained = []
    for in_backward in (True, False):
        model = network()
        optimizer = stepwell.AdamW(model.parameters(), lr=0.1)
        stepping = stepwell.step_in_backward(model, optimizer, chunk_bytes=0) if in_backward else None
        for step in range(3):
            optimizer.zero_grad()
            if stepping is not None:
                with stepping.accumulating():
                    loss_of(model, 2 * step).backward()
                assert all(p.grad is not None for p in model.parameters())
            else:
                loss_of(model, 2 * step).backward()
            loss_of(model, 2 * step + 1).backward()
            optimizer.step()
        trained.append((model, optimizer))
    assert_same(*trained[0], *trained[1])


def test_a_second_pass_is_refused_and_says_how() -> None:
    model = Weights(2)
    optimizer = Optimizer(model.named_parameters(), rules.SGD(lr=1.0))
    stepping = stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    model.loss(1.0).backward()
    message = (
        r"^parameter 'all.0' got a second gradient since the last optimizer.step\(\), and the first has been used: "
        r"run all backward passes of a step but the last within `with stepping.accumulating\(\):`"
    )
    with pytest.raises(RuntimeError, match=message):
        model.loss(1.0).backward()
    model.zero_grad()
    with stepping.accumulating(), pytest.raises(RuntimeError, match=message):
        model.loss(1.0).backward()
    assert model.values() == [-1.0]


# What cannot be


def test_what_is_refused_at_once() -> None:
    model = network()
    good = stepwell.AdamW(model.parameters())

    def refused(error: type[Exception], message: str, optimizer: Any = good, **options: Any) -> None:
        with pytest.raises(error, match=message):
            stepwell.step_in_backward(options.pop("model", model), optimizer, **options)

    refused(
        TypeError,
        r"^optimizer must be a stepwell.Optimizer, got a AdamW$",
        torch.optim.AdamW(model.parameters()),
    )
    refused(ValueError, r"^norm must be one of 'running', 'measured', got 'runing'; did you mean", norm="runing")
    refused(ValueError, r"^chunk_bytes must be a whole number at least 0, got -1$", chunk_bytes=-1)
    refused(ValueError, r"^the optimizer has none of the model's parameters; give the", model=network())
    for optimizer in (stepwell.Prodigy(model.parameters()), stepwell.DAdaptAdam(model.parameters())):
        name = type(optimizer).__name__
        refused(ValueError, rf"^{name} looks at the gradients of all parameters before it updates any", optimizer)
    sam = Optimizer(model.parameters(), stepwell.sam(rules.SGD(lr=0.1)))
    refused(ValueError, r"^SAM\(SGD\)|^sam\(SGD\) looks at the gradients of all", sam)
    skipping = stepwell.AdamW(model.parameters(), on_nonfinite="skip")
    refused(ValueError, r"^on_nonfinite='skip' has to see all gradients before the first step: take norm=", skipping)
    with stepwell.step_in_backward(model, good):
        refused(ValueError, r"^the optimizer steps in backward already; remove\(\) that first$")
    stepwell.step_in_backward(model, good).remove()


def test_a_closure_is_refused() -> None:
    model = Weights(2)
    optimizer = descending(model)
    stepwell.step_in_backward(model, optimizer)
    with pytest.raises(TypeError, match=r"^an optimizer that steps in backward takes no closure: call loss.backward"):
        optimizer.step(lambda: model.loss(1.0))


def test_a_grad_scaler_is_refused() -> None:
    model = Weights(2)
    optimizer = descending(model)
    stepwell.step_in_backward(model, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model.loss(1.0)).backward()
    with pytest.raises(RuntimeError, match=r"^a GradScaler decides about a step when all gradients are there"):
        scaler.step(optimizer)


def test_measuring_in_the_wrong_place() -> None:
    model = Weights(2)
    optimizer = descending(model, clip_norm=1.0)
    with (
        stepwell.step_in_backward(model, optimizer) as running,
        pytest.raises(ValueError, match=r"^measure\(\) is for norm='measured'; the norm here is 'running'$"),
    ):
        running.measure(model.loss(1.0))
    stepping = stepwell.step_in_backward(model, optimizer, norm="measured", chunk_bytes=0)
    with pytest.raises(RuntimeError, match=r"^norm='measured' needs stepping.measure\(loss\) before loss.backward"):
        model.loss(1.0).backward()
    with pytest.raises(RuntimeError, match=r"^there are gradients already, and the pass that measures would add to "):
        stepping.measure(model.loss(1.0))


def test_a_step_between_the_passes_is_refused() -> None:
    model = Weights(2)
    optimizer = descending(model)
    stepping = stepwell.step_in_backward(model, optimizer)
    with stepping.accumulating(), pytest.raises(RuntimeError, match=r"^optimizer.step\(\) within accumulating\(\)"):
        optimizer.step()


def test_averaged_weights_are_not_trained_on() -> None:
    model = Weights(2)
    optimizer = stepwell.ScheduleFreeSGD(model.parameters(), lr=0.1)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    model.loss(1.0).backward()
    optimizer.step()
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"^the parameters hold the averaged weights; call optimizer.train"):
        model.loss(1.0).backward()


def test_a_model_whose_gradients_are_averaged_over_ranks_is_refused() -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(network())
        with pytest.raises(ValueError, match=r"^DistributedDataParallel averages gradients after they were handed"):
            stepwell.step_in_backward(model, stepwell.AdamW(model.parameters()))
        inner = network()
        shared = stepwell.AdamW(inner.parameters(), shard_state=True)
        with pytest.raises(ValueError, match=r"^parameter 0 of group 0 or its state lies on many ranks, whose messag"):
            stepwell.step_in_backward(inner, shared)
    finally:
        torch.distributed.destroy_process_group()
