"""Every schedule there is, drawn by hypothesis: what is true of all of them is tested of these, once.

A new schedule is entered here; `test_schedule_properties` fails while one is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from stepwell import schedules
from stepwell.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    Function,
    InverseSqrt,
    Knee,
    Length,
    Linear,
    MultiStep,
    Noam,
    OneCycle,
    Polynomial,
    Power,
    Schedule,
    Step,
    Trapezoid,
    clamp,
    product,
    repeat,
    sequence,
    shift,
    warmup,
)

LEAST_HORIZON = 100
HORIZONS = st.integers(LEAST_HORIZON, 400)

SHARES = st.floats(0.02, 0.4)
LENGTHS = st.integers(1, 40) | SHARES  # at most two of them follow each other, and fit in LEAST_HORIZON
ENDS = st.floats(0, 1)
WAYS = st.sampled_from(["linear", "cosine", "1-sqrt"])
FALLS = st.floats(0.5, 1)


def reciprocal(step: object) -> object:
    """A function of a user's."""
    return 1 / (1 + step)  # type: ignore[operator]


@dataclass(frozen=True)
class Case:
    """How a schedule is drawn, given how its lengths are, and whether it is continuous."""

    draw: Callable[[st.SearchStrategy[Length]], st.SearchStrategy[Schedule]]
    continuous: bool = True


def _decays(lengths: st.SearchStrategy[Length]) -> st.SearchStrategy[Schedule]:
    return st.builds(Linear, warmup=lengths, end=ENDS) | st.builds(Cosine, end=ENDS)


def _sequences(lengths: st.SearchStrategy[Length]) -> st.SearchStrategy[Schedule]:
    pieces = st.lists(st.builds(Linear, end=ENDS) | st.just(Constant()), min_size=2, max_size=2)
    return st.builds(lambda two, at: sequence(*two, at=[at]), pieces, lengths)


def _wsd(lengths: st.SearchStrategy[Length]) -> st.SearchStrategy[Schedule]:
    return st.builds(schedules.WSD, warmup=lengths, decay=lengths, end=ENDS, shape=WAYS)


_RISES = st.one_of(
    st.fixed_dictionaries({"shape": WAYS, "start": ENDS}),
    st.fixed_dictionaries({"shape": st.just("exponential"), "start": st.floats(0.01, 1)}),
    st.fixed_dictionaries({"shape": st.just("polynomial"), "start": ENDS, "power": st.floats(0.5, 3)}),
)

CASES = {
    "Constant": Case(lambda lengths: st.builds(Constant, warmup=lengths)),
    "Linear": Case(lambda lengths: st.builds(Linear, warmup=lengths, end=ENDS)),
    "Cosine": Case(lambda lengths: st.builds(Cosine, warmup=lengths, end=ENDS, waves=st.floats(0.25, 3))),
    "Polynomial": Case(lambda lengths: st.builds(Polynomial, warmup=lengths, end=ENDS, power=st.floats(0.5, 4))),
    "REX": Case(lambda lengths: st.builds(schedules.REX, warmup=lengths, end=ENDS)),
    "InverseSqrt": Case(lambda lengths: st.builds(InverseSqrt, warmup=lengths, timescale=st.none() | lengths)),
    "Power": Case(lambda lengths: st.builds(Power, flat=lengths, power=st.floats(0.1, 2))),
    "Exponential": Case(
        lambda lengths: (
            st.builds(Exponential, warmup=lengths, end=st.floats(0.001, 1))
            | st.builds(Exponential, warmup=lengths, gamma=st.floats(0.99, 1))
        )
    ),
    "Step": Case(lambda lengths: st.builds(Step, warmup=lengths, every=lengths, gamma=FALLS), continuous=False),
    "MultiStep": Case(
        lambda _: st.builds(MultiStep, at=st.sets(st.integers(1, 90), max_size=4).map(sorted), gamma=FALLS),
        continuous=False,
    ),
    "Noam": Case(lambda lengths: st.builds(Noam, warmup=lengths, width=st.none() | st.floats(1, 1000))),
    "CosineRestarts": Case(
        lambda lengths: (
            st.builds(CosineRestarts, warmup=lengths, end=ENDS, first=lengths, growth=st.floats(1, 3), peak_decay=FALLS)
            | st.builds(
                CosineRestarts, warmup=lengths, end=ENDS, cycles=st.integers(1, 5), growth=st.sampled_from([1, 1.5, 2])
            )
        ),
        continuous=False,
    ),
    "OneCycle": Case(
        lambda lengths: st.builds(
            OneCycle,
            rise=lengths,
            start=ENDS,
            end=ENDS,
            shape=st.sampled_from(["cosine", "linear"]),
            three_phase=st.booleans(),
        )
    ),
    "Cyclic": Case(
        lambda lengths: st.builds(
            Cyclic,
            up=lengths,
            down=st.none() | lengths,
            low=ENDS,
            mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
            gamma=st.floats(0.99, 1),
        )
    ),
    "WSD": Case(_wsd),
    "Trapezoid": Case(lambda lengths: st.builds(Trapezoid, warmup=lengths, decay=lengths, end=ENDS)),
    "Knee": Case(lambda lengths: st.builds(Knee, warmup=lengths, explore=lengths, end=ENDS)),
    "Function": Case(lambda _: st.just(Function(function=reciprocal)), continuous=False),
    "Sequence": Case(_sequences, continuous=False),
    "Warmup": Case(
        lambda lengths: st.builds(
            lambda inner, length, how: warmup(inner, length, **how), _decays(SHARES), lengths, _RISES
        )
    ),
    "Product": Case(lambda lengths: st.builds(product, _decays(lengths), _wsd(lengths))),
    "Clamp": Case(lambda lengths: st.builds(clamp, _decays(lengths), low=st.floats(0, 0.5), high=st.floats(0.5, 1))),
    "Shift": Case(lambda lengths: st.builds(shift, _decays(SHARES), by=lengths)),
    "Repeat": Case(
        lambda lengths: st.builds(repeat, _decays(SHARES), every=lengths, times=st.none() | st.integers(1, 3)),
        continuous=False,
    ),
}


def any_schedule(lengths: st.SearchStrategy[Length] = LENGTHS) -> st.SearchStrategy[Schedule]:
    """One of all, by its name, so that every kind is as likely as any other."""
    return st.sampled_from(sorted(CASES)).flatmap(lambda name: CASES[name].draw(lengths))
