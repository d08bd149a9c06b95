"""What engines that run a rule's own Python do beside its arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stepwell import Optimizer
from stepwell.algebra.matrices import lerp_gram
from stepwell.algebra.postponed import SymmetricSum
from stepwell.codecs import WEIGHTS, Codec, Plain
from stepwell.codecs.rounding import Stochastic
from stepwell.engines.batch import Batch, Engine
from stepwell.engines.direct import Direct
from stepwell.engines.foreach import Foreach
from stepwell.engines.matrices import Matrices
from stepwell.engines.ranks.sharing import Sharing
from stepwell.engines.reference import Reference
from stepwell.optimizer import batching
from stepwell.rules import SOAP, AdamW, Dion, Muon, Rule, Scion
from stepwell.rules.matrix_rule import MatrixRule
from stepwell.rules.rule import Slot, namespace


def refusal(engine: Engine, rule: Rule, asked: set[str], **codecs: Codec) -> str:
    """What is said of a step in a CUDA graph, after one that has asked for that; "" where nothing is."""
    weight = torch.zeros(2, 2)
    state = {"step": 1, **{slot.name: weight for slot in rule.slot_list()}}
    plain = {name: Plain(torch.float32) for name in (WEIGHTS, *state) if name != "step"}
    batch = Batch(rule, [weight], [state], [rule.values()], {**plain, **codecs})
    batch.asked = asked
    try:
        engine.check_captured(batch)
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (refusal(Matrices(), SOAP(), {"step"}), "it depends on the step, which the host counts for it"),
        (
            refusal(Matrices(), Muon(), {"step"}, p=Stochastic()),
            "what is rounded by chance depends on the step, which the host counts for it",
        ),
        (refusal(Foreach(), AdamW(), set()), "the foreach engine takes the step and the rates from the host"),
        (refusal(Reference(), Muon(), set()), "the reference engine takes the step and the rates from the host"),
        (
            refusal(Sharing(Matrices()), Muon(), set()),
            "shared out over ranks, it takes the step and the rates from the host",
        ),
    ],
)
def test_what_the_host_decides_is_not_captured(said: str, why: str) -> None:
    rule, _, rest = said.partition(" ")
    assert rule in ("SOAP", "Muon", "AdamW")
    assert rest == f"cannot be captured in a CUDA graph: {why}; take its step outside the graph"


def test_what_the_host_does_not_decide_is_captured() -> None:
    assert refusal(Matrices(), Muon(), set()) == ""


def test_a_refused_capture_counts_nothing_and_makes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.nn.Parameter(torch.eye(4))
    p.grad = torch.ones(4, 4)
    optimizer = Optimizer([p], SOAP())
    with monkeypatch.context() as captured:
        captured.setattr(batching, "capturing", lambda _: True)
        with pytest.raises(RuntimeError, match=r"^a CUDA graph can capture .* call optimizer.step\(\) once"):
            optimizer.step()
    assert not optimizer.state
    optimizer.step()
    with monkeypatch.context() as captured:
        captured.setattr(batching, "capturing", lambda _: True)
        with pytest.raises(RuntimeError, match=r"^SOAP cannot be captured in a CUDA graph: it depends on the step"):
            optimizer.step()
    assert optimizer.state[p]["step"] == 1
    optimizer.step()
    assert optimizer.state[p]["step"] == 2


def test_beside_a_rule_that_can_be_captured_a_refusal_counts_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, vector = torch.nn.Parameter(torch.eye(4)), torch.nn.Parameter(torch.ones(4))
    optimizer = Optimizer([{"params": [matrix], "rule": SOAP()}, {"params": [vector]}], AdamW(), clip_norm=1.0)
    for p in (matrix, vector):
        p.grad = torch.ones_like(p)
    optimizer.step()
    monkeypatch.setattr(batching, "capturing", lambda _: True)
    with pytest.raises(RuntimeError, match=r"^SOAP cannot be captured in a CUDA graph"):
        optimizer.step()
    assert [optimizer.state[p]["step"] for p in (matrix, vector)] == [1, 1]


def test_a_step_that_failed_is_none_to_capture_a_step_like(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.nn.Parameter(torch.eye(4))
    p.grad = torch.ones(4, 4)
    optimizer = Optimizer([p], Muon())
    with monkeypatch.context() as broken:
        broken.setattr(Muon, "turned", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
    with monkeypatch.context() as captured:
        captured.setattr(batching, "capturing", lambda _: True)
        with pytest.raises(RuntimeError, match=r"^a CUDA graph can capture .* call optimizer.step\(\) once"):
            optimizer.step()
    optimizer.step()
    monkeypatch.setattr(batching, "capturing", lambda _: True)
    optimizer.step()


def test_what_a_rule_asks_of_the_host_is_noted() -> None:
    for rule, asked in ((Muon(), set()), (Scion(), set()), (Dion(), set()), (SOAP(), {"step"})):
        p = torch.nn.Parameter(torch.eye(4))
        p.grad = torch.ones(4, 4)
        optimizer = Optimizer([p], rule)
        optimizer.step()
        (bucket,) = optimizer._buckets.latest
        assert bucket.batch.asked == asked
        assert bucket.engine.leaves_out(bucket.batch) == (not asked)


SQUARES = ("first", "second", "third", "fourth")
# Gives new weights and slots, from n: p, g, the slots, and an average's sum with a Gram matrix.
Crossing = Callable[[Any], tuple[Any, dict[str, Any]]]


def one_for_two(n: Any) -> tuple[Any, dict[str, Any]]:
    both = n.average(n.first, n.g, 0.25)
    return n.p, {"first": both, "second": both}


def asked_for(n: Any) -> tuple[Any, dict[str, Any]]:
    first = n.average(n.first, n.g, 0.25)
    return n.p - first @ n.g, {"first": first}


CROSSINGS: dict[str, Crossing] = {
    "each for itself": lambda n: (
        n.p - n.first @ n.g,
        {"first": n.average(n.first, n.g, 0.25), "second": n.average(n.second, n.g, 0.5)},
    ),
    "products of others": lambda n: (
        n.p - n.third @ n.g,
        {"first": n.average(n.first, n.second, 0.25), "second": n.average(n.second, n.first, 0.25)},
    ),
    "a product of itself": lambda n: (n.p, {"first": n.average(n.first, n.first, 0.25)}),
    "one for two": one_for_two,
    "asked for": asked_for,
    "two of one": lambda n: (
        n.p,
        {"first": n.average(n.first, n.g, 0.25), "second": n.average(n.first, n.g, 0.5)},
    ),
    "each of the other": lambda n: (
        n.p,
        {"first": n.average(n.second, n.g, 0.25), "second": n.average(n.first, n.g, 0.25)},
    ),
    "in a ring": lambda n: (
        n.p,
        {"first": n.average(n.third, n.g, 0.25), "second": n.average(n.second, n.first, 0.25), "third": n.second},
    ),
    "kept": lambda n: (
        n.p,
        {"first": n.average(n.first, n.g, 0.25), "third": n.first, "second": 2.0 * n.second, "fourth": n.second},
    ),
    "kept in a view": lambda n: (n.p, {"second": n.first.mT, "first": n.average(n.first, n.g, 0.25)}),
    "swapped": lambda n: (n.p, {"first": n.second, "second": n.first}),
    "of the weights": lambda n: (n.first, {"first": n.p, "second": n.average(n.p, n.first, 0.25)}),
    "the weights": lambda n: (
        n.average(n.p, n.g, 0.25),
        {"first": n.p, "second": n.average(n.second, n.p, 0.25)},
    ),
}


def test_a_step_of_soap_asks_for_no_average(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    whole = SymmetricSum.whole.fget
    monkeypatch.setattr(SymmetricSum, "whole", property(lambda self: asked.append(self.shape[0]) or whole(self)))
    p = torch.nn.Parameter(torch.randn(300, 280))
    optimizer = Optimizer([p], SOAP(precondition_frequency=3))
    by_step = []
    for _ in range(5):
        asked.clear()
        p.grad = torch.randn(300, 280)
        optimizer.step()
        by_step.append(set(asked))
    # The bases are made at the first step, and turned at the fourth. Of the columns' average the gradient is larger.
    assert by_step == [{300}, set(), set(), {300}, set()]


@dataclass(frozen=True, kw_only=True)
class Crossed(MatrixRule, abstract=True):
    """Square slots whose new values are made of each other's old ones."""

    crossing: str

    slots = tuple(Slot(name, shape=lambda shape: (shape[0], shape[0])) for name in SQUARES)

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        return CROSSINGS[h.crossing](namespace({"p": p, "g": g, **vars(s), "average": lerp_gram}))


@pytest.mark.parametrize("engine", [Matrices(), Reference()], ids=lambda engine: engine.name)
@pytest.mark.parametrize("rows", [40, 300])
@pytest.mark.parametrize("crossing", CROSSINGS)
def test_what_is_stored_is_made_of_what_was_there_before(engine: Direct, rows: int, crossing: str) -> None:
    generator = torch.Generator().manual_seed(rows)
    p, g, *squares = (torch.randn(rows, rows, generator=generator, dtype=torch.float64) for _ in range(6))
    before = {name: square + square.mT for name, square in zip(SQUARES, squares, strict=True)}
    p = p + p.mT
    # Worked out whole, of tensors that nobody writes to.
    whole = {"p": p.clone(), "g": g, **before, "average": lambda x, factor, w: (1 - w) * x + w * (factor @ factor.mT)}
    weights, new = CROSSINGS[crossing](namespace(whole))
    state = {"step": 1, **{name: square.clone() for name, square in before.items()}}
    batch = Batch(Crossed(crossing=crossing), [p], [state], [Crossed(crossing=crossing).values()])
    batch.gradients = [g]
    engine.apply(batch)
    for name, square in {**before, **new}.items():
        torch.testing.assert_close(state[name], square, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(p, weights, rtol=1e-12, atol=1e-9)


class WithoutIndices(TorchDispatchMode):
    """An error for indices that the host would send to a device."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        assert "index" not in str(function)
        return function(*arguments, **(kwargs or {}))


def test_what_is_observed_is_noted_without_indices() -> None:
    parameters = [torch.full((2, 3), float(value), requires_grad=True) for value in (1, 2, 3)]
    optimizer = Optimizer([{"params": parameters[:2], "rule": Muon(lr=0.1)}, {"params": parameters[2:]}], AdamW())
    optimizer.observe()
    for p in parameters:
        p.grad = 0.5 * p.detach()
    with WithoutIndices():
        optimizer.step()
    readings = optimizer.telemetry(by="parameter")
    assert [reading["gradient_rms"] for reading in readings.values()] == pytest.approx([0.5, 1.0, 1.5])
