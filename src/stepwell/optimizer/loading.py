"""From a state dict, ours or torch's, to an optimizer's state and groups. Nothing is changed before all is checked."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from stepwell.codecs import WEIGHTS, Storage, codecs_for, names_beside, slot_codec
from stepwell.engines.batch import State, without_numpy
from stepwell.layout import layout_of, local, refuse_anothers_part
from stepwell.optimizer.averaging import fingerprint
from stepwell.optimizer.groups import NOTES, OTHERS_NOTES
from stepwell.rules.hyper import Seed, validated
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule, Shape, Slot, hyper_parameters, switched
from stepwell.text.naming import ENGINE_FLAGS, TORCHS_NAMES

# Rules of torch's whose kind of decay is a flag of theirs.
TORCH_HAS_A_FLAG = frozenset({"Adam", "AdamW", "NAdam", "RAdam"})

# What a loaded group has as it was before, or gets otherwise.
_STAYS = frozenset({"params", "param_names", "rule", "fingerprint", "state_dtype", "master"})

# torch's names for a rule's hyper-parameters, where they are not ours.
_TORCHS_NAMES = {"Adafactor": TORCHS_NAMES}

Loaded = tuple[defaultdict[Tensor, State], list[dict[str, Any]]]


def notes_for_state_dict(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a group says in a state dict beside what it holds: a fingerprint of its weights where an average is kept,
    and what torch has other names for. And in place of NumPy's numbers, which `torch.load` refuses: Python's."""
    found = {name: without_numpy(value) for name, value in group.items() if name != "params"}
    notes = {name: value for name, value in found.items() if value is not group[name]}
    if "holds" in group and "fingerprint" not in group:
        # On many ranks the few elements are not at hand. The key is there all the same: what loads into a state dict
        # that has it, as torch.distributed.checkpoint does, wants to find it.
        notes["fingerprint"] = [] if any(map(layout_of, group["params"])) else fingerprint(group["params"])
    if group["rule"] in TORCH_HAS_A_FLAG and group["decay"] in ("coupled", "decoupled"):
        notes["decoupled_weight_decay"] = group["decay"] == "decoupled"
    for theirs, ours in _TORCHS_NAMES.get(group["rule"], {}).items():
        notes[theirs] = group[ours]
    return notes


def loaded(
    groups: list[dict[str, Any]],
    state_dict: Mapping[str, Any],
    name_of: Callable[[Tensor], str],
    home_of: Callable[[Tensor], torch.device],
    *,
    copy: bool = True,
) -> Loaded:
    """The state and the groups that the state dict gives to an optimizer with these groups.

    Parameters are matched by name where both sides have names, else by their order. Slots are copies, or, without
    `copy`, the state dict's own tensors where these are at home: on the device where their parameter's state lies.
    Raises ValueError where they do not match, where a slot has another shape than its parameter or is another
    rank's part, where the rules differ, and where codes of 8 bits were read as numbers.
    """
    try:
        return _loaded(groups, state_dict, name_of, home_of, copy)
    except torch.OutOfMemoryError:
        raise
    except (LookupError, AttributeError, OverflowError, RuntimeError) as error:
        raise ValueError(f"this is no optimizer's state dict: {type(error).__name__}: {error}") from error


def _loaded(
    groups: list[dict[str, Any]],
    state_dict: Mapping[str, Any],
    name_of: Callable[[Tensor], str],
    home_of: Callable[[Tensor], torch.device],
    copy: bool,
) -> Loaded:
    saved_groups = _saved_groups(state_dict)
    if len(groups) != len(saved_groups):
        raise ValueError(f"the state dict has {len(saved_groups)} parameter groups, this optimizer has {len(groups)}")
    new_groups = [
        _group(index, group, saved) for index, (group, saved) in enumerate(zip(groups, saved_groups, strict=True))
    ]
    state: defaultdict[Tensor, State] = defaultdict(dict)
    for index, (group, saved, new) in enumerate(zip(groups, saved_groups, new_groups, strict=True)):
        kind = rule_class(group["rule"])
        rule = kind(**{name: new[name] for name in kind.field_names()})
        others = functools.cache(functools.partial(switched, rule))
        matched = _matched(index, group, saved)
        if saved.get("fingerprint") and any(state_dict["state"].get(key) for _, key in matched):
            place = {key: position for position, key in enumerate(saved["params"])}
            new["fingerprint"] = [list(saved["fingerprint"][place[key]]) for _, key in matched]
        for parameter, key in matched:
            slots = state_dict["state"].get(key)
            if slots:
                slots = rule.own_slots(slots)
                if copy and saved.get("state_dtype") == "8bit":  # without, somebody may still fill them
                    _check_no_codes(rule, parameter, slots, name_of(parameter))
                name, found = name_of(parameter), {slot: value for slot, value in slots.items() if value is not None}
                shape = tuple(parameter.shape)
                known = _known(rule.fit(shape), found, "rule" in saved, functools.partial(others, shape), name)
                state[parameter] = _slots(known, parameter, found, name, home_of(parameter), copy)
    return state, new_groups


def _saved_groups(state_dict: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The groups of the state dict. Raises ValueError where it is none."""
    for key, kind in (("state", Mapping), ("param_groups", list)):
        if key not in state_dict:
            raise ValueError(
                f"this is no optimizer's state dict: it has no {key!r}, only {sorted(map(str, state_dict))}"
            )
        if not isinstance(state_dict[key], kind):
            raise ValueError(f"this is no optimizer's state dict: its {key!r} is a {type(state_dict[key]).__name__}")
    groups: list[Mapping[str, Any]] = state_dict["param_groups"]
    for index, group in enumerate(groups):
        if not isinstance(group, Mapping) or "params" not in group:
            raise ValueError(f"this is no optimizer's state dict: its group {index} has no 'params'")
    return groups


def _group(index: int, group: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    where = f" (group {group.get('name', index)!r} of the state dict)"
    kind = rule_class(group["rule"])
    if saved.get("rule", kind.__name__) != kind.__name__:
        raise ValueError(f"the state was saved by {saved['rule']}, the rule here is {kind.__name__}{where}")
    known = hyper_parameters(kind)
    new = dict(group)
    for name, value in deepcopy(in_our_words(kind.__name__, saved)).items():  # schedulers write into rates in tensors
        if name in known:
            new[name] = validated(name, value, known[name], where)
        elif name == "rounding_seed":
            new[name] = validated(name, value, Seed, where)
        elif name == "decoupled_weight_decay":
            new["decay"] = validated("decay", "decoupled" if value else "coupled", known["decay"], where)
        elif "rule" not in saved and name not in ENGINE_FLAGS and not _is_note(name):
            raise TypeError(f"unknown hyper-parameter {name!r} for {kind.__name__}{where}")
        elif name not in ENGINE_FLAGS and name not in _STAYS:
            new[name] = value
    try:
        kind(**{name: new[name] for name in known})
    except ValueError as error:  # what must hold between hyper-parameters
        raise ValueError(f"{error}{where}") from None
    return new


def in_our_words(rule: str, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The saved group without torch's names for what has a name of ours."""
    names = _TORCHS_NAMES.get(rule, {})
    if "rule" in saved:
        return {name: value for name, value in saved.items() if name not in names}
    renamed = {names.get(name, name): value for name, value in saved.items()}
    if rule == "Adafactor" and "beta2_decay" in saved:
        eps1, eps2 = saved["eps"]
        # torch's None is the ε of the parameter's dtype; here all is worked out in float32.
        renamed |= {"eps": (2.0**-23 if eps1 is None else eps1, eps2), "eps_as_floor": True, "decay": "decoupled"}
    return renamed


def _is_note(name: str) -> bool:
    return name in ("params", *NOTES, *OTHERS_NOTES) or name.startswith("initial_")


def _matched(index: int, group: Mapping[str, Any], saved: Mapping[str, Any]) -> list[tuple[Tensor, Any]]:
    """The group's parameters, each with the key of its saved state."""
    parameters, keys = group["params"], saved["params"]
    names, saved_names = group.get("param_names"), saved.get("param_names")
    if saved_names and len(saved_names) != len(keys):
        raise ValueError(
            f"group {group.get('name', index)!r} of the state dict has {len(saved_names)} names "
            f"for {len(keys)} parameters"
        )
    if names and saved_names:
        key_of = dict(zip(saved_names, keys, strict=True))
        missing = [name for name in names if name not in key_of]
        unexpected = sorted(set(saved_names) - set(names))
        if missing or unexpected:
            raise ValueError(
                f"group {group.get('name', index)!r} of the state dict holds other parameters: "
                f"missing {_few(missing)}, unexpected {_few(unexpected)}"
            )
        return [(parameter, key_of[name]) for name, parameter in zip(names, parameters, strict=True)]
    if len(parameters) != len(keys):
        raise ValueError(
            f"group {group.get('name', index)!r} of the state dict has {len(keys)} parameters, "
            f"this optimizer's has {len(parameters)}"
        )
    return list(zip(parameters, keys, strict=True))


def _few(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:3])) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _known(
    fitted: Rule, saved: Mapping[str, Any], ours: bool, others: Callable[[], list[Rule]], name: str
) -> dict[str, tuple[Rule, Slot]]:
    """The slots that the saved state of a parameter may have, each with the rule that has it.

    Under other flags than the rule's a slot is known, too: what is switched off in mid-training leaves its slot behind,
    and goes on from it where it is switched on again. But what another package saved in place of the rule's own slots,
    as of a factored moment where this rule has a whole one, is not what is needed here.

    Raises ValueError for any other slot.
    """
    known = own = {slot.name: (fitted, slot) for slot in fitted.slot_list()}
    complete = all(slot in saved for slot, (_, declared) in own.items() if not declared.scalar)
    if _unknown(saved, known) and (ours or complete):
        left_behind = {slot.name: (other, slot) for other in others() for slot in other.slot_list()}
        known = {**left_behind, **own}
    if foreign := _unknown(saved, known):
        kind = type(fitted).__name__
        raise ValueError(f"the saved state of {name} has the slot {foreign[0]!r}, {kind} has {sorted(own)}")
    return known


def _unknown(saved: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    beside = {part for number in (WEIGHTS, *known) for part in names_beside(number)}
    return [slot for slot in saved if slot not in known and slot not in beside and slot != "step"]


def _slots(
    known: Mapping[str, tuple[Rule, Slot]],
    parameter: Tensor,
    saved: Mapping[str, Any],
    name: str,
    home: torch.device,
    copy: bool,
) -> State:
    """The saved slots on the device where they belong, as they were saved, with what was saved beside the weights."""
    shape = tuple(parameter.shape)
    # torch keeps no step for SGD: what matters to it is that there was one.
    state: State = {"step": int(saved.get("step", 1))}
    for slot, value in saved.items():
        if slot == "step":
            continue
        if slot in known and known[slot][1].scalar:
            state[slot] = float(value)
            continue
        if isinstance(value, Tensor):
            refuse_anothers_part(value, f"the saved slot {slot!r} of {name}")
        if slot in known:
            _check(*known[slot], shape, saved, name)
        elif slot in names_beside(WEIGHTS) and tuple(getattr(value, "shape", ())) != shape:
            raise ValueError(f"the saved {slot!r} of {name} has another shape than the parameter, which has {shape}")
        state[slot] = value.detach().to(home, copy=copy, memory_format=torch.preserve_format)
    return state


def _check(rule: Rule, slot: Slot, shape: Shape, saved: Mapping[str, Any], name: str) -> None:
    """Raise ValueError where a slot was saved in no way that fits a parameter of this shape."""
    held = rule.slot_shape(slot, shape)
    try:
        slot_codec(slot, saved, held)
    except ValueError as error:
        needed = "" if slot.shape is None else f", which needs {held}"
        raise ValueError(
            f"the saved slot {slot.name!r} of {name} {error}, the parameter shape {shape}{needed}"
        ) from None


def _check_no_codes(rule: Rule, parameter: Tensor, saved: Mapping[str, Any], name: str) -> None:
    """Raise ValueError for a slot whose numbers are codes of 8 bits: torch.distributed.checkpoint reads those of whole
    state into tensors of numbers, such as parts are, without a word, for both have the parameter's shape."""
    fitted = rule.fit(tuple(parameter.shape))
    codecs = codecs_for(fitted, tuple(parameter.shape), parameter.dtype, Storage(state_dtype="8bit"))
    for slot, codec in codecs.items():
        value = saved.get(slot)
        if codec.block == 1 or f"{slot}_scale" in saved or not isinstance(value, Tensor):
            continue
        part = local(value)
        if part.is_floating_point() and part.any() and torch.equal(part.to(torch.uint8).to(part.dtype), part):
            raise ValueError(
                f"the saved slot {slot!r} of {name} holds codes of 8 bits, read as numbers by "
                "torch.distributed.checkpoint; load that file where state is whole and state_dtype='8bit', as it was "
                "saved, and bring optimizer.state_dict() from there by torch.save"
            )
