"""What a parameter group may hold, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from stepwell.codecs import AS_IT_IS, CHOICES, Codec, Storage, codecs_for
from stepwell.engines.batch import COMPLEX_DTYPES, REAL_DTYPES, names_of
from stepwell.layout import Layout, check_cut, check_stored, refuse_elsewhere, refuse_flattened
from stepwell.rules.hyper import Seed, validated
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule, hyper_parameters
from stepwell.text.naming import meant
from stepwell.text.values import shown

# How a group is stored: what its values may be.
STORAGE = {**CHOICES, "rounding_seed": Seed}
# What a group may hold beside its parameters, its rule, the rule's hyper-parameters and how it is stored.
NOTES = ("name", "why", "role", "param_names", "holds", "running_norm")
# What others write into groups, and read there: torch's schedulers, timm's layer decay, and those who took after it.
OTHERS_NOTES = (
    *("max_lr", "min_lr", "swa_lr", "max_momentum", "base_momentum"),
    *("lr_scale", "lr_multiplier", "layer_id", "wd_multiplier", "is_last_layer"),
)


def new_group(given: Any, default: Rule, stored: Mapping[str, Any], number: int) -> tuple[dict[str, Any], Rule, str]:
    """A parameter group with all its values, its rule, and the words by which errors say which group it is.

    Args:
        given: what the user gave.
        default: the rule of a group that carries none, and the values of one that carries the same.
        stored: how it is stored where it does not say so, by the names of `STORAGE`.
        number: of the group, counted from 0.

    Raises:
        TypeError, ValueError: a key, or a value, that is not what it should be. Its parameters are not looked at.
    """
    if not isinstance(given, dict) or "params" not in given:
        keys = f"only {sorted(map(str, given))}" if isinstance(given, dict) else ""
        found = keys or f"a {type(given).__name__}"
        raise TypeError(f"a parameter group must be a dict with 'params', got {found}")
    group = dict(given)
    where = f" (group {group.get('name', number)!r})"
    names, group["params"] = named_tensors(group["params"], where)
    if names or "param_names" in group:
        group["param_names"] = names or list(group["param_names"])
    rule = group.get("rule", default)
    if not isinstance(rule, (Rule, str)):
        raise TypeError(
            f"rule must be a stepwell.Rule such as stepwell.rules.AdamW(), or a name, got {shown(rule)}{where}"
        )
    kind = type(rule) if isinstance(rule, Rule) else rule_class(rule)
    base = rule if isinstance(rule, Rule) else default if type(default) is kind else kind()
    group["rule"] = kind.__name__
    known = hyper_parameters(kind)
    for key in group:
        of_schedulers = key.startswith("initial_") and key.removeprefix("initial_").partition("[")[0] in known
        if key not in known and key not in ("params", "rule", *STORAGE, *NOTES, *OTHERS_NOTES) and not of_schedulers:
            hint = meant(key, [*known, "rule", *STORAGE, *NOTES])
            way = hint or f"; for a note of your own, set optimizer.param_groups[{number}][{key!r}] afterwards"
            raise TypeError(f"unknown hyper-parameter {key!r} for {kind.__name__}{way}{where}")
    for name, value in base.values().items():
        group[name] = validated(name, group.get(name, value), known[name], where)
    group |= {name: validated(name, group.get(name, stored[name]), STORAGE[name], where) for name in STORAGE}
    try:
        made = kind(**{name: group[name] for name in known})
    except ValueError as error:  # what must hold between hyper-parameters
        raise ValueError(f"{error}{where}") from None
    return group, made, where


def check_stored_as(group: Mapping[str, Any], where: str) -> None:
    """Raise ValueError or TypeError where a group, which is live, is to be stored as nothing can be.

    A storage for which its rule has no state is none: a momentum may be switched off, and on again.
    """
    for name, allowed in STORAGE.items():
        if name in group:
            validated(name, group[name], allowed, where)


def named_tensors(params: Any, where: str) -> tuple[list[str], list[Tensor]]:
    """The names (none, or one each) and the tensors of a group's `params`."""
    if isinstance(params, Tensor):
        params = [params]
    elif isinstance(params, set):
        raise TypeError(f"parameters must come in an order, got a set{where}; use a list")
    entries = list(params)
    names = [entry[0] for entry in entries if isinstance(entry, tuple)]
    tensors = [entry[1] if isinstance(entry, tuple) else entry for entry in entries]
    if names and len(names) != len(tensors):
        raise ValueError(f"either all parameters of a group have names or none{where}")
    if any(isinstance(entry, tuple) and len(entry) != 2 for entry in entries):
        raise ValueError(f"a parameter with a name is a pair (name, tensor){where}")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"an optimizer takes tensors, got a {type(tensor).__name__}{where}")
    return names, tensors


def check_names(group: Mapping[str, Any], others: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raise ValueError where the names of a new group's parameters do not go with its parameters, or with those of the
    groups that are there."""
    if others and ("param_names" in group) != ("param_names" in others[0]):
        way = (
            "give this group's parameters without their names"
            if "param_names" in group
            else "the parameters that are there have names, so write {'params': [('a name', tensor), …]}"
        )
        raise ValueError(f"either all parameter groups have names or none{where}; {way}")
    names = group.get("param_names", [])
    if "param_names" in group and len(names) != len(group["params"]):
        raise ValueError(f"{len(names)} names for {len(group['params'])} parameters{where}")
    known = {name for other in others for name in other.get("param_names", [])}
    for name in names:
        if name in known:
            raise ValueError(f"two parameters are called {name!r}{where}; state is matched by name")
        known.add(name)


def check_fit(
    rule: Rule, parameter: Tensor, name: str, where: str = "", storage: Storage = AS_IT_IS
) -> tuple[Rule, dict[str, Codec]]:
    """The rule fitted to a parameter, and how its weights and slots are stored. Raises ValueError or TypeError where it
    cannot be updated, or stored, so; `name` is what the error calls it, and `where` ends the sentence."""
    if parameter.dtype not in (*REAL_DTYPES, *COMPLEX_DTYPES):
        supported = names_of([*REAL_DTYPES, *COMPLEX_DTYPES])
        raise TypeError(f"parameter {name} has dtype {parameter.dtype}; what can be trained is {supported}{where}")
    if parameter.is_conj() or parameter.is_neg():
        lazy, way = ("conjugate", "conj") if parameter.is_conj() else ("negative", "neg")
        raise ValueError(
            f"parameter {name} is a lazy {lazy} of other memory, which a step does not reach{where}; make it of "
            f"tensor.resolve_{way}()"
        )
    shape = tuple(parameter.shape)
    try:
        fitted = rule.fit(shape)
    except ValueError as error:
        raise ValueError(f"{error}, as parameter {name} has{where}") from None
    if fitted.acts_on == "matrices" and (parameter.ndim < 2 or parameter.is_complex()):
        kind = type(rule).__name__
        raise ValueError(
            f"{kind} acts on real matrices (…, rows, cols), but parameter {name} has shape {shape} and dtype "
            f"{parameter.dtype}{where}; put it into a group with a rule such as 'AdamW', as a recipe does whose routes "
            f"are (Route(rule={kind!r}, select=\"role('hidden matrix')\"), Route(rule='AdamW'))"
        )
    if parameter.is_complex() and any(slot.shape is not None for slot in fitted.slot_list()):
        raise TypeError(f"{type(rule).__name__} takes real parameters, but {name} has dtype {parameter.dtype}{where}")
    try:
        return fitted, codecs_for(fitted, shape, parameter.dtype, storage)
    except ValueError as error:
        raise ValueError(f"{error}, for parameter {name}{where}") from None


def check_parameter(
    rule: Rule, parameter: Tensor, name: str, where: str, storage: Storage, layout: Layout | None
) -> tuple[Rule, dict[str, Codec]]:
    """`check_fit` of a parameter that is to be trained, and may lie in parts on many ranks."""
    if not (parameter.is_leaf or parameter.retains_grad):
        raise ValueError(f"parameter {name} is no leaf: it is the result of an operation{where}")
    refuse_flattened(parameter, name, where)
    fitted, codecs = check_fit(rule, parameter, name, where, storage)
    if layout is not None:
        refuse_elsewhere(parameter, layout, name, where)
        check_parts(fitted, codecs, layout, name, where, storage)
    return fitted, codecs


def check_parts(
    rule: Rule, codecs: Mapping[str, Codec], layout: Layout, name: str, where: str, storage: Storage
) -> None:
    """Raise ValueError, or TypeError for a rule's wrong claim, where the rule, fitted to the parameter, cannot update
    or store its parts so."""
    check_cut(rule, layout, name, where)
    if layout.cuts:
        from stepwell.engines.fused.traces import hold_to_claim  # needed on many ranks alone

        hold_to_claim(rule)
    check_stored(rule, layout, storage, codecs, name, where)
