"""Clipping, and several passes a step, where steps are taken in the backward pass."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from backward_training import Weights, assert_same, descending, loss_of, network, train
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

import stepwell
from conformance.cases import assert_same_bits
from conformance.training import parameters_of, slots_of
from stepwell import Optimizer, Scheduler, rules
from stepwell.optimizer.in_backward import StepInBackward

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
        train(model, optimizer, steps=4)
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


def test_gradients_that_no_pass_has_stepped_with_are_measured_by_the_step() -> None:
    model = Weights(1, 1)
    optimizer = descending(model, clip_norm=1.0, on_nonfinite="skip")
    stepping = stepwell.step_in_backward(model, optimizer, norm="measured", chunk_bytes=0)
    for gradient in (0.0, math.nan, 3.0):
        for p in model.all:
            p.grad = torch.full_like(p, gradient)
        optimizer.step()
        assert all(p.grad is None for p in model.all)
        assert (optimizer.skipped, model.values()) == (
            int(gradient != 0.0),
            [pytest.approx(-min(1.0, gradient) / math.sqrt(2), rel=1e-5) if gradient == 3.0 else 0.0] * 2,
        )
    with stepping.accumulating():
        model.loss(3.0, 4.0).backward()
    optimizer.step()
    assert optimizer.gradient_norm == pytest.approx(5.0)
    optimizer.on_nonfinite = "raise"
    model.all[0].grad = torch.full((1,), math.inf)
    with pytest.raises(FloatingPointError, match=r"^the gradient of parameter 0 of group 0 holds NaN or infinity"):
        optimizer.step()


@pytest.mark.parametrize("norm", ["measured", "running"])
def test_torchs_functions_for_state_dicts(norm: Any) -> None:
    def made() -> tuple[nn.Module, Optimizer, StepInBackward]:
        model = network()
        optimizer = stepwell.AdamW(model.parameters(), lr=0.1, clip_norm=0.01)
        return model, optimizer, stepwell.step_in_backward(model, optimizer, norm=norm)

    def trained(model: nn.Module, optimizer: Optimizer, stepping: StepInBackward, steps: range) -> None:
        for step in steps:
            loss = loss_of(model, step)
            if norm == "measured":
                stepping.measure(loss)
            loss.backward()
            optimizer.step()

    whole, half, resumed = made(), made(), made()
    trained(*whole, range(4))
    trained(*half, range(2))
    values, state = get_state_dict(*half[:2])
    set_state_dict(*resumed[:2], model_state_dict=values, optim_state_dict=copy.deepcopy(state))
    assert resumed[1].param_groups[0]["lr"] == 0.1
    trained(*resumed, range(2, 4))
    assert_same(*resumed[:2], *whole[:2])


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
