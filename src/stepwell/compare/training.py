"""One recipe's run: its loop, its clock, its evaluations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from stepwell.compare.contestants import Contestant, ContestantError, Settings
from stepwell.compare.results import Evaluation, Group, RunResult
from stepwell.compare.task import Task, TaskError, batch_of, blame, seed_of
from stepwell.optimizer.describing import describe


class Run:
    """A model in training under one recipe, advanced a few steps at a time.

    The clock counts the steps alone (batch, loss, backward, optimizer, scheduler), so runs may take turns on one
    machine and be evaluated as often as wanted. Every step is seeded from the run's seed and its own number, so turns
    change nothing else either.

    Args:
        task: what is trained.
        contestant: how.
        settings: its hyper-parameters.
        steps: the length of the run, which the schedule spans.
        seed: of the model's weights and of every step.
        weights: the state dict to start from; by default those that the model is made with.
    """

    def __init__(
        self,
        task: Task,
        contestant: Contestant,
        settings: Settings,
        *,
        steps: int,
        seed: int,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        self.task = task
        self.seed = seed
        self.model = make_model(task, seed)
        if weights is not None:
            with blame(task.name):
                self.model.load_state_dict(copied(weights))
        try:
            self.optimizer, self.scheduler = contestant.build(self.model, settings, steps)
        except (TypeError, ValueError) as error:
            raise ContestantError(f"recipe {contestant.name!r} cannot train this model: {error}") from error
        groups = describe_groups(self.optimizer)
        self._wait = clock_barrier(self.model)
        self.result = RunResult(
            recipe=contestant.name,
            title=contestant.title,
            settings=dict(settings),
            planned_steps=steps,
            groups=groups,
            lr={group.name: [] for group in groups},
        )

    @property
    def ended(self) -> bool:
        return self.result.status != "interrupted"

    def advance(self, until: int, watch: Callable[[Run], None] | None = None) -> None:
        """Trains until step `until`, or until the loss is not finite."""
        while self.result.steps < until and not self.ended:
            self._step(self.result.steps)
            if watch is not None:
                watch(self)

    def evaluate(self) -> None:
        """Measures the validation loss, at the averaged weights where the optimizer keeps an average."""
        if self.result.diverged_at is not None:
            return
        self.model.eval()
        with blame(self.task.name), self.optimizer.averaged(), torch.no_grad():
            loss = validation_loss(self.task, self.model)
        self.model.train()
        if math.isfinite(loss):
            seconds = sum(self.result.step_seconds)
            self.result.evaluations.append(Evaluation(step=self.result.steps, seconds=seconds, loss=loss))
        else:
            self.result.diverged_at = self.result.steps

    def _step(self, step: int) -> None:
        torch.manual_seed(seed_of(self.seed, step))
        self._wait()
        start = time.perf_counter()
        loss = self._backward(step)
        value = loss.item()
        if not math.isfinite(value):
            self.result.diverged_at = step
            return
        self._wait()
        before = time.perf_counter()
        rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.optimizer.step()
        self._wait()
        after = time.perf_counter()
        self.scheduler.step()
        self.optimizer.zero_grad()
        end = time.perf_counter()
        if step == 0:
            self.result.state_bytes = state_bytes(self.optimizer)
        self.result.train_loss.append(value)
        for recorded, rate in zip(self.result.lr.values(), rates, strict=True):
            recorded.append(rate)
        self.result.optimizer_seconds.append(after - before)
        self.result.step_seconds.append(end - start)  # last: the step counts once all of it is recorded

    def _backward(self, step: int) -> Tensor:
        batch = batch_of(self.task, step)
        with blame(self.task.name):
            loss = self.task.loss(self.model, batch)
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise TaskError(
                    f"task {self.task.name!r}: loss must be a scalar that needs a gradient, got {kind(loss)}"
                )
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()


def make_model(task: Task, seed: int) -> nn.Module:
    """The task's model in training mode, made from the seed."""
    torch.manual_seed(seed)
    with blame(task.name):
        model = task.model()
    if not isinstance(model, nn.Module):
        raise TaskError(f"task {task.name!r}: model must return a torch.nn.Module, got {type(model).__name__}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TaskError(f"task {task.name!r}: model has no parameter to train")
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(value):
            raise TaskError(
                f"task {task.name!r}: {name!r} has no shape yet: run one forward pass through its lazy module first"
            )
    return model.train()


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """A model's state dict on its own: also what `get_extra_state` gave, which may be anything."""
    return {name: value.clone() if isinstance(value, Tensor) else deepcopy(value) for name, value in state.items()}


def validation_loss(task: Task, model: nn.Module) -> float:
    """What the task's validation gives, as a number.

    Raises:
        TaskError: if it is none.
    """
    found: object = task.validate(model)
    if isinstance(found, Tensor | np.ndarray):
        if found.size == 1 if isinstance(found, np.ndarray) else found.numel() == 1:
            return float(found.item())
        got = f"{'a tensor' if isinstance(found, Tensor) else 'an array'} of shape {tuple(found.shape)}"
    elif hasattr(found, "__float__"):
        return float(found)
    else:
        got = type(found).__name__
    raise TaskError(f"task {task.name!r}: Task.validate must return a number, got {got}")


def kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a tensor of shape {tuple(value.shape)}" if value.numel() != 1 else "a tensor that needs none"


def clock_barrier(model: nn.Module) -> Callable[[], None]:
    """What has to be called before the clock is read: an accelerator works on while Python runs ahead."""
    device = next(model.parameters()).device
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.accelerator.synchronize(device)


def describe_groups(optimizer: Optimizer) -> list[Group]:
    """The parameter groups, each under a name of its own."""
    groups: list[Group] = []
    for row, held in zip(describe(optimizer).rows, optimizer.param_groups, strict=True):
        taken = {group.name for group in groups}
        groups.append(
            Group(
                name=row.group if row.group not in taken else f"{row.group} ({len(groups)})",
                rule=row.rule,
                tensors=row.tensors,
                weights=row.parameters,
                # A scheduler has already set `lr` to the start of its warm-up; the base is what the recipe chose.
                lr=float(held.get("initial_lr", held["lr"])),
                weight_decay=row.weight_decay or 0.0,
                role=row.role,
                why=row.why,
            )
        )
    return groups


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors in the optimizer's state."""
    return sum(tensor_bytes(value) for state in optimizer.state.values() for value in state.values())


def tensor_bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0
