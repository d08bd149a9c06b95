"""Equality with timm's schedules, which count as ours do where they are told to count updates."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.schedules import WSD, CosineRestarts, Polynomial, Schedule, Step, warmup

pytestmark = pytest.mark.peers

BASE = 0.3


def timm(module: str, name: str) -> Any:
    """One of timm's schedulers. timm itself imports torchvision, its schedulers need nothing of it."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("timm is not installed")
    package = types.ModuleType("timm_scheduler")
    package.__path__ = [f"{spec.submodule_search_locations[0]}/scheduler"]
    sys.modules.setdefault("timm_scheduler", package)
    return getattr(importlib.import_module(f"timm_scheduler.{module}"), name)


def compare(ours: Schedule, kind: tuple[str, str], steps: int, **options: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE)
    peer = timm(*kind)(optimizer, t_in_epochs=False, **options)
    for step in range(steps):
        peer.step_update(step)
        assert BASE * ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12), f"step {step}"


@settings(deadline=None)
@given(st.integers(1, 80), st.floats(0, 1), st.integers(0, 20), st.integers(1, 4), st.floats(0.3, 1))
def test_cosine_cycles_after_a_warmup(length: int, end: float, up: int, cycles: int, decay: float) -> None:
    # timm's peak may fall below its least rate; ours does not.
    end = min(end, decay ** (cycles - 1))
    inner = CosineRestarts(first=length, peak_decay=decay, end=end, horizon=length * cycles)
    compare(
        warmup(inner, up),
        ("cosine_lr", "CosineLRScheduler"),
        up + length * cycles + 5,
        t_initial=length,
        lr_min=BASE * end,
        cycle_decay=decay,
        cycle_limit=cycles,
        warmup_t=up,
        warmup_prefix=True,
    )


@settings(deadline=None)
@given(st.integers(1, 80), st.floats(0, 1), st.floats(0.3, 3))
def test_polynomial(length: int, end: float, power: float) -> None:
    ours = Polynomial(horizon=length, end=end, power=power)
    compare(ours, ("poly_lr", "PolyLRScheduler"), length + 5, t_initial=length, lr_min=BASE * end, power=power)


@settings(deadline=None)
@given(st.integers(1, 30), st.floats(0.1, 1))
def test_step(every: int, gamma: float) -> None:
    compare(Step(every=every, gamma=gamma), ("step_lr", "StepLRScheduler"), 90, decay_t=every, decay_rate=gamma)


@settings(deadline=None)
@given(
    st.integers(0, 30), st.integers(1, 60), st.data(), st.sampled_from(["linear", "1-sqrt", "cosine"]), st.floats(0, 1)
)
def test_wsd(up: int, length: int, data: st.DataObject, shape: str, end: float) -> None:
    decay = data.draw(st.integers(1, length))
    ours = WSD(horizon=up + length, warmup=up, decay=decay, shape=shape, end=end)
    options = {"t_initial": length, "decay_t": decay, "decay_fn": shape, "lr_min": BASE * end, "warmup_t": up}
    compare(ours, ("wsd_lr", "WSDLRScheduler"), up + length + 5, **options)
