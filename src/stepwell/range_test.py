"""The learning-rate range test: which rates make the loss fall, and from where on it diverges.

Smith 2017 (arXiv:1506.01186, sec. 3.3) raises the rate in a line, fastai's `lr_find` by a constant factor; both smooth
the loss and stop where it takes off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from stepwell.optimizer.snapshot import Snapshot
from stepwell.schedules.fields import check_choice, check_count, check_number
from stepwell.text import numbers
from stepwell.text.values import shown

if TYPE_CHECKING:
    from stepwell.pictures.markup import Markup

_FEWEST = 5  # points that a slope can be read from


@dataclass(frozen=True)
class RangeTest:
    """What a range test has seen, and what it suggests.

    Args:
        rates: the learning rate of the first group at each step.
        losses: the loss of each step.
        smoothed: its average, an exponential one without the bias of its start.
        diverged: whether the sweep ended because the loss took off.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest, by the logarithm of the rate; None if it never falls."""
        if len(self.rates) < _FEWEST:
            return None
        slopes = [
            (self.smoothed[i + 1] - self.smoothed[i - 1]) / math.log(self.rates[i + 1] / self.rates[i - 1])
            for i in range(1, len(self.rates) - 1)
        ]
        best = min(range(len(slopes)), key=slopes.__getitem__)
        return self.rates[best + 1] if slopes[best] < 0 else None

    @property
    def valley(self) -> float | None:
        """The rate half-way through the longest fall: the longest run of points, each lower than the one before.

        Points between them may be higher, as noise makes them. None if nothing falls. It is more careful than
        `steepest`, and less moved by one lucky batch.
        """
        if len(self.rates) < _FEWEST:
            return None
        falls = [(1, index) for index in range(len(self.smoothed))]  # the longest that ends here: length, start
        for i, loss in enumerate(self.smoothed):
            for j in range(i):
                if loss < self.smoothed[j]:
                    length, start = falls[j]
                    falls[i] = max(falls[i], (length + 1, start))
        end = max(range(len(falls)), key=lambda index: falls[index][0])
        length, start = falls[end]
        return self.rates[(start + end) // 2] if length > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for `json.dumps`, the suggestions first; a loss that is no finite number is None."""

        def finite(losses: tuple[float, ...]) -> list[float | None]:
            return [loss if math.isfinite(loss) else None for loss in losses]

        return {
            "steepest": self.steepest,
            "valley": self.valley,
            "diverged": self.diverged,
            "rates": list(self.rates),
            "losses": finite(self.losses),
            "smoothed": finite(self.smoothed),
        }

    def svg(self) -> Markup:
        """The losses and their average against the rate, as an SVG that stands alone."""
        from stepwell.pictures.charts import Series
        from stepwell.pictures.plots import drawing

        points = [list(zip(self.rates, heights, strict=True)) for heights in (self.losses, self.smoothed)]
        series = [Series(name=name, colour=5 - 3 * i, points=points[i]) for i, name in enumerate(("loss", "smoothed"))]
        marks = [(name, rate) for name, rate in (("steepest", self.steepest), ("valley", self.valley)) if rate]
        return drawing(series, x_name="learning rate", y_name="loss", log=True, high=self._top, marks=marks)

    def __str__(self) -> str:
        from stepwell.pictures.sketch import sketch

        found = [(name, rate) for name, rate in (("steepest", self.steepest), ("valley", self.valley)) if rate]
        points = list(zip(self.rates, self.smoothed, strict=True))
        few = f"too few points to suggest a rate: {_FEWEST} are needed"
        none = few if len(points) < _FEWEST else "no rate lowers the loss"
        said = ", ".join(f"{name} {rate:.3g}" for name, rate in found) or none
        end = "diverged" if self.diverged else "ended"
        drawing = (
            sketch([points], log=True, x_name="learning rate", y_name="loss", high=self._top) if len(points) > 1 else ""
        )
        return f"{drawing}{said}; {end} at {self.rates[-1]:.3g} after {numbers.counted(len(points), 'step')}"

    @property
    def _top(self) -> float:
        """The highest loss that a picture shows. Those that take off at the end would press all others to the ground:
        it is that of any loss before the lowest average, and of the averages but for one that took off."""
        lowest = self.smoothed.index(min(self.smoothed))
        return max([*self.losses[: lowest + 1], *(self.smoothed[:-1] if self.diverged else self.smoothed)])


def find_lr(
    step: Callable[[], Any],
    optimizer: Optimizer,
    model: nn.Module | None = None,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    sweep: Literal["exponential", "linear"] = "exponential",
    smoothing: float = 0.9,
    diverge: float = 4.0,
) -> RangeTest:
    """Train a few steps at rising learning rates, put everything back, and say which rates are worth trying.

        found = find_lr(lambda: train_step(next(batches)), optimizer, model)
        print(found)  # the curve, and the rates at its steepest slope and in the middle of its longest fall

    Groups keep the ratios of their rates, or of the bases that a scheduler multiplies. Afterwards, also after an
    exception or Ctrl-C, the model, the optimizer and torch's random numbers are what they were, to the bit; batches
    that `step` has taken are gone.

    Args:
        step: one whole training step (loss, backward, optimizer step, zero_grad); returns the loss.
        optimizer: the optimizer that `step` steps.
        model: whose buffers (as of BatchNorm) are put back too; without it the optimizer's parameters alone are.
        low: the first rate of the first group, above 0.
        high: the last one, above `low`.
        steps: how many, at least 2.
        sweep: "exponential" multiplies the rate at each step by the same factor, "linear" adds the same difference.
        smoothing: the share of the past in the average, at least 0 and below 1; 0 does not smooth.
        diverge: stop where the smoothed loss is more than this many times the best so far, as fastai does; above 1.
            Where the loss has fallen by more than the best, or is below 0, that distance is the measure.

    Raises:
        TypeError: a step that is no function, an optimizer that is none, or a loss that is not a number.
        ValueError: an argument out of range, or a first group whose rate is 0.
    """
    if isinstance(step, nn.Module) or not callable(step):
        raise TypeError(
            "step must be a function without arguments that trains one step and returns the loss, "
            f"got {shown(step)}; find_lr(step, optimizer, model)"
        )
    if not hasattr(optimizer, "param_groups"):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {shown(optimizer)}")
    low = check_number("low", low, above=0)
    high = check_number("high", high, above=low)
    steps = check_count("steps", steps, least=2)
    check_choice("sweep", sweep, ("exponential", "linear"))
    smoothing = check_number("smoothing", smoothing, least=0)
    if smoothing >= 1:
        raise ValueError(f"smoothing must be below 1, got {smoothing}")
    diverge = check_number("diverge", diverge, above=1)
    # A schedule that begins with a warm-up has set the rates to 0: what it multiplies has the ratios.
    bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    if not bases[0]:
        raise ValueError("the first group's learning rate is 0, and the others' have no ratio to it")
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average, diverged = 0.0, False
    with Snapshot(optimizer, model):
        for index in range(steps):
            share = index / (steps - 1)
            rate = low * (high / low) ** share if sweep == "exponential" else low + (high - low) * share
            for group, base in zip(optimizer.param_groups, bases, strict=True):
                _set_rate(group, rate * base / bases[0])
            loss = _number(step())
            if not math.isfinite(loss):
                diverged = True
                break
            # The exponential average, divided by the sum of its weights, as one step from the last: so the average of a
            # loss that stays the same is that loss, to the bit, and falls nowhere.
            past = smoothing * (1 - smoothing**index) / (1 - smoothing ** (index + 1))
            average = loss + (average - loss) * past
            rates.append(rate)
            losses.append(loss)
            smoothed.append(average)
            if _took_off(smoothed, diverge):
                diverged = True
                break
    if not rates:
        raise ValueError(f"the loss is not finite at the first rate, {low:g}: something else is wrong than the rate")
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), diverged)


def _took_off(smoothed: list[float], diverge: float) -> bool:
    """Whether the last point is far above the lowest one."""
    best = min(smoothed)
    measure = max(smoothed[0] - best, abs(best))
    return len(smoothed) >= _FEWEST and smoothed[-1] > best + (diverge - 1) * measure


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _number(loss: Any) -> float:
    try:
        return float(loss.detach() if isinstance(loss, Tensor) else loss)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"step() must return the loss, a number, got {type(loss).__name__}") from None
