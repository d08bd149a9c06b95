from __future__ import annotations

import pytest
import torch

from bench.contenders import OURS, PEERS, Peer, entrants
from bench.gallery import own_entries
from bench.material import Material
from bench.shapes import Shapes
from bench.subjects import SUBJECTS, Subject

FEW = Shapes("few", "a few", ((12, 5), (7, 8)))
CPU = torch.device("cpu")

# The work is the same, the numbers are not. By chance a weight often rounds to the other neighbour. LAMB: it corrects
# the bias of the first moment only. SOAP: in the eigenbasis of a gradient that stays the same all but the diagonal is
# rounding, which Adam brings to size; with gradients that change the two are equal (tests/peers/test_matrix_rules.py).
DEPARTS = {
    ("adamw-stochastic", "torch fused"),
    ("adamw-stochastic", "torch foreach"),
    ("lamb", "pytorch_optimizer"),
    ("soap", "pytorch_optimizer"),
}


def _steps(subject: Subject, name: str, steps: int = 3) -> list[torch.Tensor]:
    material = Material(FEW, subject.dtype, CPU)
    makers, _ = entrants(subject, CPU)
    optimizer = makers[name](material.parameters)
    for _ in range(steps):
        optimizer.step()
        for gradient, first in zip(material.gradients, Material(FEW, subject.dtype, CPU).gradients, strict=True):
            gradient.copy_(first)
    return [p.detach() for p in material.parameters]


def _entries(of_torch: bool) -> list[tuple[str, str]]:
    peers = [peer for peer in PEERS if (peer.package == "torch") == of_torch]
    return [(subject, peer.name) for peer in peers for subject in peer.subjects]


def _agrees(subject: Subject, name: str) -> None:
    before = [p.detach() for p in Material(FEW, subject.dtype, CPU).parameters]
    ours, theirs = _steps(subject, OURS), _steps(subject, name)
    for was, mine, other in zip(before, ours, theirs, strict=True):
        assert not torch.equal(was, other)
        if (subject.name, name) in DEPARTS:
            continue
        loose = subject.dtype == torch.bfloat16 or subject.name == "muon"
        scale = float((mine - was).abs().max())
        torch.testing.assert_close(other - was, mine - was, rtol=0, atol=scale * (0.1 if loose else 1e-3))


@pytest.mark.parametrize(("subject", "name"), _entries(of_torch=True))
def test_torch_does_the_same_work(subject: str, name: str) -> None:
    _agrees(SUBJECTS[subject], name)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what a peer imports
@pytest.mark.parametrize(("subject", "name"), _entries(of_torch=False))
def test_a_peer_does_the_same_work(subject: str, name: str) -> None:
    _, missing = entrants(SUBJECTS[subject], CPU)
    if name in missing:
        pytest.skip(f"{name}: {missing[name]}")
    _agrees(SUBJECTS[subject], name)


def test_every_rule_is_measured() -> None:
    assert {type(subject.rule).__name__ for subject in SUBJECTS.values()} == {entry.name for entry in own_entries()}


def test_every_peer_has_a_subject_and_no_name_twice_in_one() -> None:
    entries = [(subject, peer.name) for peer in PEERS for subject in peer.subjects]
    assert {subject for subject, _ in entries} <= set(SUBJECTS)
    assert len(entries) == len(set(entries))


def test_why_a_peer_cannot_take_part() -> None:
    absent = Peer("absent", ("sgd",), "no-such-package", "no_such_module.optim", "SGD", ())
    assert absent.problem() == "not installed"
    broken = Peer("broken", ("sgd",), "torch", "torch.no_such_module", "SGD", ())
    assert broken.problem() == "cannot be imported: No module named 'torch.no_such_module'"
    assert PEERS[0].problem() == ""
    # What is built for a GPU may say so to Python alone: "2.13.0+cu130".
    assert PEERS[0].version().partition("+")[0] == f"torch {torch.__version__}".partition("+")[0]
