"""Weight decay means for every rule what it means for one, worked out from the step without decay."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor

from conformance.cases import PLAIN_CASES, Case, assert_near
from conformance.training import give_gradients, parameters_of, trained
from stepwell import Optimizer
from stepwell.rules.rule import Decay, hyper_parameters

DECAY = 0.3

# A wrapper changes the gradient, or what is decayed: its decay is the rule's own, and tested where the wrappers are.
RULES = [case for case in PLAIN_CASES if "(" not in case.name]

# Every kind that a rule takes, in the engines that are cheap; the fused engine sees the same arithmetic, traced, and
# compiles it anew for each kind: one rule stands for all.
ROWS = [
    pytest.param(case, kind, engine, id=f"{case.name}-{kind}-{engine}")
    for case in RULES
    for kind in get_args(Decay)
    if kind in get_args(hyper_parameters(type(case.rule))["decay"])
    for engine in case.engines
    if engine != "fused" or case.name == "SGD"
]


def _third_step(optimizer: Optimizer, decay: str, weight_decay: float, *, l2: float = 0.0) -> list[Tensor]:
    """The weights after one more step, with this decay and with l2·θ added to the gradients."""
    twin = copy.deepcopy(optimizer)
    twin.param_groups[0].update(decay=decay, weight_decay=weight_decay)
    parameters = twin.param_groups[0]["params"]
    give_gradients(parameters, step=3)
    for p in parameters:
        p.grad += l2 * p.detach()
    twin.step()
    return parameters_of(twin)


@pytest.mark.parametrize(("case", "kind", "engine"), ROWS)
def test_each_kind_of_decay(case: Case, kind: str, engine: str) -> None:
    # In float64, from the third step on, when every rule moves.
    optimizer = trained(case, engine, torch.float64, steps=2)
    before, lr = parameters_of(optimizer), optimizer.param_groups[0]["lr"]
    plain = _third_step(optimizer, kind, 0.0)
    expected = {
        "coupled": lambda: _third_step(optimizer, kind, 0.0, l2=DECAY),
        "decoupled": lambda: [after - lr * DECAY * p for after, p in zip(plain, before, strict=True)],
        "independent": lambda: [after - DECAY * p for after, p in zip(plain, before, strict=True)],
        "proximal": lambda: [after / (1 + lr * DECAY) for after in plain],
    }[kind]()
    assert_near(_third_step(optimizer, kind, DECAY), expected, 1e-12)


def test_rules_take_every_kind_unless_their_paper_forbids_it() -> None:
    narrower = {case.name for case in RULES if not set(get_args(Decay)) <= _kinds(case)}
    assert {name for name in narrower if not name.startswith("ScheduleFree")} == {
        "LAMB",  # inside the trust ratio
        "LARS",
        "NovoGrad",  # inside the momentum
        "Adafactor",  # "inside" is at the relative rate; it has no proximal step
        "DAdaptAdam",  # "inside" is at the rate that is found: at `lr`, which is 1, it would be another's
        "Prodigy",
        "TransformersAdafactor",  # as in the original
        "TransformersAdamW",
    }


def _kinds(case: Case) -> set[str]:
    return set(get_args(hyper_parameters(type(case.rule))["decay"]))
