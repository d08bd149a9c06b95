from __future__ import annotations

import pytest
import torch

import stepwell
from bench import contenders
from bench.contenders import OURS, Peer
from bench.equal_pass import PASS
from bench.material import Material, Materials
from bench.shapes import Shapes
from bench.step import measure, measure_one
from bench.subjects import SUBJECTS
from bench.turns import Timing

FEW = Shapes("few", "a few", ((12, 5), (7,)))
CPU = torch.device("cpu")
FUSED, LOOP = (
    peer for peer in contenders.PEERS if peer.subjects == ("sgd",) and peer.name in ("torch fused", "torch loop")
)


class Greedy(torch.optim.SGD):
    """Leaves the gradients other than it found them."""

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.fill_(torch.inf)


def _peer(name: str, kind: str) -> Peer:
    return Peer(name, ("sgd",), "torch", __name__, kind, ("lr",))


def test_a_row_has_us_the_peers_and_the_equal_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "PEERS", (FUSED, LOOP))
    row = measure_one(SUBJECTS["sgd"], Material(FEW, torch.float32, CPU), 2, CPU)
    assert list(row.timings) == [OURS, "torch fused", "torch loop", PASS]
    assert all(len(timing.rounds) == 2 and timing.median > 0 for timing in row.timings.values())
    assert (row.rule, row.shapes, row.tensors, row.parameters) == ("SGD + momentum", "a few", 2, 67)
    assert (row.bytes_per_parameter, row.missing, row.note) == (20, {}, "")


def test_peers_that_cannot_take_part_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Peer("absent", ("sgd",), "no-such-package", "no_such_module", "SGD", ())
    broken = Peer("broken", ("sgd",), "torch", "torch.optim", "SGD", (), (("lr", -1.0),))
    monkeypatch.setattr(contenders, "PEERS", (absent, broken))
    row = measure_one(SUBJECTS["sgd"], Material(FEW, torch.float32, CPU), 1, CPU)
    assert row.missing == {"absent": "not installed", "broken": "fails: Invalid learning rate: -1.0"}
    assert row.peers == []


def test_overwritten_gradients_are_put_back_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "PEERS", (_peer("greedy", "Greedy"), FUSED))
    row = measure_one(SUBJECTS["sgd"], Material(FEW, torch.float32, CPU), 1, CPU)
    assert row.note == "greedy overwrites the gradients, which are put back after its turn"


def test_material_notices_and_restores() -> None:
    material = Material(FEW, torch.bfloat16, CPU)
    weights = [p.detach().clone() for p in material.parameters]
    assert not material.overwritten()
    material.gradients[1].zero_()
    with torch.no_grad():
        material.parameters[0].zero_()
    assert material.overwritten()
    material.restore()
    assert not material.overwritten()
    assert all(map(torch.equal, weights, material.parameters))


def test_materials_are_made_once_and_given_out_as_they_were() -> None:
    materials = Materials(FEW, CPU)
    material = materials.of(torch.float32)
    material.gradients[0].zero_()
    assert materials.of(torch.float32) is material
    assert not material.overwritten()
    assert materials.of(torch.bfloat16).parameters[0].dtype == torch.bfloat16


def test_rules_of_matrices_take_hidden_matrices_and_no_other_rule_does() -> None:
    hidden = Shapes("hidden", "a few", ((4, 3),))
    assert list(measure([SUBJECTS["muon"], SUBJECTS["soap"]], [FEW], 1, CPU)) == []
    assert list(measure([SUBJECTS["sgd"]], [hidden], 1, CPU)) == []


def test_a_rule_with_a_cycle_is_timed_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "PEERS", ())
    steps: list[int] = []
    step = stepwell.Optimizer.step

    def counted(self: stepwell.Optimizer, closure: None = None) -> None:
        steps.append(1)
        step(self, closure)

    monkeypatch.setattr(stepwell.Optimizer, "step", counted)
    (row,) = measure([SUBJECTS["soap"]], [Shapes("hidden", "a few", ((4, 3),))], 2, CPU)
    assert SUBJECTS["soap"].cycle == 10
    assert len(steps) % 10 == 0
    assert row.note == "the mean of 10 steps in a row, after which its work comes round"
    assert Timing(40.0, (20.0, 30.0)).over(10) == Timing(4.0, (2.0, 3.0))
