"""The torch object that runs schedules: it writes every scheduled hyper-parameter of every group before each step."""

from __future__ import annotations

import logging
import numbers
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stepwell.naming import nearest
from stepwell.schedules import Constant, Cosine, Linear, Schedule

_LOG = logging.getLogger("stepwell")

_SHAPES: dict[str, type[Schedule]] = {"constant": Constant, "linear": Linear, "cosine": Cosine}


class Scheduler(LRScheduler):
    """Runs schedules of the learning rate, or of any other hyper-parameter, on any torch optimizer.

        scheduler = Scheduler(optimizer, lr=Cosine(warmup=0.1), weight_decay=Linear(end=0.5), horizon=10_000)

    The constructor sets the values of step 0; call `step()` after each `optimizer.step()`. In every group that has the
    hyper-parameter, the value is the group's base times the schedule's factor, so groups keep their ratios. The base is
    what stands in the group when the scheduler first sees it, and is kept there as torch does: `initial_lr`,
    `initial_weight_decay`, … A group added in mid-training is scheduled from the next `step()` on.

    It is a torch `LRScheduler`, whose only state is the step: `last_epoch`, `base_lrs`, `get_last_lr()` and
    `state_dict()` are what torch users expect. Unlike torch's own, it neither patches the optimizer nor warns about the
    order of the first calls, which cannot be told from a first step that a GradScaler skipped.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        horizon: total optimizer steps, at least 1, for the schedules that have no horizon of their own.
        last_epoch: the last step done, to go on without a state dict, as in torch; the groups must then hold their
            `initial_…` values, as those of a loaded optimizer do. -1 starts at step 0.
        schedules: the schedule of each hyper-parameter, under its name in the groups. One element of a tuple goes by
            its index: `**{"betas[0]": Linear(end=0.9)}`.

    Raises:
        TypeError: an unknown hyper-parameter, or one that is not a number; something that is not a schedule.
        ValueError: no schedule; a horizon that is needed and not known; a length that does not fit in it; or
            `last_epoch` is given and a group lacks its base.
    """

    def __init__(
        self, optimizer: Optimizer, *, horizon: int | None = None, last_epoch: int = -1, **schedules: Schedule
    ) -> None:
        # torch's constructor is not called: it wraps optimizer.step() to count calls for a warning that is wrong
        # where a GradScaler skips the first step.
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if not schedules:
            raise ValueError("a Scheduler needs at least one schedule, such as lr=Cosine(warmup=0.1)")
        _check_step("last_epoch", last_epoch, least=-1)
        self.optimizer = optimizer
        self._entries = {name: _entry(name, optimizer) for name in schedules}
        self.schedules = {name: _resolved(name, schedule, horizon) for name, schedule in schedules.items()}
        self.last_epoch = last_epoch
        if last_epoch >= 0:
            self._check_bases()
        self._initial_step()

    @property
    def base_lrs(self) -> list[Any]:
        """The learning rate of each group that its factor multiplies; kept in the group as `initial_lr`."""
        return [_plain(group.get("initial_lr", group["lr"])) for group in self.optimizer.param_groups]

    @base_lrs.setter
    def base_lrs(self, values: list[Any]) -> None:
        for group, value in zip(self.optimizer.param_groups, values, strict=True):
            group["initial_lr"] = value

    def step(self, epoch: int | None = None) -> None:
        """Set every scheduled hyper-parameter for the next optimizer step, or for step `epoch`."""
        self._step_count += 1
        self._update_lr(epoch)

    def get_lr(self) -> list[Any]:
        """The learning rate of each group at the current step: its base times the schedule's factor."""
        if "lr" not in self.schedules:
            return [_copy(group["lr"]) for group in self.optimizer.param_groups]
        factor = self.schedules["lr"](self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The step, and the schedules as text, so that a resume under another schedule is noticed."""
        return {
            "step": self.last_epoch,
            "schedules": {name: repr(schedule) for name, schedule in self.schedules.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *, schedule: Literal["same", "this"] = "same") -> None:
        """Go to the saved step and set its values at once; says "next lr = …, was …" on the logger "stepwell" (INFO).

        Args:
            state_dict: what `state_dict()` gave.
            schedule: "same" refuses a state that was saved under other schedules; "this" goes on at the saved step
                under the schedules of this scheduler.

        Raises:
            ValueError: the state is not a Scheduler's, or was saved under other schedules. Nothing has changed then.
        """
        if schedule not in ("same", "this"):
            raise ValueError(f"schedule must be 'same' or 'this', got {schedule!r}")
        if "step" not in state_dict:
            raise ValueError(f"not the state of a stepwell Scheduler: it has no 'step', but {list(state_dict)}")
        _check_step("step", state_dict["step"], least=0)
        if schedule == "same":
            self._check_same(state_dict.get("schedules", {}))
        before = self._first_values()
        self._update_lr(state_dict["step"])
        after = self._first_values()
        changes = "; ".join(f"next {name} = {after[name]:.4g}, was {before[name]:.4g}" for name in after)
        groups = len(self.optimizer.param_groups)
        _LOG.info("resumed at step %d: %s%s", self.last_epoch, changes, f" (first of {groups} groups)" * (groups > 1))

    def _update_lr(self, epoch: int | None = None) -> None:
        if epoch is not None:
            _check_step("epoch", epoch, least=0)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        for name, entry in self._entries.items():
            factor = self.schedules[name](self.last_epoch)
            for group in self.optimizer.param_groups:
                if entry.stands_in(group):
                    entry.write(group, entry.base(group) * factor)
        self._last_lr = [_copy(group["lr"]) for group in self.optimizer.param_groups]

    def _check_bases(self) -> None:
        for name, entry in self._entries.items():
            for index, group in enumerate(self.optimizer.param_groups):
                if entry.stands_in(group) and entry.base_name not in group:
                    raise ValueError(
                        f"group {index} has no {entry.base_name!r}, the base that the schedule of {name} multiplies: "
                        "load the optimizer's state before giving last_epoch"
                    )

    def _check_same(self, saved: Mapping[str, str]) -> None:
        ours = {name: repr(schedule) for name, schedule in self.schedules.items()}
        for name in {**ours, **saved}:
            there, here = saved.get(name, "none"), ours.get(name, "none")
            if there != here:
                raise ValueError(
                    f"the saved schedule of {name} is {there}, this scheduler's is {here}; "
                    "load_state_dict(state, schedule='this') goes on with this scheduler's"
                )

    def _first_values(self) -> dict[str, float]:
        """What stands now in the first group that has it, for each scheduled hyper-parameter."""
        return {
            name: float(next(entry.read(group) for group in self.optimizer.param_groups if entry.stands_in(group)))
            for name, entry in self._entries.items()
        }


@dataclass(frozen=True)
class _Entry:
    """One number in a parameter group: a hyper-parameter, or the element of one that is a tuple."""

    name: str
    index: int | None = None

    @cached_property
    def base_name(self) -> str:
        return f"initial_{self.name}"

    def stands_in(self, group: Mapping[str, Any]) -> bool:
        value = group.get(self.name)
        if self.index is None:
            return _is_number(value)
        return isinstance(value, (tuple, list)) and self.index < len(value) and _is_number(value[self.index])

    def base(self, group: dict[str, Any]) -> Any:
        """The value that factors multiply: kept in the group from when it is first seen."""
        if self.base_name not in group:
            group[self.base_name] = _plain(group[self.name])
        return _plain(self._pick(group[self.base_name]))

    def read(self, group: Mapping[str, Any]) -> Any:
        return self._pick(group[self.name])

    def write(self, group: dict[str, Any], value: Any) -> None:
        live = self.read(group)
        if isinstance(live, Tensor):
            live.fill_(value)  # in place, as torch does: a captured graph reads this very tensor
        elif self.index is None:
            group[self.name] = value
        else:
            elements = group[self.name]
            group[self.name] = type(elements)((*elements[: self.index], value, *elements[self.index + 1 :]))

    def _pick(self, value: Any) -> Any:
        return value if self.index is None else value[self.index]


def _entry(name: str, optimizer: Optimizer) -> _Entry:
    """The entry called `name`. Raises TypeError where no group of the optimizer has it as a number."""
    match = re.fullmatch(r"(\w+)\[(\d+)\]", name)
    entry = _Entry(match[1], int(match[2])) if match else _Entry(name)
    if not any(entry.stands_in(group) for group in optimizer.param_groups):
        known = list(dict.fromkeys(key for group in optimizer.param_groups for key in _schedulable(group)))
        elements = [key for key in known if key.startswith(f"{name}[")]
        if elements:
            raise TypeError(f"{name} is not one number: schedule {' or '.join(elements)}")
        hint = nearest(name, [*known, "horizon", "last_epoch"])
        raise TypeError(f"no group of the optimizer has a number {name!r}; there are {', '.join(known)}{hint}")
    return entry


def _schedulable(group: Mapping[str, Any]) -> Iterator[str]:
    for name, value in group.items():
        if name == "params" or name.startswith("initial_"):
            continue
        if _is_number(value):
            yield name
        elif isinstance(value, (tuple, list)):
            yield from (f"{name}[{index}]" for index, element in enumerate(value) if _is_number(element))


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, (float, int, numbers.Real)) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """A tensor as a number: a base stays what it is while the live value is written in place."""
    if isinstance(value, Tensor):
        return value.item()
    return type(value)(map(_plain, value)) if isinstance(value, (tuple, list)) else value


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _resolved(name: str, schedule: Any, horizon: int | None) -> Schedule:
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"{name} must be a schedule, such as Cosine(warmup=0.1), got {schedule!r}; its base stands in the optimizer"
        )
    return schedule.resolve(horizon)


def _check_step(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of steps (int), got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")


def create_scheduler(
    optimizer: Optimizer,
    schedule: str | Schedule,
    *,
    horizon: int | None = None,
    warmup: int | float = 0,
    **options: Any,
) -> Scheduler:
    """A scheduler of the learning rate: `create_scheduler(optimizer, "cosine", horizon=10_000, warmup=0.1)`.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        schedule: "constant", "linear" or "cosine" (upper or lower case), or a schedule.
        horizon: total optimizer steps, at least 1; only "constant" with a warm-up in steps can do without.
        warmup: steps (int), or a share of the horizon (float strictly between 0 and 1).
        options: what else the named schedule takes, such as `end=0.1`.

    Raises:
        ValueError: an unknown name, or a value out of range.
        TypeError: an option that the named schedule does not take, or options beside a schedule that carries its own.
    """
    if isinstance(schedule, Schedule):
        beside = {**({"warmup": warmup} if warmup else {}), **options}
        if beside:
            raise TypeError(f"{schedule!r} carries its own arguments: give {', '.join(beside)} to it, not beside it")
        return Scheduler(optimizer, horizon=horizon, lr=schedule)
    shape = _SHAPES.get(str(schedule).casefold())
    if shape is None:
        hint = nearest(schedule, _SHAPES) if isinstance(schedule, str) else ""
        raise ValueError(f"unknown schedule {schedule!r}; there are {', '.join(_SHAPES)}{hint}")
    return Scheduler(optimizer, horizon=horizon, lr=shape(warmup=warmup, **options))
