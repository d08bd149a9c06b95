"""transformers' schedules as ours: what its arguments mean, in the words of `stepwell.schedules`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from stepwell.integrations.huggingface.lambda_lr import LambdaScheduler
from stepwell.scheduler.tracks import Selector
from stepwell.schedules import (
    WSD,
    Constant,
    Cosine,
    CosineRestarts,
    InverseSqrt,
    Linear,
    Polynomial,
    Schedule,
    clamp,
    sequence,
    shift,
    warmup,
)
from stepwell.schedules.fields import check_choice, check_count, check_number
from stepwell.schedules.ways import WAYS

_LR_END = 1e-7


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaScheduler:
    """The rate that stands in the optimizer, at every step."""
    return LambdaScheduler(optimizer, Constant(), last_epoch)


def get_constant_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1
) -> LambdaScheduler:
    """A linear warm-up, and the optimizer's rate from there on: `Constant`."""
    return LambdaScheduler(optimizer, Constant(warmup=_warmup(num_warmup_steps)), last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaScheduler:
    """A linear warm-up, and a line down to 0: `Linear`."""
    steps = _steps(num_warmup_steps, num_training_steps)
    return LambdaScheduler(optimizer, Linear(**steps), last_epoch)


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, last_epoch: int = -1
) -> LambdaScheduler:
    """A linear warm-up, and `num_cycles` waves of a cosine, by default half a one down to 0: `Cosine`."""
    steps = _steps(num_warmup_steps, num_training_steps)
    return LambdaScheduler(optimizer, Cosine(waves=_waves(num_cycles), **steps), last_epoch)


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
) -> LambdaScheduler:
    """A linear warm-up, and `num_cycles` half cosines down to 0, one after the other: `CosineRestarts`."""
    steps = _steps(num_warmup_steps, num_training_steps)
    cycles = check_count("num_cycles", num_cycles)
    return LambdaScheduler(optimizer, CosineRestarts(cycles=cycles, **steps), last_epoch)


def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = _LR_END,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaScheduler:
    """A linear warm-up, and a power of what remains down to the rate `lr_end` in every group: `Polynomial`.

    Beside groups with a higher rate, one whose rate is not above the default `lr_end` falls by the factor by which the
    highest does.
    """
    steps = _steps(num_warmup_steps, num_training_steps)
    lr_end, power = check_number("lr_end", lr_end, least=0), check_number("power", power, above=0)
    highest = max(_rates(optimizer))

    def made(rate: float) -> Schedule:
        if lr_end == _LR_END and not lr_end < rate:  # nobody asked this of a group of a low rate, or of none
            rate = highest
        return Polynomial(end=_below("lr_end", lr_end, rate), power=power, **steps)

    return LambdaScheduler(optimizer, _from_rates(optimizer, made), last_epoch)


def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaScheduler:
    """A linear warm-up, and a fall with the square root of the step, without an end: `InverseSqrt`."""
    scale = None if timescale is None else check_count("timescale", timescale)
    return LambdaScheduler(optimizer, InverseSqrt(warmup=_warmup(num_warmup_steps), timescale=scale), last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaScheduler:
    """A linear warm-up, and a cosine down to a rate (`min_lr`) or a share of the group's (`min_lr_rate`): `Cosine`."""
    steps = _steps(num_warmup_steps, num_training_steps)
    waves = _waves(num_cycles)
    made = _to_least(optimizer, min_lr, min_lr_rate, lambda end: Cosine(end=end, waves=waves, **steps))
    return LambdaScheduler(optimizer, made, last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> LambdaScheduler:
    """As before, with a warm-up that starts at `warmup_lr_rate` (or one warm-up step's worth) and ends a step earlier.

    The cosine has passed one step when the warm-up is over, and is at its foot at the last of the training steps.
    """
    steps = _steps(num_warmup_steps, num_training_steps)
    up, waves = steps["warmup"], _waves(num_cycles)
    down = max(steps["horizon"] - up, 1)
    start = None if warmup_lr_rate is None else check_number("warmup_lr_rate", warmup_lr_rate, least=0)

    def made(end: float) -> Schedule:
        cosine = shift(Cosine(end=end, waves=waves, horizon=down), -1)
        if up == 0:
            return cosine
        rise: Schedule = warmup(Constant(), up - 1, start=1 / up if start is None else start)
        if up == 1 and start is not None:
            rise = clamp(Constant(), high=start)  # transformers' one step of warm-up is at its start
        return sequence(rise, cosine, at=[up])

    return LambdaScheduler(optimizer, _to_least(optimizer, min_lr, min_lr_rate, made), last_epoch)


def get_wsd_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaScheduler:
    """Warm-up from `min_lr_ratio`, stable at the optimizer's rate, decay to `min_lr_ratio`: `WSD` after a `warmup`.

    `num_stable_steps` comes before `num_training_steps`, as in transformers.
    """
    up, down = _warmup(num_warmup_steps), whole_steps("num_decay_steps", num_decay_steps)
    if num_stable_steps is None and num_training_steps is None:
        raise ValueError("give num_training_steps or num_stable_steps: neither says how long the rate is stable")
    if num_stable_steps is None:
        total = whole_steps("num_training_steps", num_training_steps, least=1)
        if up + down > total:
            raise ValueError(
                f"num_warmup_steps and num_decay_steps together must fit in num_training_steps, which is {total}, "
                f"got {up} and {down}"
            )
        stable = total - up - down
    else:
        stable = whole_steps("num_stable_steps", num_stable_steps)
    rise = check_choice("warmup_type", warmup_type, tuple(WAYS))
    fall = check_choice("decay_type", decay_type, tuple(WAYS))
    end, waves = check_number("min_lr_ratio", min_lr_ratio, least=0), _waves(num_cycles)
    foot = clamp(Constant(), high=end)
    if stable + down == 0:
        rising = warmup(Constant(), max(up, 1), shape=rise, start=end)
        return LambdaScheduler(optimizer, sequence(rising, foot, at=[up]) if up else foot, last_epoch)
    after: Schedule
    if fall == "cosine" and waves != 0.5 and down:
        after = sequence(Cosine(end=end, waves=waves, horizon=down), foot, at=[down])
        after = sequence(Constant(), after, at=[stable]) if stable else after
    else:
        after = WSD(horizon=stable + down, decay=down, shape=fall, end=end)
    return LambdaScheduler(optimizer, warmup(after, up, shape=rise, start=end) if up else after, last_epoch)


def whole_steps(name: str, value: Any, least: int = 0) -> int:
    """A number of steps, also as the whole float that comes of multiplying by a share: 12.0. Raises TypeError where it
    may be a share itself, and where it is not whole."""
    if isinstance(value, float) and value.is_integer() and value != 1:  # 1.0 may be one step, and may be all of them
        value = int(value)
    if isinstance(value, float):
        share = "; for a share of the training write round(share * num_training_steps)"
        hint = "" if name == "num_training_steps" else share
        raise TypeError(f"{name} must be a whole number of steps (int), got {value!r}{hint}")
    return check_count(name, value, least=least)


def _warmup(num_warmup_steps: Any) -> int:
    return whole_steps("num_warmup_steps", num_warmup_steps)


def _steps(num_warmup_steps: Any, num_training_steps: Any) -> dict[str, Any]:
    """The warm-up and the horizon, each at least what it must be, and the one within the other."""
    up, total = _warmup(num_warmup_steps), whole_steps("num_training_steps", num_training_steps, least=1)
    if up > total:
        raise ValueError(f"num_warmup_steps must be at most num_training_steps, which is {total}, got {up}")
    return {"warmup": up, "horizon": total}


def _waves(num_cycles: Any) -> float:
    return check_number("num_cycles", num_cycles, least=0)


def _below(name: str, value: float, rate: float) -> float:
    """`value` as a share of a group's rate. Raises ValueError where it is not below it."""
    if not value < rate:
        raise ValueError(f"{name} must be below the learning rate of every group, got {value!r} for a rate of {rate!r}")
    return value / rate


def _to_least(
    optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None, make: Callable[[float], Schedule]
) -> Schedule | Mapping[Selector, Schedule]:
    """Schedules that end at a rate, which is another share in every group, or at the same share in all."""
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError(f"give one of min_lr and min_lr_rate, got {min_lr!r} and {min_lr_rate!r}")
    if min_lr is None:
        return make(check_number("min_lr_rate", min_lr_rate, least=0))
    least = check_number("min_lr", min_lr, least=0)
    return _from_rates(optimizer, lambda rate: make(least / rate if rate else 0.0))


def _rates(optimizer: Optimizer) -> list[float]:
    """The rate of each group before any schedule."""
    bases = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    return [float(base.item() if isinstance(base, Tensor) else base) for base in bases]


def _from_rates(optimizer: Optimizer, make: Callable[[float], Schedule]) -> Schedule | dict[Selector, Schedule]:
    """One schedule where all groups have the same rate, else one for each; groups added later have the first's."""
    schedules = list(map(make, _rates(optimizer)))
    if all(schedule == schedules[0] for schedule in schedules):
        return schedules[0]
    return {**dict(enumerate(schedules)), "*": schedules[0]}
