from __future__ import annotations

import numpy as np
import pytest
import torch

from bench import contenders
from bench.contenders import PEERS, Peer
from bench.memory import allocated_peak, measure, resident_peak
from bench.shapes import Shapes
from bench.subjects import SUBJECTS

MIB = 1 << 20
CPU = torch.device("cpu")


def test_nothing_allocated() -> None:
    assert allocated_peak(lambda: None) < 0.1 * MIB


def test_the_peak_of_torch_counts_what_is_held_at_once() -> None:
    def step() -> None:
        for _ in range(3):
            torch.empty(MIB, dtype=torch.float32)  # freed before the next

    assert 4 * MIB <= allocated_peak(step) < 4.1 * MIB


def test_the_peak_of_numpy() -> None:
    assert 8 * MIB <= allocated_peak(lambda: np.empty(MIB)) < 8.1 * MIB


def test_the_growth_of_the_process() -> None:
    found = resident_peak(lambda: torch.ones(16 * MIB))
    if found is None:
        pytest.skip("this system does not tell the high-water mark of memory")
    assert 60 * MIB < found < 80 * MIB


def test_elementwise_rules_take_nothing_the_size_of_the_model() -> None:
    shapes = Shapes("one", "one matrix", ((2048, 1024),))
    rows = {(row.rule, row.contender): row for row in measure([SUBJECTS["adamw"], SUBJECTS["muon"]], [shapes], CPU)}
    assert rows["AdamW", "stepwell"].allocated < MIB
    assert rows["AdamW", "torch foreach"].allocated > 8 * MIB
    assert all(rule != "Muon" for rule, _ in rows)


def test_a_peer_that_fails_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Peer("broken", ("sgd",), "torch", "torch.optim", "SGD", (), (("lr", -1.0),))
    loop = next(peer for peer in PEERS if peer.subjects == ("sgd",) and peer.name == "torch loop")
    monkeypatch.setattr(contenders, "PEERS", (broken, loop))
    rows = measure([SUBJECTS["sgd"]], [Shapes("few", "a few", ((3, 5),))], CPU)
    assert [row.contender for row in rows] == ["stepwell", "torch loop"]
    assert capsys.readouterr().err == "SGD + momentum: broken fails: Invalid learning rate: -1.0\n"
