"""Whose turn it is: work that each parameter needs now and then, shared out over the steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from torch import Tensor

from stepwell.rules.rule import Rule, Shape


def turns_of(fitted: Iterable[tuple[Tensor, Rule]]) -> dict[int, dict[str, float]]:
    """The turn of each slot that has one, for each parameter by its id.

    The largest work comes first, and each goes to the turn that has least so far (Graham 1969, doi:10.1137/0117039): as
    even as can be where no single work is more than a turn's share. All parameters that there are count, also those
    without a gradient, so that a parameter's turn does not depend on when its first gradient comes.
    """
    works: list[tuple[float, int, str, int]] = []
    for parameter, rule in fitted:
        shape: Shape = rule.working_shape(tuple(parameter.shape))
        works += [
            (slot.work(shape), id(parameter), slot.name, slot.every)
            for slot in rule.slot_list()
            if slot.work is not None
        ]
    loads: defaultdict[int, list[float]] = defaultdict(list)
    found: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for work, parameter_id, slot_name, every in sorted(works, key=lambda one: -one[0]):
        load = loads[every] = loads[every] or [0.0] * every
        turn = load.index(min(load))
        load[turn] += work
        found[parameter_id][slot_name] = float(turn)
    return found
