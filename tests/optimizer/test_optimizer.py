"""The optimizer as torch's machinery sees it: a step, its options, its hooks, its copies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stepwell import Optimizer, Rule
from stepwell.algebra import lerp, norm, sign, where
from stepwell.rules import SGD, AdamW, Lion, Muon, ScheduleFreeSGD

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused", "auto"])


def weight(*values: float, **options: Any) -> Tensor:
    return torch.tensor(values or (1.0, 2.0), requires_grad=True, **options)


def stepped(optimizer: Optimizer, *gradients: list[float]) -> list[list[float]]:
    """The weights after one step with these gradients."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = torch.tensor(gradient, dtype=p.dtype)
    optimizer.step()
    return [p.tolist() for p in parameters]


# A rule of the user's own


@dataclass(frozen=True, kw_only=True)
class SignedAverage(Rule):
    """The sign of an average of the gradients; with `normed`, the average itself over its length."""

    beta: float = 0.5
    normed: bool = False
    slots = ("average",)
    acts_on = "tensors"

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        average = lerp(s.average, g, 1 - h.beta)
        if h.normed:
            length = norm(average)
            return average / where(length > 0, length, 1.0), {"average": average}
        return sign(average), {"average": average}


@ENGINES
def test_a_rule_of_ones_own_runs_in_every_engine(engine: Any) -> None:
    p = weight(1.0, 1.0)
    optimizer = Optimizer([p], SignedAverage(lr=0.5), engine=engine)
    assert stepped(optimizer, [2.0, -4.0]) == [[0.5, 1.5]]  # average 1, −2
    assert stepped(optimizer, [-4.0, 2.0]) == [[1.0, 1.5]]  # average −1.5, 0
    assert optimizer.state[p]["average"].tolist() == [-1.5, 0.0]
    assert optimizer.param_groups[0]["rule"] == "SignedAverage"
    assert optimizer.param_groups[0]["beta"] == 0.5


@ENGINES
def test_a_rule_of_ones_own_with_a_reduction_a_flag_and_decay(engine: Any) -> None:
    optimizer = Optimizer([weight(1.0, 2.0)], SignedAverage(lr=0.5, normed=True, weight_decay=0.2), engine=engine)
    # average (1.5, −2) of length 2.5; the weights shrink by 0.5 · 0.2 first
    assert stepped(optimizer, [3.0, -4.0]) == [pytest.approx([0.9 - 0.3, 1.8 + 0.4], rel=1e-6)]


def test_a_rule_of_ones_own_goes_by_its_name() -> None:
    (group,) = Optimizer([{"params": [weight()], "rule": "signed-average", "beta": 0.25}], AdamW()).param_groups
    assert (group["rule"], group["beta"], group["lr"]) == ("SignedAverage", 0.25, 1e-3)
    with pytest.raises(TypeError, match=r"^unknown hyper-parameter 'bta' for SignedAverage \(did you mean 'beta'\?\)"):
        SignedAverage(bta=0.25)  # type: ignore[call-arg]


# One optimizer, many rules


@ENGINES
def test_mixed_rules_are_torchs_optimizers_side_by_side(engine: Any) -> None:
    def parameters() -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [
            torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_(),
            torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_(),
            torch.randn(2, generator=generator, dtype=torch.float64).requires_grad_(),
        ]

    ours, theirs = parameters(), parameters()
    optimizer = Optimizer(
        [
            {"params": [ours[0]], "rule": SGD(lr=0.1, momentum=0.9, nesterov=True)},
            {"params": [ours[1]], "lr": 0.02},
            {"params": [ours[2]], "rule": "adam", "amsgrad": True, "weight_decay": 0.1},
        ],
        AdamW(lr=0.01, weight_decay=0.3),
        engine=engine,
    )
    peers = [
        torch.optim.SGD([theirs[0]], lr=0.1, momentum=0.9, nesterov=True),
        torch.optim.AdamW([theirs[1]], lr=0.02, weight_decay=0.3),
        torch.optim.Adam([theirs[2]], amsgrad=True, weight_decay=0.1),
    ]
    for _ in range(5):
        for group in (ours, theirs):
            for p in group:
                p.grad = torch.cos(3 * p.detach())
        optimizer.step()
        for peer in peers:
            peer.step()
    for a, e in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


# Clipping, skipping


@ENGINES
def test_clip_norm_takes_the_norm_over_all_groups(engine: Any) -> None:
    groups = [{"params": [weight(0.0)]}, {"params": [weight(0.0, 0.0)], "lr": 2.0}]
    optimizer = Optimizer(groups, SGD(lr=1.0), engine=engine, clip_norm=1.0)
    clipped = stepped(optimizer, [3.0], [0.0, -4.0])  # of norm 5
    assert optimizer.gradient_norm == pytest.approx(5.0, rel=1e-7)
    assert clipped == [pytest.approx([-0.6], rel=1e-6), pytest.approx([0.0, 1.6], rel=1e-6)]
    optimizer.clip_norm = 5.1  # options are live
    assert stepped(optimizer, [3.0], [0.0, -4.0])[0] == pytest.approx([-3.6], rel=1e-6)


def test_the_gradient_norm_is_worked_out_only_where_somebody_asks() -> None:
    for options, expected in (({}, None), ({"on_nonfinite": "raise"}, 5.0), ({"clip_norm": 1e9}, 5.0)):
        optimizer = Optimizer([weight(0.0, 0.0)], SGD(lr=1.0), **options)
        stepped(optimizer, [3.0, 4.0])
        assert optimizer.gradient_norm == (expected and pytest.approx(expected, rel=1e-7))


def test_skipped_counts_both_kinds() -> None:
    optimizer = Optimizer([weight(1.0, 2.0)], SGD(lr=1.0), on_nonfinite="skip")
    assert optimizer.skipped == 0
    assert stepped(optimizer, [math.nan, 1.0]) == [[1.0, 2.0]]
    assert stepped(optimizer, [1.0, math.inf]) == [[1.0, 2.0]]
    assert optimizer.skipped == 2
    optimizer.found_inf = torch.tensor(1.0)  # type: ignore[attr-defined]  # as GradScaler hands it over
    assert stepped(optimizer, [1.0, 1.0]) == [[1.0, 2.0]]
    assert optimizer.skipped == 3
    del optimizer.found_inf  # type: ignore[attr-defined]
    assert stepped(optimizer, [1.0, 1.0]) == [[0.0, 1.0]]
    assert optimizer.skipped == 3


# Closures


def test_a_closure_is_called_once_and_its_loss_returned() -> None:
    p = weight(3.0)
    optimizer = Optimizer([p], SGD(lr=0.1))
    calls = []

    def closure() -> Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert (len(calls), loss.item()) == (1, 9.0)
    assert p.tolist() == pytest.approx([2.4])
    assert optimizer.step() is None


# Hooks, as torch has them


def test_step_hooks_are_called_before_and_after() -> None:
    p = weight(1.0)
    optimizer = Optimizer([p], SGD(lr=1.0))
    seen: list[tuple[str, float]] = []
    before = optimizer.register_step_pre_hook(lambda *_: seen.append(("before", p.item())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", p.item())))
    stepped(optimizer, [0.25])
    assert seen == [("before", 1.0), ("after", 0.75)]
    before.remove()
    stepped(optimizer, [0.25])
    assert seen[2:] == [("after", 0.5)]


def test_state_dict_hooks_are_called_before_and_after() -> None:
    optimizer = Optimizer([weight()], SGD(momentum=0.9))
    seen: list[Any] = []
    optimizer.register_state_dict_pre_hook(lambda opt: seen.append(opt))
    optimizer.register_state_dict_post_hook(lambda *given: seen.append(given))
    state_dict = optimizer.state_dict()
    assert seen[0] is optimizer
    assert seen[1][0] is optimizer
    assert seen[1][1] is state_dict


@pytest.mark.parametrize("rule", [SGD(momentum=0.9), ScheduleFreeSGD(lr=0.1)], ids=lambda rule: type(rule).__name__)
def test_hooks_may_put_another_state_dict_in_its_place(rule: Rule) -> None:
    optimizer = Optimizer([weight()], rule)
    stepped(optimizer, [1.0, 1.0])
    optimizer.register_state_dict_post_hook(lambda _, state_dict: {"wrapped": state_dict})
    optimizer.register_load_state_dict_pre_hook(lambda _, state_dict: state_dict["wrapped"])
    saved = optimizer.state_dict()
    assert list(saved) == ["wrapped"]
    slots = dict(optimizer.state[optimizer.param_groups[0]["params"][0]])
    optimizer.load_state_dict(saved)
    assert optimizer.state[optimizer.param_groups[0]["params"][0]].keys() == slots.keys()


def test_load_state_dict_hooks_are_called_before_and_after() -> None:
    optimizer = Optimizer([weight()], SGD(lr=0.5))
    seen: list[tuple[str, float]] = []

    def halve(opt: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        seen.append(("before", opt.param_groups[0]["lr"]))
        groups = [{**group, "lr": group["lr"] / 2} for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    optimizer.register_load_state_dict_pre_hook(halve)
    optimizer.register_load_state_dict_post_hook(lambda opt: seen.append(("after", opt.param_groups[0]["lr"])))
    optimizer.load_state_dict(Optimizer([weight()], SGD(lr=0.125)).state_dict())
    assert seen == [("before", 0.5), ("after", 0.0625)]


# The rest of the face


def test_repr_shows_every_group() -> None:
    groups = [{"params": [weight()], "name": "norms"}, {"params": [weight()], "rule": Lion(lr=0.5)}]
    shown = repr(Optimizer(groups, AdamW(lr=0.25)))
    assert shown.startswith("Optimizer (\nParameter Group 0\n")
    for line in (
        "    name: norms",
        "    rule: AdamW",
        "    lr: 0.25",
        "Parameter Group 1",
        "    rule: Lion",
        "    lr: 0.5",
    ):
        assert line in shown.splitlines()


def test_zero_grad() -> None:
    p = weight()
    optimizer = Optimizer([p], SGD())
    p.grad = torch.ones(2)
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0.0, 0.0]
    optimizer.zero_grad()
    assert p.grad is None


def test_the_state_of_mixed_rules_through_a_file(tmp_path: Path) -> None:
    def made() -> Optimizer:
        generator = torch.Generator().manual_seed(0)
        matrix, other = (torch.randn(3, 3, generator=generator).requires_grad_() for _ in range(2))
        groups: list[dict[str, Any]] = [
            {"params": [("matrix", matrix)], "rule": Muon(lr=0.1), "name": "hidden"},
            {"params": [("other", other)], "rule": ScheduleFreeSGD(lr=0.1), "why": "a test"},
            {"params": [("vector", weight())]},
        ]
        return Optimizer(groups, AdamW(lr=0.1))

    def go(optimizer: Optimizer, steps: int) -> list[Tensor]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for _ in range(steps):
            for p in parameters:
                p.grad = torch.sin(p.detach())
            optimizer.step()
        return parameters

    first, second = made(), made()
    weights = go(first, 3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    with torch.no_grad():
        for p, kept in zip((p for group in second.param_groups for p in group["params"]), weights, strict=True):
            p.copy_(kept)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for a, e in zip(go(second, 2), go(first, 2), strict=True):
        assert torch.equal(a, e)


@pytest.mark.parametrize(
    ("make", "engine"),
    [(lambda: Muon(), "auto"), (lambda: AdamW(), "foreach"), (lambda: AdamW(), "reference")],
)
def test_no_kernel_to_show(make: Callable[[], Rule], engine: Any) -> None:
    optimizer = Optimizer([torch.ones(2, 2, requires_grad=True)], make(), engine=engine)
    with pytest.raises(
        ValueError, match=r"^no parameter of this optimizer runs in the fused engine, so there is no kernel to show$"
    ):
        optimizer.kernel_source()


def test_the_kernels_of_all_rules_are_shown_once() -> None:
    groups = [{"params": [weight(), weight()]}, {"params": [weight()]}, {"params": [weight()], "rule": Lion()}]
    source = Optimizer(groups, SignedAverage()).kernel_source()
    assert source == "\n\n".join(Optimizer([weight()], rule).kernel_source() for rule in (SignedAverage(), Lion()))
    for part in source.split("\n\n\n"):
        compile(part, "kernel", "exec")
