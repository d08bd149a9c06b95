"""What a migration starts from, whoever wrote it: groups with rules and slots under our names, and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from stepwell.checkpoint import manifest
from stepwell.checkpoint.grouping import rule_of
from stepwell.checkpoint.matching import Library, weight_keys
from stepwell.checkpoint.plain import decode
from stepwell.checkpoint.saving import MODEL, OPTIMIZER, VALUES
from stepwell.checkpoint.tensorfile import TensorFile
from stepwell.codecs import joined
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import hyper_parameters


@dataclass
class SavedGroup:
    """One group of parameters.

    Attributes:
        rule: the name of its rule; empty where that cannot be told.
        values: its hyper-parameters and notes.
        names: the names of its parameters; None where they are not known.
        states: for each parameter its slots by name, and `step`; empty where it has none.
    """

    rule: str
    values: dict[str, Any]
    names: list[str] | None
    states: list[dict[str, Any]]


@dataclass
class Source:
    """What was saved.

    Attributes:
        title: what messages call it.
        groups: the optimizer's groups; none without an optimizer.
        weights: the model's tensors by name, each once; None without a model.
        tied: further names of tensors, by name.
        roles: of parameters by name, where known.
        step: the scheduler's step; None without a scheduler.
        schedules: a scheduler of ours: the schedules of the hyper-parameters, as text.
        extra: what else was saved, in plain values.
        notes: what is to be said of it.
    """

    title: str
    groups: list[SavedGroup] = field(default_factory=list)
    weights: dict[str, Tensor] | None = None
    tied: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    step: int | None = None
    schedules: Mapping[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def by_name(self) -> dict[str, tuple[SavedGroup, dict[str, Any]]]:
        """For each parameter its group and its state. The names must be known."""
        return {
            name: (group, state)
            for group in self.groups
            for name, state in zip(group.names or (), group.states, strict=True)
        }


def in_numbers(group: SavedGroup, state: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """A parameter's state with every slot as numbers, where a rule of ours stored it in 8 or 4 bits."""
    try:
        kind = rule_class(group.values["rule"])
        rule = kind(**{name: group.values[name] for name in hyper_parameters(kind) if name in group.values})
    except (LookupError, TypeError, ValueError):  # of another package, or of a rule that is not known here
        return state
    return joined(rule.fit(shape), state, shape)


def scheduler_step(state: Mapping[str, Any]) -> int | None:
    """The step that a scheduler was at: ours calls it `step`, torch's `last_epoch`."""
    step: int | None = state.get("step", state.get("last_epoch"))
    return step


def of_checkpoint(where: Path) -> Source:
    """A checkpoint of ours, all of it in memory, its bytes checked."""
    found = manifest.read(where)

    def everything(file: str) -> Library:
        record = found.files.get(file)
        return Library([]) if record is None else Library([TensorFile(where / file, record)])

    weights, slots, values = everything(MODEL), everything(OPTIMIZER), everything(VALUES)
    try:
        source = Source(str(where), extra=decode(found.extra, values.read))
        if found.model is not None:
            source.weights = {name: weights.read(name) for name in weight_keys(found.model, weights)}
            source.tied, source.roles = found.model["tied"], found.model.get("roles", {})
        if found.optimizer is not None:
            source.groups = [_group(group, found.optimizer, slots) for group in found.optimizer["groups"]]
        if found.scheduler is not None:
            state = found.scheduler["state"]
            source.step = scheduler_step(state)
            source.schedules = state.get("schedules", {})
        return source
    finally:
        for library in (weights, slots, values):
            library.close()


def _group(group: Mapping[str, Any], section: Mapping[str, Any], slots: Library) -> SavedGroup:
    values = {key: decode(value, slots.read) for key, value in group.items()}
    names: Sequence[str] = values.pop("params")
    found = SavedGroup(rule_of(values, section["class"]), values, list(names), [])
    for name in names:
        shape = tuple(section["parameters"][name]["shape"])
        found.states.append(in_numbers(found, decode(section["state"].get(name, {}), slots.read), shape))
    return found
