"""What steps in the backward pass refuse, and what they say."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from backward_training import Weights, descending, network
from torch import nn

import stepwell
from stepwell import Optimizer, rules


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
    refused(ValueError, r"^norm must be one of 'running', 'measured', got 'runing' \(did you mean", norm="runing")
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


def test_a_sparse_gradient_is_refused_by_name() -> None:
    model = nn.Embedding(4, 3, sparse=True)
    optimizer = Optimizer(model.named_parameters(), rules.SGD())
    with (
        stepwell.step_in_backward(model, optimizer),
        pytest.raises(ValueError, match=r"the gradient of parameter 'weight' is sparse_coo, and only dense gradients"),
    ):
        model(torch.tensor([1])).sum().backward()


def test_parameters_that_another_optimizer_steps() -> None:
    model = network()
    optimizer = stepwell.AdamW(model.parameters())
    stepping = stepwell.step_in_backward(model, optimizer)
    again = stepwell.AdamW(model.parameters())
    with pytest.raises(ValueError, match=r" steps in backward under another optimizer; remove\(\) that first$"):
        stepwell.step_in_backward(model, again)
    stepping.remove()
    stepwell.step_in_backward(model, again).remove()


def test_an_optimizer_that_nobody_holds_steps_no_more() -> None:
    model = network()
    optimizer = stepwell.AdamW(model.parameters())
    stepwell.step_in_backward(model, optimizer)
    gone = weakref.ref(optimizer)
    del optimizer
    stepwell.step_in_backward(model, stepwell.AdamW(model.parameters()))
    assert gone() is None
