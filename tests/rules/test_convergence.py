"""Every rule learns: a convex problem on real data, and a narrow curved valley.

All rules are held to the same two figures. What is each rule's own is its rate; a rule without one fails.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import cross_entropy

from conformance.cases import PLAIN_CASES
from stepwell import Optimizer, Rule
from stepwell.rules import AdamW
from stepwell.rules.registry import rule_class

# Softmax regression on the 1,797 digits, all at once: from 2.3 to this cross-entropy in so many steps.
DIGITS_LOSS, DIGITS_STEPS = 0.35, 100
# Rosenbrock's function from (−1, 1), where it is 4: to this value within so many steps. Its minimum is 0 at (1, 1).
VALLEY_VALUE, VALLEY_STEPS = 0.25, 1000

# The rate for either problem, and what else has to differ from the defaults.
RATES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "TransformersAdafactor": ({"relative_step": False, "lr": 0.1}, {"relative_step": False, "lr": 0.1}),
    "TransformersAdamW": ({"lr": 0.01}, {"lr": 0.01}),
    "AdaBelief": ({"lr": 0.01}, {"lr": 0.01}),
    "AdaMuon": ({"lr": 0.1}, {"lr": 0.03}),
    "Adafactor": ({"relative_step": False, "lr": 0.1}, {"relative_step": False, "lr": 0.1}),
    "Adadelta": ({"lr": 5.0}, {"lr": 0.5}),
    "Adagrad": ({"lr": 0.1}, {"lr": 0.5}),
    "Adam": ({"lr": 0.01}, {"lr": 0.01}),
    "AdamMini": ({"lr": 0.01}, {"lr": 0.01}),
    "Adamax": ({"lr": 0.03}, {"lr": 0.01}),
    "AdamW": ({"lr": 0.01}, {"lr": 0.01}),
    "Adan": ({"lr": 0.01}, {"lr": 0.01}),
    "AdEMAMix": ({"lr": 0.01}, {"lr": 0.01}),
    "ADOPT": ({"lr": 0.03}, {"lr": 0.01}),
    "ASGD": ({"lr": 1.0}, {"lr": 0.003}),
    "CAME": ({"lr": 0.01}, {"lr": 0.01}),
    "DAdaptAdam": ({}, {}),
    "Dion": ({"lr": 0.3}, {"lr": 0.03}),
    "Kron": ({"lr": 0.1}, {"lr": 0.03}),
    "LAMB": ({"lr": 0.03}, {"lr": 0.07}),
    "LARS": ({"lr": 3.0}, {"lr": 5.0}),
    "Lion": ({"lr": 0.01}, {"lr": 0.01}),
    "MARS": ({"lr": 0.01}, {"lr": 0.01}),
    "Muon": ({"lr": 0.1}, {"lr": 0.03}),
    "NAdam": ({"lr": 0.02}, {"lr": 0.01}),
    "NorMuon": ({"lr": 0.1}, {"lr": 0.03}),
    "NovoGrad": ({"lr": 0.03}, {"lr": 0.01}),
    "Prodigy": ({}, {}),
    "RAdam": ({"lr": 0.1}, {"lr": 0.005, "betas": (0.9, 0.99)}),
    "RMSprop": ({"lr": 0.01}, {"lr": 0.003}),
    "Rprop": ({"lr": 0.01}, {"lr": 0.01}),
    "ScheduleFreeAdamW": ({"lr": 0.03}, {"lr": 0.03}),
    "ScheduleFreeRAdam": ({"lr": 0.3}, {"lr": 0.1}),
    "ScheduleFreeSGD": ({"lr": 2.0}, {"lr": 0.01}),
    "Scion": ({"lr": 0.3, "unconstrained": True}, {"lr": 0.03, "unconstrained": True}),
    "SGD": ({"lr": 1.0}, {"lr": 0.003}),
    "Shampoo": ({"lr": 1.0}, {"lr": 0.3}),
    "SignSGD": ({"lr": 0.01}, {"lr": 0.002}),
    "SOAP": ({"lr": 0.1}, {"lr": 0.03}),
    "StableAdamW": ({"lr": 0.01}, {"lr": 0.01}),
    "Tiger": ({"lr": 0.01}, {"lr": 0.01}),
    "Yogi": ({"lr": 0.02}, {"lr": 0.01}),
}

EVERY_RULE = pytest.mark.parametrize("name", [case.name for case in PLAIN_CASES if "(" not in case.name])


def _rule(name: str, problem: int) -> Rule:
    if name not in RATES:
        pytest.fail(f"state in RATES at which rates {name} learns")
    return rule_class(name)(**RATES[name][problem])


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


@EVERY_RULE
def test_digits(name: str) -> None:
    images, labels = _digits()
    # Not from 0: rules that scale their step to the weights would stand still.
    weight = (0.1 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0))).requires_grad_()
    bias = torch.zeros(10, requires_grad=True)
    rule = _rule(name, 0)
    of_bias = AdamW(lr=0.01) if rule.acts_on == "matrices" else rule
    optimizer = Optimizer([{"params": [weight]}, {"params": [bias], "rule": of_bias}], rule)

    def loss() -> Tensor:
        return cross_entropy(images @ weight.T + bias, labels)

    for _ in range(DIGITS_STEPS):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    with optimizer.averaged():
        assert loss().item() < DIGITS_LOSS


@EVERY_RULE
def test_the_valley(name: str) -> None:
    rule = _rule(name, 1)
    point = torch.tensor([-1.0, 1.0])
    point = (point.reshape(1, 2) if rule.acts_on == "matrices" else point).requires_grad_()
    optimizer = Optimizer([point], rule)

    def value() -> Tensor:
        x, y = point.flatten()
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    least = value().item()
    for _ in range(VALLEY_STEPS):
        optimizer.zero_grad()
        value().backward()
        optimizer.step()
        with optimizer.averaged(), torch.no_grad():
            least = min(least, value().item())
        if least < VALLEY_VALUE:
            return
    pytest.fail(f"{name} came to {least:.3g} in {VALLEY_STEPS} steps, not to {VALLEY_VALUE}")


def test_the_rates_are_of_rules_that_there_are() -> None:
    assert set(RATES) <= {case.name for case in PLAIN_CASES}
