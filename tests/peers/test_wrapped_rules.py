"""Equality of the wrappers with other libraries' of the same kind, in float64.

Each inner rule is the other library's or torch's own, but inside `schedulefree.ScheduleFreeWrapper`, which takes only
optimizers that do not ask whether there is state: there it is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell
from conformance.cases import assert_near
from conformance.training import copies
from peers.training import STEPS, gradients, step, weights
from stepwell import cautious, grokfast, lookahead, sam, schedule_free
from stepwell.rules import SGD, AdamW, RMSprop, Rule

pytestmark = pytest.mark.peers

ENGINES = pytest.mark.parametrize("engine", ["reference", "foreach", "fused"])
ADAMW: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1}


@pytest.mark.parametrize(("k", "alpha"), [(1, 0.5), (4, 0.3)])
@ENGINES
def test_lookahead(engine: str, k: int, alpha: float) -> None:
    from pytorch_optimizer import Lookahead

    mine, expected = weights(), weights()
    ours = stepwell.Optimizer(mine, lookahead(AdamW(**ADAMW), k=k, alpha=alpha), engine=engine)
    theirs = Lookahead(torch.optim.AdamW(expected, **ADAMW), k=k, alpha=alpha)
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
        assert_near(copies(mine), copies(expected), 1e-12)


@pytest.mark.parametrize(
    ("rule", "decay_at_y"),
    [(SGD(lr=0.05, weight_decay=0.1, decay="decoupled"), 0.1), (RMSprop(lr=0.02, alpha=0.8), 0.0)],
    ids=["sgd", "rmsprop"],
)
@ENGINES
def test_schedule_free(engine: str, rule: Rule, decay_at_y: float) -> None:
    from schedulefree import ScheduleFreeWrapper

    mine, expected = weights()[1:], weights()[1:]  # theirs takes no numbers without dimensions
    ours = stepwell.Optimizer(mine, schedule_free(rule, interpolation=0.8, r=1.0), engine=engine)
    base = stepwell.Optimizer(expected, rule.but(weight_decay=0.0), engine="reference")
    theirs = ScheduleFreeWrapper(base, momentum=0.8, weight_decay_at_y=decay_at_y, r=1.0)
    theirs.train()
    for number in range(1, STEPS + 1):
        for parameters, optimizer in ((mine, ours), (expected, theirs)):
            for p, gradient in zip(parameters, gradients(number)[1:], strict=True):
                p.grad = gradient
            optimizer.step()
        assert_near(copies(mine), copies(expected), 1e-12)
    theirs.eval()
    with ours.averaged():
        assert_near(copies(mine), copies(expected), 1e-12)


@ENGINES
def test_grokfast(engine: str) -> None:
    # Theirs begins the slow gradient with the first gradient, ours with 0; it bounds the root where we add ε.
    from pytorch_optimizer import GrokFastAdamW

    mine, expected = weights(), weights()
    ours = stepwell.Optimizer(mine, grokfast(AdamW(**ADAMW, eps=0.0), alpha=0.7, lamb=2.0), engine=engine)
    for p, gradient in zip(mine, gradients(1), strict=True):
        ours.state[p]["slow_gradient"] = gradient.clone()
    settings = {"grokfast_alpha": 0.7, "grokfast_lamb": 2.0, "normalize_lr": False, "foreach": False}
    theirs = GrokFastAdamW(expected, **ADAMW, eps=1e-300, **settings)
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
        assert_near(copies(mine), copies(expected), 1e-11)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@ENGINES
def test_cautious(engine: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # HeavyBall keeps rates and memories in float32.
    import heavyball

    monkeypatch.setattr(heavyball.utils, "compile_mode", None)
    mine, expected = weights(), weights()
    rule: Rule = SGD(lr=0.05, momentum=0.8) if name == "SGD" else AdamW(**ADAMW, eps=1e-30)
    values = {"lr": 0.05, "beta": 0.8} if name == "SGD" else {**ADAMW, "eps": 1e-30}
    ours = stepwell.Optimizer(mine, cautious(rule), engine=engine)
    theirs = getattr(heavyball, name)(expected, caution=True, storage_dtype="float64", **values)
    for number in range(1, STEPS + 1):
        step(ours, mine, number)
        step(theirs, expected, number)
        assert_near(copies(mine), copies(expected), 1e-6)


@ENGINES
def test_sam(engine: str) -> None:
    # Theirs works the norm of the gradients out in float32.
    from pytorch_optimizer import SAM

    def closure_of(parameters: list[Tensor], optimizer: Any) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = sum((((p - 1) ** 4).sum() for p in parameters), torch.zeros((), dtype=torch.float64))
            loss.backward()
            return loss

        return closure

    mine, expected = weights(), weights()
    values = {"lr": 1e-3, "momentum": 0.8}
    ours = stepwell.Optimizer(mine, sam(SGD(**values), rho=0.3), engine=engine)
    theirs = SAM(expected, torch.optim.SGD, rho=0.3, perturb_eps=0.0, **values)
    closure, other = closure_of(mine, ours), closure_of(expected, theirs)
    for _ in range(STEPS):
        ours.step(closure)
        other()
        theirs.step(other)
        assert_near(copies(mine), copies(expected), 1e-6)
