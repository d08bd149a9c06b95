"""The tables as they are written, and the arithmetic upon them, by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from stepwell.advice import advising
from stepwell.advice.advising import OPTIMIZERS, Suggestion, advise, as_data
from stepwell.advice.tables import LECTURE


@pytest.fixture(autouse=True)
def _the_tables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What our own runs have found, which grows, is tested in test_measured.py."""
    monkeypatch.setattr(advising, "measured", lambda _: ())


def ranges(found: tuple[Suggestion, ...]) -> list[Any]:
    return [pytest.approx((one.low, one.high)) for one in found]


@pytest.mark.parametrize(
    ("optimizer", "low", "high"),
    [
        ("sgd", 0.1, 1.0),
        ("sgd-momentum", 0.01, 0.1),
        ("adam", 1e-4, 1e-3),
        ("adamw", 1e-4, 1e-3),
        ("rmsprop", 1e-4, 1e-3),
        ("adagrad", 0.01, 0.1),
        ("lion", 1e-4, 3e-4),
    ],
)
def test_the_lectures_rates(optimizer: str, low: float, high: float) -> None:
    first = advise(optimizer)["lr"][0]
    assert (first.low, first.high) == (low, high)
    assert LECTURE in first.lines[0]


@pytest.mark.parametrize(
    ("given", "decay"),
    [
        ({"samples": 9_999}, 1e-3),
        ({"samples": 10_000}, 1e-4),
        ({"samples": 1_000_000}, 1e-4),
        ({"samples": 1_000_001}, 1e-5),
        ({"samples": 9_999, "architecture": "transformer"}, 1e-4),
        ({"samples": 9_999, "architecture": "resnet"}, 5e-4),
        ({"samples": 9_999, "architecture": "cnn", "data": "simple"}, 2e-3),
        ({"samples": 9_999, "data": "complex", "epochs": 19}, 2.5e-4),
        ({"samples": 9_999, "epochs": 20}, 1e-3),
        ({"samples": 9_999, "epochs": 101}, 2e-3),
    ],
)
def test_the_lectures_decay(given: dict[str, Any], decay: float) -> None:
    assert advise("adam", **given)["weight_decay"][0].low == pytest.approx(decay)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"architecture": "cnn"}, [(0.05, 0.05)]),
        ({"architecture": "transformer"}, [(0.10, 0.10)]),
        ({"fine_tuning": True}, [(0.06, 0.06)]),
        ({"transfer_learning": True}, [(0.03, 0.05)]),
        ({"samples": 500}, [(0.03, 0.05)]),
        ({"batch_size": 1001, "architecture": "cnn"}, [(0.05, 0.05), (0.15, 0.20)]),
        ({"transfer_learning": True, "unstable": True}, [(0.08, 0.10)]),
    ],
)
def test_the_lectures_warmup(given: dict[str, Any], expected: list[tuple[float, float]]) -> None:
    assert [(one.low, one.high) for one in advise("sgd", **given)["warmup"]] == [pytest.approx(one) for one in expected]


def test_adjustments_multiply_and_say_why() -> None:
    # Four times the batch: twice the rate. Deeper: half. Fine-tuning: a tenth.
    (rate,) = advise("adamw", batch_size=1024, reference_batch_size=256, deeper=True, fine_tuning=True)["lr"]
    assert (rate.low, rate.high) == pytest.approx((1e-5, 1e-4))
    assert [line[:6] for line in rate.lines[1:]] == ["× 0.1:", "× 2: a", "× 0.5:"]
    (unstable,) = advise("adamw", unstable=True)["lr"]
    assert (unstable.low, unstable.high) == pytest.approx((1e-5, 1e-4))


def test_sources_that_disagree_are_all_given() -> None:
    rates = advise("sgd", batch_size=512, reference_batch_size=128)["lr"]
    assert [(one.low, one.high) for one in rates] == [pytest.approx((0.2, 2.0)), pytest.approx((0.4, 4.0))]
    assert ["1706.02677" in one.lines[-1] for one in rates] == [False, True]
    decays = advise("adamw", samples=2_000_000)["weight_decay"]
    assert [one.low for one in decays] == [1e-5, 0.01, 0.1]


def test_conversions_from_adamw() -> None:
    lion = advise("lion", adamw_lr=3e-4, adamw_weight_decay=0.1)
    assert [(one.low, one.high) for one in lion["lr"]] == [pytest.approx((3e-5, 1e-4)), (1e-4, 3e-4)]
    assert [(one.low, one.high) for one in lion["weight_decay"]] == [pytest.approx((0.3, 1.0))]
    muon = advise("muon", adamw_lr=3e-4)
    assert [(one.low, one.high) for one in muon["lr"]] == [(3e-4, 3e-4), (0.02, 0.02)]
    assert "match_rms_adamw" in muon["lr"][0].lines[-1]


@pytest.mark.parametrize(
    ("optimizer", "rates"),
    [
        ("adamw", [(2e-5, 2e-5)]),
        ("adam", [(2e-5, 2e-5)]),
        # What the tables say is for training from scratch: a tenth of it.
        ("lion", [(2e-6, 2e-5 / 3), (1e-5, 3e-5)]),
        ("muon", [(2e-5, 2e-5), (0.002, 0.002)]),
    ],
)
def test_a_rate_that_is_known_is_known_for_this_fine_tuning(optimizer: str, rates: list[tuple[float, float]]) -> None:
    found = advise(optimizer, adamw_lr=2e-5, fine_tuning=True)["lr"]
    assert ranges(found) == rates


def test_a_rate_that_is_known_is_too_high_where_training_is_unstable_or_deeper() -> None:
    assert ranges(advise("adamw", adamw_lr=2e-5, unstable=True)["lr"]) == [(2e-6, 2e-6)]
    assert ranges(advise("adamw", adamw_lr=2e-5, deeper=True)["lr"]) == [(1e-5, 1e-5)]


def test_the_decays_timescale() -> None:
    # The middle of 1e-4 … 1e-3 is √1e-7: 1 / (lr · steps) = 0.316 over 10,000 steps, 1.26 over one epoch of 4.
    decay = advise("adamw", steps=10_000, epochs=4)["weight_decay"][-1]
    assert (decay.low, decay.high) == pytest.approx((10**-0.5, 4 * 10**-0.5))
    assert "2405.13698" in decay.lines[0]
    exact = advise("adamw", steps=10_000, adamw_lr=1e-3)["weight_decay"][-1]
    assert (exact.low, exact.high) == pytest.approx((0.1, 0.1))
    # Lion's are 3e-4 to 1e-3, a tenth to a third of 3e-3; their middle is √3e-7.
    lions = advise("lion", steps=1000, adamw_lr=3e-3)["weight_decay"][-1]
    assert (lions.low, lions.high) == pytest.approx((1 / (1000 * 3e-7**0.5),) * 2)


def test_the_untuned_warmup_and_the_steps_of_a_decay() -> None:
    found = advise("adamw", beta2=0.99)
    assert [one.low for one in found["warmup_steps"]] == [200]
    assert [(one.low, one.high) for one in found["step_decay_every"]] == [(2000, 4000)]
    assert [(one.low, one.high) for one in found["step_decay_gamma"]] == [(0.1, 0.5)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_line_of_reasoning_names_a_source(optimizer: str) -> None:
    found = advise(
        optimizer, architecture="transformer", samples=5000, epochs=3, steps=1000, data="complex", unstable=True
    )
    for one in found.suggestions:
        assert one.low <= one.high
        for line in one.lines:
            assert re.search(r"lecture|arXiv|torch\.optim|Jordan|same source", line), line
        assert str(one) in f"{one.name} {one}"
    printed = str(found)
    assert all(line in printed for one in found.suggestions for line in one.lines)
    assert json.loads(json.dumps(as_data(found)))[0]["name"] == "lr"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": "adamx"}, "optimizer must be one of 'sgd', .*did you mean 'adamw'|did you mean 'adam'"),
        ({"architecture": "cn"}, "architecture must be one of 'cnn', 'transformer', 'resnet', got 'cn'"),
        ({"data": "easy"}, "data must be one of 'simple', 'complex', got 'easy'"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"epochs": 0.0}, "epochs must be a finite number above 0, got 0.0"),
        ({"beta2": 1.0}, "beta2 must be below 1, got 1.0"),
        ({"reference_batch_size": 8}, "reference_batch_size says what a rate was found at; give batch_size"),
        ({"adamw_lr": -1.0}, "adamw_lr must be a finite number above 0, got -1.0"),
    ],
)
def test_arguments_out_of_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        advise(**given)


def test_what_there_is_no_advice_on() -> None:
    with pytest.raises(KeyError, match="there is no advice on 'momentum'; there is on lr, weight_decay"):
        advise("adamw")["momentum"]


@pytest.mark.parametrize(("written", "name"), [("AdamW", "adamw"), ("SGD", "sgd"), ("SGD_Momentum", "sgd-momentum")])
def test_an_optimizers_name_is_taken_in_any_case(written: str, name: str) -> None:
    assert str(advise(written)) == str(advise(name))
