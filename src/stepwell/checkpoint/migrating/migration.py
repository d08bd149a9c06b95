"""From what another optimizer has saved to one that goes on from it, and what has become of every parameter's state."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from stepwell.checkpoint import folder
from stepwell.checkpoint.differences import in_words, plain
from stepwell.checkpoint.errors import CheckpointError, one_line
from stepwell.checkpoint.grouping import rule_of, saved_averages
from stepwell.checkpoint.loading import undoing
from stepwell.checkpoint.migrating.foreign import of_file, of_folder, of_object
from stepwell.checkpoint.migrating.naming import name_parameters
from stepwell.checkpoint.migrating.rules import How, brought, inner, interpolates
from stepwell.checkpoint.migrating.source import SavedGroup, Source, in_numbers, of_checkpoint
from stepwell.checkpoint.names import as_saved, named_tensors, parameter_names, plain_name
from stepwell.checkpoint.saving import class_name
from stepwell.checkpoint.unwrapping import inner_optimizer, inner_scheduler
from stepwell.codecs import WEIGHTS, names_beside
from stepwell.engines.batch import State
from stepwell.rules.registry import UnknownRuleError, rule_class, rule_names
from stepwell.rules.rule import Rule, hyper_parameters, namespace
from stepwell.scheduler import Scheduler
from stepwell.text.naming import nearest

_LOG = logging.getLogger("stepwell")
Origin = str | os.PathLike[str] | Mapping[str, Any] | Optimizer


@dataclass(frozen=True)
class Moved:
    """What has become of one parameter's state.

    Attributes:
        name: the parameter.
        how: "kept", "converted" or "fresh".
        what: which slots, or why it starts fresh.
        rules: the rule it had, and the one it has now.
    """

    name: str
    how: How
    what: str
    rules: tuple[str, str]


@dataclass(frozen=True)
class Migration:
    """What a migration has done. `str()` says it in a few lines.

    Attributes:
        source: what it started from.
        moved: what has become of each parameter's state, in the order of the groups.
        notes: what else is to be known.
        extra: what else the source held, in plain values.
    """

    source: str
    moved: tuple[Moved, ...]
    notes: tuple[str, ...]
    extra: dict[str, Any]

    def __str__(self) -> str:
        counts = Counter((one.how, one.what, one.rules) for one in self.moved)
        lines = [f"{self.source}:"]
        for (how, what, (old, new)), count in counts.items():
            rules = new if old == new else f"{old or 'unknown'} → {new}"
            lines.append(f"  {how:<9}  {count} parameter{'s' * (count > 1)}, {rules}: {what}")
        return "\n".join([*lines, *(f"  note       {note}" for note in self.notes)])

    def to_data(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def migrate(
    source: Origin,
    *,
    optimizer: Optimizer,
    model: nn.Module | None = None,
    scheduler: LRScheduler | None = None,
    rule: str | None = None,
    names: Sequence[Sequence[str]] | None = None,
    dtype: torch.dtype | None = None,
) -> Migration:
    """Let an optimizer go on from what another one has saved, as far as that has meaning.

        optimizer = stepwell.create_optimizer(model, "muon", lr=2e-3)
        print(stepwell.checkpoint.migrate("checkpoint-500", model=model, optimizer=optimizer))

    Slots that mean the same to the new rule are kept (AdamW's moments for what stays with AdamW or goes to LAMB), a
    running mean of the gradients goes on as such (from AdamW to Lion or Muon), all else starts fresh. From or to
    Schedule-Free, a training starts from the weights; from it, from their average. Hyper-parameters stay those of the
    new optimizer.

    Args:
        source: a checkpoint of ours; a folder of transformers' Trainer; a file of `torch.save` or of safetensors, such
            as timm's; a state dict of an optimizer of `torch.optim`, `bitsandbytes` or `schedulefree`, or such an
            optimizer.
        optimizer: what shall go on: ours, or torch's (with one rule for all its groups).
        model: gets the source's weights, if it has any, and gives the names where the source has numbers.
        scheduler: goes to the step that the source's was at, under its own schedule.
        rule: the name of the rule that the source was saved by, where a state dict does not tell.
        names: the names of each group's parameters, where a source has numbers and none of the usual orders fits.
        dtype: store slots of floating point in this dtype, but for those that need 32 bits; as they were by default.

    Returns:
        What was kept, converted and started fresh; also said on the logger "stepwell" (INFO).

    Raises:
        CheckpointError: the source cannot be read or named. Nothing has changed.
    """
    found = read(source, model, rule)
    name_parameters(found, model, names)
    return carry(found, inner_optimizer(optimizer), model, inner_scheduler(scheduler), dtype)


def carry(
    found: Source,
    optimizer: Optimizer,
    model: nn.Module | None,
    scheduler: LRScheduler | None,
    dtype: torch.dtype | None = None,
) -> Migration:
    """`migrate`, from a source that is read and whose parameters have names."""
    weights = _weights(found, model)
    state_dict, moved, notes = _state(found, optimizer, model, dtype)
    averaged = dict(_averaged(found, moved, weights))
    if averaged:
        notes.append(f"the weights of {_several(list(averaged))} are their average, as Schedule-Free evaluates them")
    with undoing(optimizer, scheduler):
        try:
            optimizer.load_state_dict(state_dict)
        except Exception as error:  # an optimizer of another package may refuse in any way
            raise CheckpointError(f"{found.title} cannot be migrated: {one_line(error)}") from error
        if scheduler is not None:
            notes += _go_to(scheduler, found.step)
        if model is not None and found.weights is not None:
            notes += _fill(model, found, weights | averaged)
    migration = Migration(found.title, tuple(moved), (*found.notes, *notes), found.extra)
    _LOG.info("migrated from %s", migration)
    return migration


def read(source: Origin, model: nn.Module | None = None, written_by: str | None = None) -> Source:
    """What a migration starts from, whose rule may be given. Raises CheckpointError where it cannot be read."""
    rule = "" if written_by is None else _known(written_by)
    if isinstance(source, Optimizer):
        live: Optimizer = inner_optimizer(source)
        says_so = all("rule" in group for group in live.param_groups)
        rule = rule or ("" if says_so else _rule_of_class(type(live)))
        found = of_object(live.state_dict(), f"an optimizer ({class_name(live)})", rule)
        for group, those in zip(found.groups, parameter_names(live, model), strict=True):
            group.names = those
            group.rule = group.rule or rule_of(group.values, class_name(live))
        return found
    if isinstance(source, Mapping):
        return of_object(source, "the state dict", rule)
    path = Path(source)
    if path.is_file():
        return of_file(path, rule)
    if path.is_dir() and not (path / "checkpoint.json").exists() and not folder.checkpoints(path):
        return of_folder(path, rule)
    return of_checkpoint(folder.find(path))


def _rule_of_class(kind: type[Optimizer]) -> str:
    """The rule that an optimizer's class is called after, or one that it is derived from; "" where that is none."""
    for each in kind.__mro__:
        name = re.sub(r"^Paged|(32|8|4)bit$", "", each.__name__)
        if name in rule_names():
            return name
    return ""


def _known(rule: str) -> str:
    try:
        return rule_class(rule).__name__
    except UnknownRuleError:
        raise CheckpointError(f"unknown rule {rule!r}{nearest(rule, rule_names())}") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(str(error)) from error


# State.


def _state(
    source: Source, optimizer: Optimizer, model: nn.Module | None, dtype: torch.dtype | None
) -> tuple[dict[str, Any], list[Moved], list[str]]:
    """A state dict in the optimizer's own order and groups, and what has become of everything."""
    saved = source.by_name()
    names = as_saved(parameter_names(optimizer, model), saved)
    content = optimizer.state_dict()
    moved: list[Moved] = []
    notes: list[str] = []
    rounded: list[str] = []
    state: dict[Any, Any] = {}
    for live, group, those in zip(optimizer.param_groups, content["param_groups"], names, strict=True):
        new = rule_of(group, class_name(optimizer))
        whole = _whole_rule(group)
        group.pop("fingerprint", None)
        for key, name, p in zip(group["params"], those, live["params"], strict=True):
            if name not in saved:
                moved.append(Moved(name, "fresh", "it was not there", ("", new)))
                continue
            old_group, old = saved[name]
            shape = tuple(p.shape)
            fitted = None if whole is None else whole.fit(shape)
            taken = brought(in_numbers(old_group, old, shape), old_group.rule, new, fitted, shape)
            beside = {part: old[part] for part in names_beside(WEIGHTS) if part in old}
            if taken.state:
                state[key] = {slot: _stored(value, slot, fitted, dtype) for slot, value in taken.state.items()}
            if taken.state and beside and live.get("master") == old_group.values.get("master"):
                state[key] |= beside
                taken = replace(taken, what=", ".join([taken.what, *beside]))
            elif beside:
                rounded.append(name)
            moved.append(Moved(name, taken.how, taken.what, (old_group.rule or new, new)))
        origins = {id(saved[name][0]): saved[name][0] for name in those if name in saved}
        if any(old.rule == new for old in origins.values()):
            group.update(saved_averages([{**old.values, "params": old.names} for old in origins.values()], those))
        notes += _values_left(group, live, list(origins.values()), new)
    if unknown := sorted(set(saved) - {name for those in names for name in those}):
        notes.append(f"the state of {_several(unknown)} is left out: {'they are' if unknown[1:] else 'it is'} not here")
    if rounded:
        notes.append(f"what was kept beside the weights of {_several(rounded)} is left behind: they go on as rounded")
    held = {name: group.values.get("holds") for name, (group, _) in saved.items()}
    if averaged := [one.name for one in moved if held.get(one.name) == "averaged" and one.rules[0] != one.rules[1]]:
        notes.append(f"the weights of {_several(averaged)} were saved as their average, and stay that")
    return {"state": state, "param_groups": content["param_groups"]}, moved, notes


def _whole_rule(group: Mapping[str, Any]) -> Rule | None:
    if "rule" not in group:
        return None
    kind = rule_class(group["rule"])
    return kind(**{name: group[name] for name in hyper_parameters(kind)})


def _stored(value: Any, slot: str, rule: Rule | None, dtype: torch.dtype | None) -> Any:
    if dtype is None or not isinstance(value, Tensor) or not value.is_floating_point() or not value.ndim:
        return value
    wide = rule is not None and any(each.name == slot and each.wide for each in rule.slot_list())
    return value if wide else value.to(dtype)


def _values_left(
    group: Mapping[str, Any], live: Mapping[str, Any], origins: list[SavedGroup], new: str
) -> Iterator[str]:
    """Lines for the hyper-parameters of the same rule that were others."""
    if len(origins) != 1 or inner(origins[0].rule) != inner(new):
        return
    there = origins[0].values
    for name, value in live.items():
        base = f"initial_{name}"
        ours, theirs = live.get(base, value), there.get(base, there.get(name, value))
        if name in ("lr", "betas", "eps", "weight_decay", "decay", "momentum") and plain(ours) != plain(theirs):
            where = repr(group["name"]) if "name" in group else f"{(origins[0].names or [''])[0]!r}, …"
            yield f"{name} of group {where} is {in_words(plain(ours))}; it was {in_words(plain(theirs))}"


# Weights.


def _weights(source: Source, model: nn.Module | None) -> dict[str, Tensor]:
    """The source's weights, for the model's names. Raises CheckpointError where one has another shape."""
    if model is None or source.weights is None:
        return {}
    known = {**source.weights, **{name: source.weights[first] for name, first in source.tied.items()}}
    known = {plain_name(name): value for name, value in known.items()}
    held = dict(named_tensors(model))
    (names,) = as_saved([list(held)], known)
    found: dict[str, Tensor] = {}
    for saved_as, (name, value) in zip(names, held.items(), strict=True):
        if isinstance(value, Tensor) and saved_as in known:
            if known[saved_as].shape != value.shape:
                raise CheckpointError(
                    f"{source.title} has {name!r} in shape {tuple(known[saved_as].shape)}, "
                    f"the model has it in {tuple(value.shape)}"
                )
            found[name] = known[saved_as]
    return found


def _averaged(source: Source, moved: list[Moved], weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The averages of weights that Schedule-Free trained on and another rule goes on from."""
    saved = source.by_name()
    for one in moved:
        old, new = one.rules
        if one.name not in weights or one.name not in saved or old == new or not interpolates(old):
            continue
        group, state = saved[one.name]
        if group.values.get("holds") == "averaged" or "z" not in state:
            continue
        kind = rule_class(old)
        values = {**kind().values(), **{key: group.values[key] for key in kind.field_names() if key in group.values}}
        slots: State = {key: value.double() if isinstance(value, Tensor) else value for key, value in state.items()}
        with torch.no_grad():
            x, _ = kind(**values).exchange("averaged", weights[one.name].double(), namespace(slots), namespace(values))
        yield one.name, x.to(weights[one.name].dtype)


def _fill(model: nn.Module, source: Source, weights: Mapping[str, Tensor]) -> list[str]:
    """Copy the weights into the model; says which of the model's had none. Tied ones are one tensor here."""
    filled: set[int] = set()
    held = [(name, value) for name, value in named_tensors(model) if isinstance(value, Tensor)]
    with torch.no_grad():
        for name, value in held:
            if name in weights and id(value) not in filled:
                value.copy_(weights[name])
                filled.add(id(value))
        missing = [name for name, value in held if id(value) not in filled]
    return [f"{_several(missing)} of the model stay as they are: {source.title} does not have them"] if missing else []


def _several(names: Sequence[str]) -> str:
    return repr(names[0]) + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _go_to(scheduler: Any, step: int | None) -> list[str]:
    if step is None:
        return ["the scheduler starts at step 0: there was none"]
    if not isinstance(scheduler, Scheduler):
        return [f"the scheduler is left where it is; the source's was at step {step}"]
    scheduler.load_state_dict({**scheduler.state_dict(), "step": int(step)}, schedule="this")
    return [f"the scheduler goes on at step {step}"]
