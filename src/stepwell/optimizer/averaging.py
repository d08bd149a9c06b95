"""Weights to train on and weights to evaluate on, for rules that keep an average (Schedule-Free).

A group whose rule has an average says in `group["holds"]` which of the two its parameters hold now. A state dict adds
`"fingerprint"`, a few elements of every parameter, so that weights saved in one mode and state saved in the other are
found out. It stands in the live group only from a load to the first step, which looks at it and takes it away.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from stepwell.codecs import WEIGHTS, names_beside
from stepwell.engines.batch import State
from stepwell.layout import layout_of
from stepwell.optimizer.bucket import real
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule, namespace

Holds = Literal["training", "averaged"]

_LOG = logging.getLogger("stepwell")
_ELEMENTS = 4
# Weights may have gone through bfloat16 on their way: 8 bits of mantissa.
_TOLERANCE = 2.0**-7


def has_average(rule: str) -> bool:
    """Whether the rule of this name keeps an average of the weights."""
    return hasattr(rule_class(rule), "averaged")


def copies(groups: list[dict[str, Any]], state: Mapping[Tensor, State]) -> list[tuple[Tensor, Tensor]]:
    """What these groups' parameters hold and what is kept beside it, each with a copy. An average that changes places
    with the weights comes along where it would be rounded to their dtype, and back."""
    found: list[Tensor] = []
    for group in groups:
        rule = rule_class(group["rule"]).of(group)
        for p in group["params"]:
            if slots := state.get(p):
                exchanged = _changes_places(rule.fit(tuple(p.shape)))
                beside = [slots[name] for name in names_beside(WEIGHTS) if name in slots]
                found += [p, *beside, *(slots[name] for name in exchanged if slots[name].dtype != p.dtype)]
    return [(part, part.detach().clone()) for part in found]


def _changes_places(rule: Rule) -> tuple[str, ...]:
    """The slots that hold the weights to train on while the parameters hold the average, and the average else."""
    slots = namespace({slot.name: 0.0 for slot in rule.slot_list()})
    return tuple(rule.exchange("averaged", 0.0, slots, namespace(rule.values()))[1])


def fingerprint(parameters: list[Tensor]) -> list[list[float]]:
    """For each parameter a few of its elements, always from the same places."""
    return [_sample(parameter) for parameter in parameters]


def recognise(group: Mapping[str, Any], state: Mapping[Tensor, State], saved: list[list[float]]) -> Holds:
    """Which weights the group holds, given the fingerprint that its state was saved with.

    Raises ValueError where the weights are neither those that were saved nor their counterpart.
    """
    holds: Holds = group["holds"]
    other: Holds = "training" if holds == "averaged" else "averaged"
    tensors = [*group["params"], *(slot for p in group["params"] for slot in state.get(p, {}).values())]
    if any(isinstance(tensor, Tensor) and layout_of(tensor) for tensor in tensors):
        return holds  # on many ranks the sampled elements are not at hand
    current = fingerprint(group["params"])
    if list(map(len, current)) != list(map(len, saved)):
        raise ValueError(_strangers("the parameters have other shapes"))
    now, expected = _joined(current), _joined(saved)
    if not len(now):
        return holds
    sampled, change_places = _counterparts(group, state, saved, other)
    counterpart = _joined(sampled)
    to_saved, to_other = _distance(now, expected), _distance(now, counterpart)
    if min(to_saved, to_other) > _TOLERANCE * float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max()):
        raise ValueError(_strangers(f"they differ by up to {min(to_saved, to_other):.3g}"))
    if to_saved <= to_other:
        return holds
    if change_places:
        raise ValueError(
            f"the model's weights are the {other} ones, but this optimizer state was saved with the {holds} ones, in "
            "whose place it keeps the others; load the weights of the same checkpoint"
        )
    _LOG.warning("the weights loaded are the %s ones, the state was saved with the %s ones: put right", other, holds)
    return other


def _distance(weights: Tensor, others: Tensor) -> float:
    """The largest difference. NaN is as far from a number as infinity is, and like infinity no distance from itself."""
    same = (weights == others) | (weights.isnan() & others.isnan())
    apart = (weights - others).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    return float(apart.masked_fill(same, 0.0).max())


def _strangers(how: str) -> str:
    return (
        f"the model's weights are neither those that this optimizer state was saved with nor their average ({how}); "
        "load the weights of the same checkpoint, or, to go on with these, delete 'fingerprint' from its param_groups"
    )


def _counterparts(
    group: Mapping[str, Any], state: Mapping[Tensor, State], samples: list[list[float]], to: Holds
) -> tuple[list[list[float]], bool]:
    """The sampled weights in the other mode, and whether a slot holds those and gets these in exchange."""
    whole = rule_class(group["rule"]).of(group)
    found, change_places = [], False
    for parameter, sample in zip(group["params"], samples, strict=True):
        if slots := state.get(parameter):
            rule = whole.fit(tuple(parameter.shape))
            names = [slot.name for slot in rule.slot_list() if isinstance(slots.get(slot.name), Tensor)]
            s = namespace({name: _joined([_sample(slots[name])]) for name in names})
            weights, exchanged = rule.exchange(to, _joined([sample]), s, namespace(rule.values()))
            change_places = change_places or bool(exchanged)
            found.append(weights.tolist())
        else:
            found.append(sample)
    return found, change_places


def _sample(tensor: Tensor) -> list[float]:
    flat = real(tensor.detach()).reshape(-1)
    values: list[float] = flat[:: max(1, -(-flat.numel() // _ELEMENTS))].double().tolist()
    return values


def _joined(samples: list[list[float]]) -> Tensor:
    return torch.tensor([value for sample in samples for value in sample], dtype=torch.float64, device="cpu")
