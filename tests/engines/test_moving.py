"""Large matrices on a CPU are moved by a kernel, as the rule itself moves them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import stepwell
from stepwell.algebra import lerp
from stepwell.engines import large_matrices
from stepwell.engines.fused.engine import Fused
from stepwell.rules.matrix_rule import MatrixRule, OneMatrixRule
from stepwell.rules.registry import _RULES

RULES = {
    "Muon": stepwell.rules.Muon(lr=0.1),
    "Muon of 0.2 RMS": stepwell.rules.Muon(lr=0.1, adjust_lr_fn="match_rms_adamw", split=2),
    "NorMuon": stepwell.rules.NorMuon(lr=0.1, decay="independent"),
    "SOAP": stepwell.rules.SOAP(lr=0.1, decay="coupled"),
    "Muon, coupled": stepwell.rules.Muon(lr=0.1, decay="coupled"),
    "Scion": stepwell.rules.Scion(lr=0.1, decay="proximal", weight_decay=0.1),
    "Shampoo": stepwell.rules.Shampoo(lr=0.1),
}


@pytest.fixture(autouse=True)
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All matrices are large; what the kernels have moved."""
    names: list[str] = []
    apply = Fused.apply

    def noting(self: Fused, batch: Any, function: str = "update") -> None:
        if function in ("moved", "mix"):
            names.append(f"{type(batch.rule).__name__}.{function}")
        apply(self, batch, function)

    monkeypatch.setattr(large_matrices, "LARGE", 1)
    monkeypatch.setattr(Fused, "apply", noting)
    return names


def train(rule: Any, engine: str, *, dtype: torch.dtype = torch.float32, observe: bool = False, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    ps = [Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in ((8, 6), (4, 10), (6, 2, 2, 2))]
    # Of a gradient that is rounded otherwise the bases of Shampoo and SOAP are others, where eigenvalues are 0.
    clip_norm = None if isinstance(rule, (stepwell.rules.SOAP, stepwell.rules.Shampoo)) else 1.0
    optimizer = stepwell.Optimizer(ps, rule, engine=engine, clip_norm=clip_norm, **options)
    if observe:
        optimizer.observe()
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        for p in ps:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step()
    return optimizer, [p.detach() for p in ps]


def near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("float32_products")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", RULES)
def test_weights_move_as_the_rule_moves_them(name: str, dtype: torch.dtype, moved: list[str]) -> None:
    _, expected = train(RULES[name], "foreach", dtype=dtype)
    assert moved == []
    _, found = train(RULES[name], "auto", dtype=dtype)
    rule = type(RULES[name])
    in_three = ["mix", "moved"] if issubclass(rule, OneMatrixRule) and name != "Muon, coupled" else ["moved"]
    assert moved == [f"{rule.__name__}.{function}" for function in in_three] * 12
    near(found, expected, 1e-5 if dtype == torch.float32 else 2**-7)


def test_a_matrix_in_bfloat16_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the device multiplies it faster it is stored so, which rounds no more than the products do."""
    monkeypatch.setattr("stepwell.algebra.tensors._bfloat16_is_fast", lambda _: True)
    _, rough = train(RULES["Muon"], "auto")
    _, expected = train(RULES["Muon"], "reference")
    for each, other in zip(rough, expected, strict=True):
        assert float((each - other).norm()) < 0.02 * float(other.norm())


@pytest.mark.parametrize("name", RULES)
def test_who_looks_changes_nothing(name: str) -> None:
    _, plain = train(RULES[name], "auto")
    optimizer, observed = train(RULES[name], "auto", observe=True)
    assert all(map(torch.equal, plain, observed))
    reference, _ = train(RULES[name], "foreach", observe=True)
    seen, expected = optimizer.telemetry(), reference.telemetry()
    assert seen.keys() == expected.keys()
    for group, row in seen.items():
        assert row == pytest.approx(expected[group], rel=2e-2)


@pytest.mark.parametrize("name", ["Muon", "SOAP"])
def test_no_matrix_is_kept_for_the_next_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Tensor]] = []
    apply = Fused.apply

    def noting(self: Fused, batch: Any, function: str = "update") -> None:
        seen.extend(map(weakref.ref, (*batch.weights, *batch.gradients)))
        apply(self, batch, function)

    monkeypatch.setattr(Fused, "apply", noting)
    optimizer, _ = train(RULES[name], "auto")
    optimizer.zero_grad()
    weights = optimizer.param_groups[0]["params"]
    alive = [tensor for ref in seen if (tensor := ref()) is not None]
    assert alive
    assert {id(tensor) for tensor in alive} <= set(map(id, weights))


def test_what_is_stored_otherwise_is_moved_by_the_rule(moved: list[str]) -> None:
    train(RULES["Muon"], "auto", dtype=torch.bfloat16, master="stochastic")
    train(RULES["Muon"], "auto", dtype=torch.float64)
    train(RULES["Muon"], "reference")
    assert moved == []
    train(RULES["NorMuon"], "auto", state_dtype="bfloat16")
    assert moved == ["NorMuon.moved"] * 12


@pytest.mark.usefixtures("float32_products")
def test_a_slot_that_is_given_another_dtype_in_place_is_left_to_the_rule(moved: list[str]) -> None:
    weights = []
    for engine in ("auto", "foreach"):
        optimizer, _ = train(RULES["Muon"], engine)
        moved.clear()
        ps = optimizer.param_groups[0]["params"]
        for p in ps:
            slot = optimizer.state[p]["momentum_buffer"]
            slot.data = slot.data.bfloat16()
        optimizer.step()
        assert moved == (["Muon.moved"] * 3 if engine == "auto" else [])
        weights.append([p.detach() for p in ps])
    near(weights[0], weights[1], 1e-5)


@dataclass(frozen=True, kw_only=True)
class Anchored(MatrixRule, abstract=True):
    """A rule whose own `moved` looks at a slot."""

    lr: float = 0.1
    weight_decay: float = 0.0
    slots = ("anchor",)

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        return g, {"anchor": lerp(s.anchor, p, 0.5)}

    def moved(self, p: Any, direction: Any, s: Any, h: Any) -> Any:
        return super().moved(p, direction, s, h) - 0.5 * s.anchor


@dataclass(frozen=True, kw_only=True)
class Aliasing(MatrixRule, abstract=True):
    """A rule that moves along a slot, which it writes over; and that keeps the weights themselves."""

    lr: float = 0.5
    weight_decay: float = 0.0
    slots = ("last", "kept")

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        return s.last, {"last": g, "kept": p}


@pytest.mark.parametrize(("rule", "by_kernel"), [(Anchored(), False), (Aliasing(), True)])
def test_a_rule_of_a_users_own(rule: Any, by_kernel: bool, moved: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_RULES, type(rule).__name__.lower(), type(rule))
    plain, expected = train(rule, "foreach")
    optimizer, found = train(rule, "auto")
    assert bool(moved) == by_kernel
    near(found, expected, 1e-6)
    for p, other in zip(optimizer.param_groups[0]["params"], plain.param_groups[0]["params"], strict=True):
        for slot in rule.slots:
            near([optimizer.state[p][slot]], [plain.state[other][slot]], 1e-6)
