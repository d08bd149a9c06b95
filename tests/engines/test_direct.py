"""What engines that run a rule's own Python do beside its arithmetic."""

from __future__ import annotations

import logging

import pytest
import torch

from stepwell import Optimizer
from stepwell.engines import direct
from stepwell.engines.batch import Batch
from stepwell.engines.matrices import Matrices
from stepwell.rules import SOAP, Dion, Muon, Scion, Shampoo


def test_a_captured_step_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    direct._say_captured.cache_clear()
    monkeypatch.setattr(direct, "capturing", lambda device: device.type == "meta")
    slots = [slot.name for slot in Shampoo().slot_list()]
    on_gpu, on_cpu = (
        Batch(Shampoo(), [weight], [{"step": 1, **dict.fromkeys(slots, weight)}], [Shampoo().values()])
        for weight in (torch.zeros(2, 2, device="meta"), torch.zeros(2, 2))
    )
    for batch in (on_gpu, on_cpu):
        monkeypatch.setattr(batch, "classes", list)
        batch.asked = {"step"}  # as its first update has noted
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        Matrices().apply(on_cpu)
        assert not caplog.records
        for _ in range(2):
            Matrices().apply(on_gpu)
    (record,) = caplog.records
    assert record.getMessage().startswith("Shampoo is captured in a CUDA graph, whose replays keep the learning rate")
    direct._say_captured.cache_clear()


def test_what_a_rule_asks_of_the_host_is_noted() -> None:
    for rule, asked in ((Muon(), set()), (Scion(), set()), (Dion(), set()), (SOAP(), {"step"})):
        p = torch.nn.Parameter(torch.eye(4))
        p.grad = torch.ones(4, 4)
        optimizer = Optimizer([p], rule)
        optimizer.step()
        (bucket,) = optimizer._buckets.latest
        assert bucket.batch.asked == asked
        assert bucket.engine.leaves_out(bucket.batch) == (not asked)
