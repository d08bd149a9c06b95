"""What engines that run a rule's own Python do beside its arithmetic."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stepwell.engines import direct
from stepwell.engines.matrices import Matrices
from stepwell.rules import Muon


def test_a_captured_step_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    direct._say_captured.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    on_gpu: Any = SimpleNamespace(rule=Muon(), weights=[SimpleNamespace(is_cuda=True)], classes=list)
    on_cpu: Any = SimpleNamespace(rule=Muon(), weights=[torch.zeros(2, 2)], classes=list)
    with caplog.at_level(logging.WARNING, logger="stepwell"):
        Matrices().apply(on_cpu)
        assert not caplog.records
        for _ in range(2):
            Matrices().apply(on_gpu)
    (record,) = caplog.records
    assert record.getMessage().startswith("Muon is captured in a CUDA graph, whose replays keep the learning rate")
    direct._say_captured.cache_clear()
