from __future__ import annotations

import pytest
import torch

from bench import contenders
from bench.contenders import OURS, Peer
from bench.equal_pass import PASS
from bench.material import Material, Materials
from bench.shapes import Shapes
from bench.step import measure, measure_one
from bench.subjects import SUBJECTS

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


def test_muon_takes_matrices_beside_gpt2_only() -> None:
    assert list(measure([SUBJECTS["muon"]], [FEW], 1, CPU)) == []
