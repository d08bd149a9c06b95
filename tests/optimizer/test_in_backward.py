"""Steps in the backward pass: loops, schedulers, telemetry, and memory."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from backward_training import Weights, assert_same, descending, loss_of, network, train
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import stepwell
from bench.memory import allocated_peak
from conformance.cases import assert_same_bits
from stepwell import Optimizer, Scheduler, rules
from stepwell.optimizer.in_backward import StepInBackward

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


def test_gradients_that_come_on_several_streams_wait_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are used on the stream on which they came. The streams are told by the parameters' devices here."""
    current, used = [""], []
    model = Weights(10, 10, 10, 10)
    of = dict(zip(map(id, model.all), ("first", "second", "first", "second"), strict=True))

    @contextlib.contextmanager
    def under(stream: str) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    arriving = StepInBackward._take
    stepping = StepInBackward._step

    def arrives(self: StepInBackward, p: Tensor) -> None:
        monkeypatch.setattr("stepwell.optimizer.in_backward.stream_of", lambda _: of[id(p)])
        arriving(self, p)

    def steps(self: StepInBackward, chunk: list[Tensor]) -> None:
        used.append((current[-1], {of[id(p)] for p in chunk}))
        stepping(self, chunk)

    monkeypatch.setattr("stepwell.optimizer.in_backward.under", under)
    monkeypatch.setattr(StepInBackward, "_take", arrives)
    monkeypatch.setattr(StepInBackward, "_step", steps)
    optimizer = descending(model)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=80)
    model.loss(1.0, 2.0, 3.0, 4.0).backward()
    assert sorted(used) == [("first", {"first"}), ("second", {"second"})]
    optimizer.step()
    assert model.values() == [-1.0, -2.0, -3.0, -4.0]


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
    readings, units = [], []
    for in_backward in (True, False):
        model = network()
        optimizer = stepwell.AdamW(model.parameters(), lr=0.1)
        optimizer.observe()
        if in_backward:
            stepwell.step_in_backward(model, optimizer, chunk_bytes=100)
        train(model, optimizer, steps=2)
        readings.append(optimizer.telemetry(by="parameter"))
        units.append(optimizer.units())
    assert units[0] == units[1]
    assert len(units[0]) == 2
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


# A pass that fails


def break_a_pass(model: nn.Sequential) -> None:
    """The gradients of the last layer come, those of the others do not."""

    def fail(_: Tensor) -> None:
        raise torch.OutOfMemoryError("no memory")

    hidden = model[:-1](torch.ones(4, 6))
    hidden.register_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        model[-1](hidden).square().mean().backward()


@pytest.mark.parametrize("accumulating", [False, True])
@pytest.mark.parametrize("rule", [rules.AdamW(lr=0.1), rules.Muon(lr=0.1)])
def test_a_failed_pass_whose_gradients_were_not_used_has_not_been(rule: rules.Rule, accumulating: bool) -> None:
    trained = []
    for fails in (True, False):
        model = network()
        parameters: Any = model.parameters()
        if isinstance(rule, rules.Muon):
            parameters = [p for p in parameters if p.ndim == 2]
        optimizer = Optimizer(parameters, rule, clip_norm=0.1)
        stepping = stepwell.step_in_backward(model, optimizer)
        for step in range(3):
            if fails:
                break_a_pass(model)
                optimizer.zero_grad()
            if accumulating:
                with stepping.accumulating():
                    loss_of(model, step + 10).backward()
            loss_of(model, step).backward()
            optimizer.step()
            if fails:
                break_a_pass(model)  # and the loop ends the step all the same
                optimizer.zero_grad()
                optimizer.step()
        trained.append((model, optimizer))
    assert_same(*trained[0], *trained[1])
    assert trained[0][1].param_groups[0]["running_norm"] == trained[1][1].param_groups[0]["running_norm"]


def test_a_failed_pass_whose_gradients_were_used_is_ended_by_a_step() -> None:
    model = network()
    optimizer = stepwell.AdamW(model.named_parameters(), lr=0.1)
    stepwell.step_in_backward(model, optimizer, chunk_bytes=0)
    break_a_pass(model)
    optimizer.zero_grad()
    message = (
        r"^parameter '3\.\w+' got a second gradient since the last optimizer.step\(\), and the first has been used: .*"
        r"; after a backward pass that failed, optimizer.zero_grad\(\) and optimizer.step\(\) end its step$"
    )
    with pytest.raises(RuntimeError, match=message):
        loss_of(model, 0).backward()
    optimizer.zero_grad()
    optimizer.step()
    loss_of(model, 0).backward()
    optimizer.step()
    assert [state["step"] for state in optimizer.state.values()] == [2, 2, 1, 1, 1, 1]


def test_a_second_pass_is_refused_also_where_the_first_waits() -> None:
    model = Weights(2)
    optimizer = descending(model)
    stepwell.step_in_backward(model, optimizer)
    model.loss(1.0).backward()
    with pytest.raises(RuntimeError, match=r"got a second gradient since .*, and the first waits to be used: run all"):
        model.loss(1.0).backward()


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
