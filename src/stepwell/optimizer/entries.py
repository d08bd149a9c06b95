"""What is known of one parameter: how it is stored, laid out and updated."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from stepwell.codecs import Codec
from stepwell.engines.batch import Engine, Group, State
from stepwell.layout import Layout
from stepwell.rules.rule import Rule, Shape, flags


class Entry(NamedTuple):
    """One parameter, and what decides which others go with it: those of one kind do."""

    parameter: Tensor
    state: State
    group: Group
    rule: Rule
    engine: Engine
    codecs: dict[str, Codec]
    layout: Layout | None
    kind: tuple[Any, ...]
    looks: list[Any]

    def holds_of(self, parameter: Tensor, slots: State, group: Group) -> bool:
        """Whether all of it is still so, of this parameter, its state and its group."""
        these = self.parameter is parameter and self.state is slots and self.group is group
        return these and self.looks == looks_of(parameter, slots)


def looks_of(parameter: Tensor, slots: State) -> list[Any]:
    """What decides how a parameter and its slots are stored and laid out, and how they are updated."""
    looks = [(n, type(x), x.dtype, x.device, x.shape, x.stride()) for n, x in slots.items() if isinstance(x, Tensor)]
    return [parameter.dtype, parameter.device, parameter.shape, parameter.stride(), list(slots), looks]


def rule_of(kind: type[Rule], group: Group, index: int) -> Rule:
    """The group's rule. Raises TypeError or ValueError, which names the group, where its values do not go together."""
    try:
        return kind.of(group)
    except KeyError:
        missing = ", ".join(name for name in kind.field_names() if name not in group)
        raise TypeError(
            f"{kind.__name__} takes {missing}, which the group has not: set what a rule takes together with its name, "
            f"as group.update(rule.values() | group) does{where(group, index)}"
        ) from None
    except (TypeError, ValueError) as error:
        raise (ValueError if isinstance(error, ValueError) else TypeError)(f"{error}{where(group, index)}") from None


def where(group: Group, index: int) -> str:
    return f" (group {group.get('name', index)!r})"


def reshaped(before: Rule | None, now: Rule, shape: Shape) -> str:
    """Which flags have changed, where slots have another shape for it; "" where none has."""
    if type(before) is not type(now) or _slot_shapes(before, shape) == _slot_shapes(now, shape):
        return ""
    old, new = before.values(), now.values()
    flags_of = [dict(flags(type(now), values)) for values in (old, new)]
    names = [name for name in old if any(name in known for known in flags_of) and old[name] != new[name]]
    return " and ".join(f"{name} was {old[name]!r} and is {new[name]!r} now" for name in names)


def _slot_shapes(rule: Rule, shape: Shape) -> dict[str, Shape]:
    fitted = rule.fit(shape)
    return {slot.name: fitted.slot_shape(slot, shape) for slot in fitted.slot_list() if not slot.scalar}
