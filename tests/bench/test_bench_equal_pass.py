from __future__ import annotations

import pytest
import torch

from bench.equal_pass import bytes_per_element, equal_pass, equal_rule, measured_by, traffic
from bench.material import Material
from bench.shapes import Shapes
from bench.subjects import SUBJECTS, Subject
from stepwell.codecs import Storage
from stepwell.engines.fused.traces import trace
from stepwell.rules.registry import rule_names

FEW = Shapes("few", "a few", ((3, 5), (7,)))
OF_MATRICES = [s for s in SUBJECTS.values() if s.rule.acts_on == "matrices"]
BOUND_BY_MEMORY = [s for s in SUBJECTS.values() if s not in OF_MATRICES]


@pytest.mark.parametrize("subject", BOUND_BY_MEMORY, ids=lambda s: s.name)
def test_the_pass_loads_and_stores_what_the_rule_does(subject: Subject) -> None:
    trivial = equal_rule(subject.rule)
    assert trivial is not None
    assert traffic(trace(trivial)) == traffic(trace(subject.rule))
    assert measured_by(trivial) == measured_by(subject.rule)


@pytest.mark.parametrize("subject", BOUND_BY_MEMORY, ids=lambda s: s.name)
def test_the_pass_runs_and_hardly_moves_the_weights(subject: Subject) -> None:
    material = Material(FEW, subject.dtype, torch.device("cpu"))
    before = [p.detach().clone() for p in material.parameters]
    run = equal_pass(subject.rule, material)
    assert run is not None
    run()
    for was, now in zip(before, material.parameters, strict=True):
        torch.testing.assert_close(now.detach(), was)


def test_no_pass_for_rules_of_matrices() -> None:
    muon = SUBJECTS["muon"]
    assert muon in OF_MATRICES
    assert all(equal_rule(subject.rule) is None for subject in OF_MATRICES)
    assert equal_pass(muon.rule, Material(FEW, muon.dtype, torch.device("cpu"))) is None
    assert bytes_per_element(muon.rule, torch.float32) is None


def test_the_passes_are_no_rules_for_users() -> None:
    before = rule_names()
    equal_rule(SUBJECTS["lamb"].rule)
    assert rule_names() == before


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("sgd", 5),  # read p, g, momentum; write p, momentum
        ("lion", 5),
        ("adamw", 7),  # read p, g and both moments; write p and both moments
        ("schedule-free", 7),
        ("prodigy", 13),  # measure p, g, s and the first p; read p, g and three slots, write p and the slots
        ("novograd", 6),  # first read g; then read p, g and the momentum, write p and the momentum
        ("came", 8),  # read g thrice, the momentum twice and p; write p and the momentum
        ("lamb", 10),  # first read p, g and both moments, write both moments; then read p and both moments, write p
    ],
)
def test_bytes_of_a_step(name: str, numbers: int) -> None:
    assert bytes_per_element(SUBJECTS[name].rule, torch.float32) == 4 * numbers
    # What is rounded when it is stored is stored last: LAMB's moments and CAME's momentum, which are then worked out of
    # the gradient again.
    assert bytes_per_element(SUBJECTS[name].rule, torch.bfloat16) == 2 * (numbers + (name in ("lamb", "came")))


def test_bytes_of_a_step_with_other_storage() -> None:
    adamw = SUBJECTS["adamw"].rule
    # Read p and g, write p; read and write two codes of a byte, and a float32 for 256 of them.
    assert bytes_per_element(adamw, torch.float32, Storage("8bit")) == pytest.approx(12 + 4 * (1 + 4 / 256), abs=0.01)
    # Read and write the 16 bits beside p as well.
    assert bytes_per_element(adamw, torch.bfloat16, Storage("bfloat16", "compensated")) == 14 + 4
