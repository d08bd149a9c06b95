"""Weights to train on and weights to evaluate on, for rules that keep an average (Schedule-Free).

A group whose rule has an average says in `group["holds"]` which of the two its parameters hold now. The state dict
adds a fingerprint, a few of the weights, so that weights saved in one mode and state saved in the other are found out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from stepwell.engines.batch import State
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import namespace

Holds = Literal["training", "averaged"]

_LOG = logging.getLogger("stepwell")
_PARAMETERS, _ELEMENTS = 8, 4
# Weights may have gone through bfloat16 on their way: 8 bits of mantissa.
_TOLERANCE = 2.0**-7


def has_average(rule: str) -> bool:
    """Whether the rule of this name keeps an average of the weights."""
    return hasattr(rule_class(rule), "averaged")


def fingerprint(group: Mapping[str, Any]) -> list[float]:
    """A few weights of the group, at fixed places."""
    return [value for p in _sampled(group) for value in _values(p)]


def recognise(group: Mapping[str, Any], state: Mapping[Tensor, State], saved: list[float], saved_holds: Holds) -> Holds:
    """Which weights the group holds, given the fingerprint and mode that its state was saved with.

    Raises ValueError where the weights are neither those that were saved nor their counterpart.
    """
    current = fingerprint(group)
    if len(current) != len(saved):
        raise ValueError(_strangers("the parameters have other shapes"))
    expected = torch.tensor(saved, dtype=torch.float64)
    now = torch.tensor(current, dtype=torch.float64)
    other: Holds = "training" if saved_holds == "averaged" else "averaged"
    counterpart = _counterpart(group, state, expected, other)
    size = float(expected.abs().max()) if len(saved) else 0.0
    to_saved, to_other = float((now - expected).abs().max()), float((now - counterpart).abs().max())
    if min(to_saved, to_other) > _TOLERANCE * size:
        raise ValueError(_strangers(f"they differ by up to {min(to_saved, to_other):.3g}"))
    if to_saved <= to_other:
        return saved_holds
    _LOG.warning(
        "the weights loaded are the %s ones, the state was saved with the %s ones: put right", other, saved_holds
    )
    return other


def _strangers(how: str) -> str:
    return (
        f"the model's weights are neither those that this optimizer state was saved with nor their average ({how}); "
        "load the weights of the same checkpoint, or, to go on with these, delete 'fingerprint' from its param_groups"
    )


def _counterpart(group: Mapping[str, Any], state: Mapping[Tensor, State], weights: Tensor, to: Holds) -> Tensor:
    """The sampled weights in the other mode."""
    kind = rule_class(group["rule"])
    rule = kind(**{name: group[name] for name in kind.field_names()})
    found, position = [], 0
    for p in _sampled(group):
        count = len(_values(p))
        piece = weights[position : position + count]
        position += count
        if state.get(p):
            slots = {
                slot.name: torch.tensor(_values(state[p][slot.name]), dtype=torch.float64)
                for slot in rule.slot_list()
                if not slot.scalar
            }
            piece = getattr(rule, to)(piece, namespace(slots), namespace(rule.values()))
        found.append(piece)
    return torch.cat(found) if found else weights


def _sampled(group: Mapping[str, Any]) -> list[Tensor]:
    parameters = list(group["params"])
    if "param_names" in group:  # state is matched by name, so the order of the names is the one that stays
        parameters = [
            p for _, p in sorted(zip(group["param_names"], parameters, strict=True), key=lambda pair: pair[0])
        ]
    parameters = [p for p in parameters if p.numel()]
    return parameters[:: max(1, -(-len(parameters) // _PARAMETERS))]


def _values(tensor: Tensor) -> list[float]:
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    flat = real.reshape(-1)
    values: list[float] = flat[:: max(1, -(-flat.numel() // _ELEMENTS))].double().tolist()
    return values
