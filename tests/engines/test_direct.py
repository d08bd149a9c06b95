"""What engines that run a rule's own Python do beside its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from stepwell import Optimizer
from stepwell.algebra.matrices import lerp_gram
from stepwell.codecs import WEIGHTS, Codec, Plain
from stepwell.codecs.rounding import Stochastic
from stepwell.engines import direct
from stepwell.engines.batch import Batch
from stepwell.engines.direct import Direct
from stepwell.engines.foreach import Foreach
from stepwell.engines.matrices import Matrices
from stepwell.engines.reference import Reference
from stepwell.rules import SOAP, AdamW, Dion, Muon, Rule, Scion, Shampoo
from stepwell.rules.matrix_rule import MatrixRule
from stepwell.rules.rule import Slot


def captured(engine: Direct, rule: Rule, asked: set[str] | None, function: str = "update", **codecs: Codec) -> None:
    """A step of that engine while a graph is captured, on what stands for a GPU, after one that has asked for that."""
    weight = torch.zeros(2, 2, device="meta")
    state = {"step": 1, **{slot.name: weight for slot in rule.slot_list()}}
    plain = {name: Plain(torch.float32) for name in (WEIGHTS, *state) if name != "step"}
    batch = Batch(rule, [weight], [state], [rule.values()], {**plain, **codecs})
    batch.asked = asked
    engine.apply(batch, function)


def test_what_the_host_decides_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "capturing", lambda device: device.type == "meta")
    cannot, stepped = "cannot be captured in a CUDA graph: ", "; take its step outside the graph$"
    with pytest.raises(
        RuntimeError, match=f"^Shampoo {cannot}it depends on the step, which the host counts.*{stepped}"
    ):
        captured(Matrices(), Shampoo(), {"step"})
    with pytest.raises(RuntimeError, match=f"^Muon {cannot}what is rounded by chance depends on the step.*{stepped}"):
        captured(Matrices(), Muon(), {"step"}, p=Stochastic())
    with pytest.raises(RuntimeError, match=f"^Muon {cannot}shared out over ranks, it takes .* from the host{stepped}"):
        captured(Matrices(), Muon(), set(), "mix")
    with pytest.raises(RuntimeError, match=f"^AdamW {cannot}the foreach engine takes .*; the fused engine need not$"):
        captured(Foreach(), AdamW(), None)
    with pytest.raises(RuntimeError, match=r"^a CUDA graph can capture .* call optimizer.step\(\) once"):
        captured(Matrices(), Muon(), None)
    captured(Matrices(), Muon(), set())


def test_nothing_is_captured_on_a_cpu() -> None:
    p = torch.nn.Parameter(torch.eye(4))
    p.grad = torch.ones(4, 4)
    Optimizer([p], Shampoo()).step()


def test_what_a_rule_asks_of_the_host_is_noted() -> None:
    for rule, asked in ((Muon(), set()), (Scion(), set()), (Dion(), set()), (SOAP(), {"step"})):
        p = torch.nn.Parameter(torch.eye(4))
        p.grad = torch.ones(4, 4)
        optimizer = Optimizer([p], rule)
        optimizer.step()
        (bucket,) = optimizer._buckets.latest
        assert bucket.batch.asked == asked
        assert bucket.engine.leaves_out(bucket.batch) == (not asked)


@dataclass(frozen=True, kw_only=True)
class Crossed(MatrixRule, abstract=True):
    """Each slot is made of what another one was."""

    slots = tuple(
        Slot(name, shape=lambda shape: (shape[0], shape[0])) for name in ("first", "second", "third", "fourth")
    )

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, dict[str, Any]]:
        first, second = lerp_gram(s.first, s.second, 0.25), lerp_gram(s.second, g, 0.25)
        return p - h.lr * (s.third @ g), {"first": first, "second": second, "third": s.first, "fourth": s.second}


@pytest.mark.parametrize("engine", [Matrices(), Reference()], ids=lambda engine: engine.name)
@pytest.mark.parametrize("rows", [40, 300])
def test_what_is_stored_is_made_of_what_was_there_before(engine: Direct, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    first, second, third, fourth = (torch.randn(rows, rows, generator=generator, dtype=torch.float64) for _ in "1234")
    p, g = (torch.randn(rows, 5, generator=generator, dtype=torch.float64) for _ in "pg")
    wanted = {
        "first": 0.75 * (first + first.mT) + 0.25 * (second + second.mT) @ (second + second.mT),
        "second": 0.75 * (second + second.mT) + 0.25 * g @ g.mT,
        "third": first + first.mT,
        "fourth": second + second.mT,
    }
    moved = p - 0.1 * third @ g
    state = {"step": 1, "first": first + first.mT, "second": second + second.mT, "third": third, "fourth": fourth}
    batch = Batch(Crossed(lr=0.1), [p], [state], [Crossed(lr=0.1).values()])
    batch.gradients = [g]
    engine.apply(batch)
    for name, value in wanted.items():
        torch.testing.assert_close(state[name], value, rtol=1e-12, atol=1e-10, msg=lambda text, name=name: name + text)
    torch.testing.assert_close(p, moved, rtol=1e-12, atol=1e-12)
