"""Schedules that listen to a metric: they remember what they have heard, and save it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from stepwell.optimizer.uncompiled import uncompiled
from stepwell.schedules.fields import check_choice, check_count, check_number
from stepwell.text.naming import nearest
from stepwell.text.numbers import counted
from stepwell.text.values import shown

_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


class _Listening(ReduceLROnPlateau):
    """What both have in common: the metric, when it is better, and what is saved of it."""

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        mode: str,
        factor: float,
        patience: int,
        threshold: float,
        threshold_mode: str,
        cooldown: int,
        min_lr: float | Sequence[float],
        eps: float,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        check_number("factor", factor, above=0, most=1)
        if factor == 1:
            raise ValueError("factor must be below 1, got 1.0")
        check_count("patience", patience, least=0)
        check_number("threshold", threshold, least=0)
        check_count("cooldown", cooldown, least=0)
        check_number("eps", eps, least=0)
        super().__init__(
            optimizer,
            mode=check_choice("mode", mode, ("min", "max")),  # type: ignore[arg-type]
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode=check_choice("threshold_mode", threshold_mode, ("rel", "abs")),  # type: ignore[arg-type]
            cooldown=cooldown,
            min_lr=_bounds("min_lr", min_lr, optimizer),
            eps=eps,
        )

    def __repr__(self) -> str:
        rates = ", ".join(dict.fromkeys(f"{float(rate):g}" for rate in self._rates()))
        chosen = f"mode={self.mode!r}, factor={self.factor:g}, patience={self.patience}"
        calls = counted(self.last_epoch, "call")
        return f"<{type(self).__name__} after {calls}: {chosen}, best {self.best:g}, lr {rates}>"

    @uncompiled
    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take notice of a metric, a finite number, and change the rates if it is time to.

        Raises ValueError for NaN or infinity, and TypeError for what is not one number, with nothing changed.
        """
        metric = _number(metrics)
        if not math.isfinite(metric):
            raise ValueError(f"the metric must be a finite number, got {metric} at call {self.last_epoch + 1}")
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._hear(metric)
        self._last_lr = [rate.clone() if isinstance(rate, Tensor) else rate for rate in self._rates()]

    def _hear(self, metric: float) -> None:
        raise NotImplementedError

    def _is_better(self, a: float, best: float) -> bool:
        """`a` beats `best` by more than the threshold: a share of |best|, so that metrics below 0 can improve too."""
        if math.isinf(best):
            return True
        margin = self.threshold * (abs(best) if self.threshold_mode == "rel" else 1.0)
        return bool(a < best - margin if self.mode == "min" else a > best + margin)

    def _scale(self, factor: float) -> None:
        """Multiply the rate of every group, within its bounds; changes of at most `eps` are not worth it."""
        for index, group in enumerate(self.optimizer.param_groups):
            rate = float(group["lr"])
            low, high = self._range(index)
            new = min(max(rate * factor, low), high) if factor > 1 else max(rate * factor, low)
            if abs(new - rate) > self.eps and (new - rate) * (factor - 1) > 0:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(new)
                else:
                    group["lr"] = new

    def _range(self, index: int) -> tuple[float, float]:
        """The bounds of a group; one that was added later has those of the last."""
        return self.min_lrs[min(index, len(self.min_lrs) - 1)], math.inf

    def _rates(self) -> list[Any]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What has been heard: counts and the best metric; and the rates, for `get_last_lr`. All are plain numbers."""
        heard = {name: getattr(self, name) for name in self._saved()}
        return {**heard, "last_lr": [float(rate) for rate in self._last_lr]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a state was saved. The rates themselves are the optimizer's, and come back with its state.

        Raises ValueError, with nothing changed, for a state that lacks something.
        """
        missing = [name for name in self._saved() if name not in state_dict]
        if missing:
            hint = nearest(missing[0], state_dict)
            raise ValueError(f"not the state of a {type(self).__name__}: it has no {missing[0]!r}{hint}")
        for name in self._saved():
            setattr(self, name, state_dict[name])
        self._last_lr = list(state_dict.get("last_lr", map(float, self._rates())))  # earlier states lack it

    def _saved(self) -> tuple[str, ...]:
        return _STATE


class ReduceOnPlateau(_Listening):
    """Lowers the rate when a metric has stopped getting better: the one schedule that is not a function of the step.

    A metric that is not better than the best so far counts as bad. After more than `patience` bad ones in a row, every
    group's rate is multiplied by `factor`; then `cooldown` calls pass before bad ones count again.

    torch's `ReduceLROnPlateau` (this is one), under the same names and with the same rates, but that it refuses a
    metric that is NaN, takes a relative threshold from |best|, and schedules groups that are added later.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        mode: "min" where lower is better, "max" where higher is.
        factor: above 0 and below 1.
        patience: at least 0.
        threshold: by how much a metric must beat the best, at least 0.
        threshold_mode: "rel": by a share of |best|; "abs": by that much.
        cooldown: at least 0.
        min_lr: the floor, for all groups or one each.
        eps: changes of the rate of at most this are left out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(
            optimizer,
            mode=mode,
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode=threshold_mode,
            cooldown=cooldown,
            min_lr=min_lr,
            eps=eps,
        )

    def _hear(self, metric: float) -> None:
        if self._is_better(metric, self.best):
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._scale(self.factor)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0


class Greedy(_Listening):
    """Raises the rate while a metric gets better, and lowers it while it does not (GreedyLR, arXiv:2512.14527).

    After more than `patience` better metrics in a row every group's rate is divided by `factor`, after more than
    `patience` others multiplied by it. After a change, `cooldown` (down) or `warmup` (up) calls pass uncounted.

    The values of `GreedyLR` in transformers 5 without its verbosity; its `min_lr` of 1e-3, which lies above the usual
    rates of Adam, is 0 here.

    Args:
        optimizer: any `torch.optim.Optimizer`.
        mode: "min" where lower is better, "max" where higher is.
        factor: above 0 and below 1.
        patience: at least 0.
        threshold: by how much a metric must beat the best, at least 0.
        threshold_mode: "rel": by a share of |best|; "abs": by that much.
        cooldown: at least 0.
        warmup: at least 0.
        min_lr: the floor, for all groups or one each.
        max_lr: the ceiling, for all groups or one each.
        eps: changes of the rate of at most this are left out.
        window: the metric is averaged over the last so many calls, at least 1.
        reset_after: after so many reductions with every group at its floor, rates and memory go back to the start.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: Literal["rel", "abs"] = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        max_lr: float | Sequence[float] = 1.0,
        eps: float = 1e-8,
        window: int = 1,
        reset_after: int = 500,
    ) -> None:
        super().__init__(
            optimizer,
            mode=mode,
            factor=factor,
            patience=patience,
            threshold=threshold,
            threshold_mode=threshold_mode,
            cooldown=cooldown,
            min_lr=min_lr,
            eps=eps,
        )
        self.warmup = check_count("warmup", warmup, least=0)
        self.max_lrs = _each(_bounds("max_lr", max_lr, optimizer), len(optimizer.param_groups))
        for least, most in zip(self.min_lrs, self.max_lrs, strict=True):
            if most < least:
                raise ValueError(f"max_lr must be at least min_lr, which is {least!r}, got {shown(most)}")
        self.window: deque[float] = deque(maxlen=check_count("window", window))
        self.reset_after = check_count("reset_after", reset_after)
        self.base_lrs = [float(rate) for rate in self._rates()]
        self.num_good_epochs = self.warmup_counter = self.at_floor = 0

    def _hear(self, metric: float) -> None:
        self.window.append(metric)
        metric = math.fsum(self.window) / len(self.window)
        if self.cooldown_counter > 0 or self.warmup_counter > 0:
            if self.cooldown_counter > 0:
                self.cooldown_counter -= 1
            else:
                self.warmup_counter -= 1
            self.num_bad_epochs = self.num_good_epochs = 0
            return
        if self._is_better(metric, self.best):
            self.best = metric
            self.num_bad_epochs, self.num_good_epochs = 0, self.num_good_epochs + 1
        else:
            self.num_bad_epochs, self.num_good_epochs = self.num_bad_epochs + 1, 0
        if self.num_good_epochs > self.patience:
            self._scale(1 / self.factor)
            self.warmup_counter = self.warmup
            self.num_good_epochs = self.at_floor = 0
        elif self.num_bad_epochs > self.patience:
            self._scale(self.factor)
            self.num_bad_epochs = 0
            if all(float(rate) <= self._range(index)[0] for index, rate in enumerate(self._rates())):
                self.at_floor += 1
                if self.at_floor >= self.reset_after:
                    self._start_again()
            self.cooldown_counter = self.cooldown  # also after a start anew, which was a reduction all the same

    def _start_again(self) -> None:
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(base)
            else:
                group["lr"] = base
        self.best = self.mode_worse
        self.window.clear()
        self.num_bad_epochs = self.num_good_epochs = self.at_floor = 0
        self.cooldown_counter = self.warmup_counter = 0

    def _range(self, index: int) -> tuple[float, float]:
        return super()._range(index)[0], self.max_lrs[min(index, len(self.max_lrs) - 1)]

    def state_dict(self) -> dict[str, Any]:
        """What has been heard, and the rates to go back to; plain numbers."""
        return {**super().state_dict(), "window": list(self.window), "base_lrs": list(self.base_lrs)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where a state was saved. The rates themselves are the optimizer's, and come back with its state."""
        held = self.window.maxlen
        super().load_state_dict(state_dict)
        self.window = deque(self.window, maxlen=held)

    def _saved(self) -> tuple[str, ...]:
        return (*_STATE, "num_good_epochs", "warmup_counter", "at_floor", "window", "base_lrs")


def _bounds(name: str, value: float | Sequence[float], optimizer: Optimizer) -> float | list[float]:
    if not isinstance(value, (list, tuple)):
        return check_number(name, value, least=0)
    groups = len(optimizer.param_groups)
    if len(value) != groups:
        raise ValueError(f"{name} must be one number, or one for each of the {groups} groups, got {len(value)}")
    return [check_number(f"{name}[{index}]", one, least=0) for index, one in enumerate(value)]


def _number(metric: Any) -> float:
    if not isinstance(metric, str):
        try:
            return float(metric)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(f"the metric must be one number, got {shown(metric)}")


def _each(value: float | list[float], groups: int) -> list[float]:
    return value if isinstance(value, list) else [value] * groups
