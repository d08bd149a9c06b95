"""What the conformance suite crosses: rules with their flags, engines, dtypes, and how near they have to come.

A rule that is registered is here by itself, with its defaults. `VARIANTS` names the flags of a rule that change its
arithmetic or its slots; `SETTINGS` gives numbers that make a few steps tell (defaults are often too gentle to show a
mistake in four steps).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import stepwell.integrations.huggingface  # noqa: F401 - it has rules, too
from stepwell.algebra.tensors import working_dtype
from stepwell.engines.choice import engine_for
from stepwell.rules import (
    SGD,
    AdamW,
    Rule,
    agc,
    cautious,
    clip_value,
    column_wise,
    ema,
    grokfast,
    lookahead,
    row_wise,
    schedule_free,
)
from stepwell.rules.registry import rule_class, rule_names

SETTINGS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "weight_decay": 0.1},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    "RMSprop": {"lr": 0.02, "alpha": 0.8, "weight_decay": 0.1},
    "Adadelta": {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1},
    "Adam": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1},
    "AdamW": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.2},
    "NAdam": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "momentum_decay": 0.1},
    "RAdam": {"lr": 0.05, "betas": (0.8, 0.99), "weight_decay": 0.1},
    "Adamax": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1},
    "ASGD": {"lr": 0.05, "lambd": 0.1, "t0": 1, "weight_decay": 0.1},
    "Rprop": {"lr": 0.02, "step_sizes": (0.015, 0.025), "weight_decay": 0.3},
    "SignSGD": {"lr": 0.02, "weight_decay": 0.5},
    "LARS": {"lr": 1.0, "momentum": 0.8, "weight_decay": 0.1, "trust_coefficient": 0.02},
    "Yogi": {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "initial_accumulator_value": 0.1},
    "AdaBelief": {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.1, "eps": 1e-4},
    "Adan": {"lr": 0.05, "betas": (0.8, 0.7, 0.9), "weight_decay": 0.1},
    "ADOPT": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "eps": 1e-2},
    "AdEMAMix": {"lr": 0.02, "betas": (0.8, 0.9, 0.95), "weight_decay": 0.1, "alpha": 3.0},
    "StableAdamW": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "eps": 1e-3},
    "Tiger": {"lr": 0.02, "beta": 0.7, "weight_decay": 0.5},
    "MARS": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "gamma": 0.3},
    "Lion": {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.5},
    "LAMB": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1},
    "Muon": {"lr": 0.05, "momentum": 0.8},
    "NorMuon": {"lr": 0.05, "momentum": 0.8, "beta2": 0.9},
    "AdaMuon": {"lr": 0.05, "momentum": 0.8, "beta2": 0.9},
    "Scion": {"lr": 0.05, "momentum": 0.3},
    "Dion": {"lr": 0.05, "mu": 0.8, "rank_fraction": 0.5},
    "SOAP": {"lr": 0.05, "betas": (0.8, 0.9), "precondition_frequency": 2, "max_precond_dim": 5},
    "Shampoo": {"lr": 0.05, "weight_decay": 0.1, "eps": 0.1},
    "Kron": {"lr": 0.05, "b1": 0.8, "max_size_triangular": 5},
    "Adafactor": {"lr": 0.05, "weight_decay": 0.1},
    "CAME": {"lr": 0.02, "betas": (0.8, 0.9, 0.95), "weight_decay": 0.1},
    "AdamMini": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.2},
    "NovoGrad": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1},
    "Prodigy": {"lr": 0.8, "betas": (0.8, 0.9), "d0": 0.02, "weight_decay": 0.1},
    "DAdaptAdam": {"lr": 0.8, "betas": (0.8, 0.9), "d0": 0.02, "eps": 1e-2, "weight_decay": 0.1},
    "ScheduleFreeSGD": {"lr": 0.05, "weight_decay": 0.1, "warmup_steps": 3},
    "ScheduleFreeAdamW": {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "warmup_steps": 3, "r": 1.0},
    "ScheduleFreeRAdam": {"lr": 0.05, "betas": (0.8, 0.99), "weight_decay": 0.1, "silent_sgd_phase": False},
    "TransformersAdamW": {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.2},
    "TransformersAdafactor": {"lr": 0.05, "relative_step": False, "weight_decay": 0.1},
}

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "SGD": {
        "momentum": {"momentum": 0.8, "dampening": 0.3},
        "nesterov": {"momentum": 0.8, "nesterov": True},
        "decoupled": {"momentum": 0.8, "decay": "decoupled"},
        "average": {"momentum": 0.8, "average": True, "nesterov": True, "decay": "independent"},
    },
    "RMSprop": {
        "momentum": {"momentum": 0.8},
        "centered": {"centered": True, "momentum": 0.8},
    },
    "Adam": {"amsgrad": {"amsgrad": True}, "uncorrected": {"correct_bias": False}},
    "AdamW": {"amsgrad": {"amsgrad": True}},
    "SignSGD": {"momentum": {"momentum": 0.7}},
    "LARS": {"nesterov": {"nesterov": True}},
    "ADOPT": {"unclipped": {"clip_exp": None}},
    "AdEMAMix": {"warm-up": {"alpha_warmup": 3, "beta3_warmup": 3}},
    "StableAdamW": {"decoupled": {"decay": "decoupled"}},
    "Muon": {
        "plain": {"nesterov": False},
        "match_rms_adamw": {"adjust_lr_fn": "match_rms_adamw"},
        "polar_express": {"polar_express": True},
    },
    "NorMuon": {"original": {"adjust_lr_fn": "original"}},
    "AdaMuon": {"momentum": {"sign_stabilized": False}},
    "Scion": {"unconstrained": {"unconstrained": True}, "sign": {"norm": "sign"}},
    "SOAP": {
        "one_sided": {"one_sided": True},
        "normalized": {"normalize_grads": True, "correct_bias": False},
        "unmerged": {"merge_dims": False, "conv1d": True},
    },
    "Shampoo": {
        "momentum": {"momentum": 0.8, "beta2": 0.9, "decay": "decoupled"},
        "seldom": {"precondition_frequency": 2, "max_precond_dim": 3},
    },
    "Kron": {"gradient": {"momentum_into_precond_update": False, "preconditioner_update_probability": 0.5}},
    "Adafactor": {
        "momentum": {"beta1": 0.8, "clip_threshold": 0.7},
        "torch": {"eps_as_floor": True, "eps": (2.0**-23, 1e-3), "decay": "decoupled"},
        "constant": {"relative_step": False, "scale_parameter": False},
        "warmup": {"warmup_init": True},
    },
    "TransformersAdamW": {"uncorrected": {"correct_bias": False}},
    # Its relative steps know no learning rate, which half of this suite changes: tests/peers has them.
    "TransformersAdafactor": {"constant": {"scale_parameter": False, "beta1": 0.8}},
    "AdamMini": {"tensor": {"blocks": "tensor"}, "heads": {"heads": 2}},
    "NovoGrad": {"averaging": {"grad_averaging": True}},
    "Prodigy": {
        "corrected": {"use_bias_correction": True, "safeguard_warmup": True, "beta3": 0.9, "decay": "coupled"},
        "limited": {"growth_rate": 1.1},
    },
    "DAdaptAdam": {
        "corrected": {"use_bias_correction": True, "decay": "inside"},
        "limited": {"growth_rate": 1.1},
    },
}

# Rules that move by signs alone: the sign of NaN is 0.
BY_SIGN = ("Lion", "Rprop", "SignSGD", "Tiger")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# How far weights of size 1 may be from the float64 reference after a few steps: the rounding of each stored number
# (half an ulp: 1e-16, 6e-8, 4e-3, 5e-4), a few times over.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 3e-2, torch.float16: 3e-3}


@dataclass(frozen=True)
class Case:
    """A rule with its hyper-parameters, under a name for the test's report."""

    name: str
    rule: Rule

    @property
    def engines(self) -> tuple[str, ...]:
        """The engines that are different for this rule: matrix rules have one of their own."""
        if self.rule.acts_on == "matrices":
            return ("reference", "auto")
        return ("reference", "foreach", "fused" if self.fuses else "auto")

    @property
    def fuses(self) -> bool:
        """Whether the fused engine runs the rule for parameters of all its shapes."""
        try:
            for shape in self.shapes:
                engine_for("fused", self.rule.fit(shape), torch.empty(shape))
        except ValueError:
            return False
        return True

    @property
    def sees_rows(self) -> bool:
        """Whether the rule asks how a tensor lies in rows and columns."""
        shapes = {slot.shape for slot in self.rule.slot_list()}
        return bool(shapes & {row_wise, column_wise})

    @property
    def measures(self) -> bool:
        """Whether the rule looks at all parameters before it updates any: they are not independent then."""
        return type(self.rule).measure is not Rule.measure

    @property
    def takes_complex(self) -> bool:
        """Whether the rule takes complex parameters, as pairs of reals."""
        return self.rule.acts_on != "matrices" and not any(
            slot.shape for shape in self.shapes for slot in self.rule.fit(shape).slot_list()
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes that the rule takes; the smallest has no element, the largest more than one block of a reduction."""
        if self.rule.acts_on == "matrices":
            return ((4, 3), (3, 7), (2, 4, 4), (4, 3), (70, 66), (0, 3))
        return ((), (0,), (5,), (4, 3), (2, 3, 4, 2), (1500,))

    def tolerance(self, dtype: torch.dtype) -> float:
        """How far a weight of size 1 may be from the float64 reference."""
        if "AdaMuon" in self.name and dtype == torch.float16:
            return 2e-2  # its second moment is of numbers of size 1/cols, whose squares float16 holds badly
        if self.rule.acts_on == "matrices" and dtype != torch.float64:
            # Newton–Schulz carries the rounding of the dtype it multiplies in through five steep polynomials.
            multiplied_in = working_dtype(torch.device("cpu"), dtype)
            return max(TOLERANCE[dtype], {torch.bfloat16: 2e-2, torch.float32: 1e-5}[multiplied_in])
        return TOLERANCE[dtype]

    def but(self, **values: Any) -> Case:
        """The same case with other hyper-parameters."""
        return Case(self.name, type(self.rule)(**{**self.rule.values(), **values}))


def _cases() -> list[Case]:
    found = []
    for name in rule_names():
        kind = rule_class(name)
        if not kind.__module__.startswith("stepwell."):
            continue  # a rule that a test has defined
        settings = SETTINGS.get(name, {})
        found.append(Case(name, kind(**settings)))
        variants = VARIANTS.get(name, {})
        found += [Case(f"{name}-{flag}", kind(**{**settings, **values})) for flag, values in variants.items()]
    return found


def _wrapped() -> list[Case]:
    """Every wrapper but `sam`, which needs a closure, around a rule with slots for averages and one with a flag."""
    inner = [AdamW(**SETTINGS["AdamW"]), SGD(**SETTINGS["SGD"], momentum=0.8)]
    return (
        [
            Case(type(rule).__name__, rule)
            for each in inner
            for rule in (cautious(each), lookahead(each, k=2), ema(each, decay=0.3), grokfast(each, alpha=0.8))
        ]
        + [Case(type(rule).__name__, rule) for rule in (clip_value(inner[0], limit=0.5), agc(inner[1], ratio=0.2))]
        + [
            Case(type(rule).__name__, rule)
            for each in (AdamW(**{**SETTINGS["AdamW"], "betas": (0.0, 0.9)}), SGD(**SETTINGS["SGD"]))
            for rule in (schedule_free(each, warmup_steps=3),)
        ]
    )


CASES = [*_cases(), *_wrapped()]
PLAIN_CASES = [case for case in CASES if "-" not in case.name]


def rows(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrize a test with `case`."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


def rows_and_engines(cases: list[Case], *, reference: bool = True, fused_variants: bool = True) -> pytest.MarkDecorator:
    """Parametrize a test with `case` and `engine`, for every engine that serves the case.

    Without `fused_variants` the fused engine sees each rule with its default flags only: for tests of dtypes that no
    other test uses, for each of them costs a compilation.
    """
    pairs = [
        pytest.param(case, engine, id=f"{case.name}-{engine}")
        for case in cases
        for engine in case.engines
        if (reference or engine != "reference") and (fused_variants or engine != "fused" or case in PLAIN_CASES)
    ]
    return pytest.mark.parametrize(("case", "engine"), pairs)


def acting_on(*kinds: str, among: list[Case] = CASES) -> list[Case]:
    """The cases whose rule acts on elements, tensors, or matrices."""
    return [case for case in among if case.rule.acts_on in kinds]


def such_as(condition: Callable[[Case], bool], among: list[Case] = CASES) -> list[Case]:
    """The cases for which the condition holds."""
    return [case for case in among if condition(case)]


def assert_near(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Numbers within `tolerance`, relative for those above 1 and absolute for those below; NaN where NaN is."""
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.double(), e.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def assert_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    """The very same numbers, NaN included."""
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)
