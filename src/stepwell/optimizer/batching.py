"""From parameter groups to batches: which parameters one launch can take together.

The answer changes only when a parameter gets or loses its gradient, a flag changes, or a tensor is replaced; so it is
kept, and each step only looks whether it still holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepwell.codecs import Plain, Storage
from stepwell.engines.batch import Batch, Group, State
from stepwell.engines.choice import engine_for, judging
from stepwell.engines.devices import capturing
from stepwell.layout import (
    Layout,
    add_over_ranks,
    counts_over,
    held,
    largest_held,
    layout_of,
    local,
    portable,
    ranks_of,
    shared_state,
)
from stepwell.optimizer.bucket import Bucket, check_dense, real
from stepwell.optimizer.entries import Entry, looks_of, reshaped, rule_of, where
from stepwell.optimizer.groups import STORAGE, check_stored_as
from stepwell.optimizer.preparing import prepare, prepare_part
from stepwell.optimizer.turns import turns_of
from stepwell.rules.registry import rule_class
from stepwell.rules.rule import Rule, flags, namespace

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_gradient_of = attrgetter("grad")
# How many kinds of steps are remembered beside the last one.
_RESTING = 64


class Buckets:
    """The buckets of one optimizer, kept from step to step.

    Args:
        engine: as the optimizer takes it.
        mesh: the ranks that share the state of parameters that each of them has whole; None where none do.

    Attributes:
        observed: whether updates add up the squares of what they see.
        latest: the buckets of the last step.
    """

    def __init__(self, engine: str, mesh: DeviceMesh | None = None) -> None:
        self._engine = engine
        self._mesh = mesh
        self.observed = False
        self._made_for: Any = None
        self.latest: list[Bucket] = []
        # Those of steps of other kinds, for the next of their kind: observed or not, and which parameters have a
        # gradient, as experts and heads have in turn. Each with what they were made for, the latest last.
        self._resting: dict[tuple[bool, tuple[bool, ...]], tuple[Any, list[Bucket]]] = {}
        # What is known of each parameter, by its id, and what the groups were then: with other gradients only the
        # buckets are made anew.
        self._entries: dict[int, Entry] = {}
        self._entries_of: list[Any] = []
        # What CUDA graphs go on reading and writing, whichever buckets take the steps outside them.
        self._captured: dict[int, dict[str, Any]] = {}
        # The rule of each group, by its id, as it was when state was last made.
        self._rules: dict[int, Rule] = {}

    def layout_of(self, parameter: Tensor) -> Layout | None:
        """How the parameter is cut over ranks: as it lies, or as its state is shared out."""
        return layout_of(parameter) or (shared_state(parameter, self._mesh) if self._mesh is not None else None)

    def forget(self) -> None:
        """Make the buckets anew at the next step."""
        self._made_for = None
        self._resting = {}
        self._entries = {}
        self._rules = {}

    def observe(self, observed: bool) -> None:
        """From the next step on, let updates add up the squares of what they see, or no longer."""
        if observed == self.observed:
            return
        self._rest()
        self.observed = observed

    def _rest(self) -> None:
        """Lay the buckets aside."""
        if self._made_for is not None:
            self._resting[self.observed, tuple(self._made_for[2])] = self._made_for, self.latest
            for oldest in list(self._resting)[:-_RESTING]:
                del self._resting[oldest]
        self._made_for = None

    def let_go(self) -> None:
        """Hold on to no gradients: kept until the next step, they would lie beside those of its backward pass."""
        for bucket in self.latest:
            bucket.let_go()

    def _turn_to(self, present: list[bool]) -> None:
        """Take up the buckets that have rested since the last step like this one."""
        if self._made_for is not None and self._made_for[2] != present:
            self._rest()
        if self._made_for is None and (found := self._resting.pop((self.observed, tuple(present)), None)) is not None:
            self._made_for, self.latest = found

    def agree(self, groups: list[dict[str, Any]], name_of: Callable[[Tensor], str], found: Tensor | None) -> Any:
        """Make sure that the same parameters have a gradient on all ranks, in one small message a step for each mesh.

        `found` is not 0 where a scaler has found infinity or NaN on this rank: what comes back says whether one has on
        any. Where nothing lies on many ranks nothing is sent, and it is `found`.

        Raises RuntimeError, on all ranks, where they differ.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return found
        apart: defaultdict[DeviceMesh | None, list[Tensor]] = defaultdict(list)
        for group in groups:
            for parameter in group["params"]:
                layout = layout_of(parameter)
                apart[self._mesh if layout is None else layout.mesh].append(parameter)
        alone = apart.pop(None, [])
        meshes = [mesh for mesh in apart if mesh is not None and mesh.size() > 1]
        for mesh in meshes[:1]:  # its ranks all have the parameters that lie on no mesh
            apart[mesh] += alone
        answer: Any = found
        for mesh in meshes:
            parameters = apart[mesh]
            present = [parameter.grad is not None for parameter in parameters]
            *counts, finding = counts_over(mesh, [*present, answer is not None and bool(answer)])
            answer = float(finding)
            if wrong := [index for index, count in enumerate(counts) if 0 < count < mesh.size()]:
                raise RuntimeError(_disagreement(mesh, present[wrong[0]], name_of(parameters[wrong[0]]), len(wrong)))
        return answer

    def check_captured(
        self, groups: list[dict[str, Any]], state: Mapping[Tensor, State], among: AbstractSet[int] | None = None
    ) -> None:
        """Raise RuntimeError where a step goes into a CUDA graph that cannot capture it: before the host waits for the
        device, state is made, or the step is counted. `among` as `collect` takes it."""
        devices = {bucket.parameters[0].device for bucket in self.latest}  # where they are now
        if not any(map(capturing, devices or {p.device for group in groups for p in group["params"]})):
            return
        gradients = _gradients_of(groups, among)
        held = self._hold(groups, state, gradients, [gradient is not None for gradient in gradients])
        if not (held and all(bucket.has_run for bucket in self.latest)):
            raise RuntimeError(
                "a CUDA graph can capture a step like one that was taken before: call optimizer.step() once, with the "
                "same gradients, before the capture"
            )
        for bucket in self.latest:
            bucket.engine.check_captured(bucket.batch)
        self._captured |= {id(bucket.batch.prepared): bucket.batch.prepared for bucket in self.latest}

    def collect(
        self,
        groups: list[dict[str, Any]],
        state: Mapping[Tensor, State],
        name_of: Callable[[Tensor], str],
        among: AbstractSet[int] | None = None,
    ) -> list[Bucket]:
        """The buckets of the parameters that have a gradient, and in them the gradients. Raises for a sparse one.

        `among` are the ids of those that are meant, by default all.
        """
        gradients = _gradients_of(groups, among)
        present = [gradient is not None for gradient in gradients]
        self._turn_to(present)
        if not self._hold(groups, state, gradients, present):
            has_one = iter(present)
            members = [[p for p in group["params"] if next(has_one)] for group in groups]
            given = [(p, g) for parameters in members for p in parameters if (g := p.grad) is not None]
            check_dense([p for p, _ in given], [g for _, g in given], name_of)  # before any state is made
            if self._made_for is not None:  # something else than the gradients has changed
                self._resting.clear()
            self.latest = self._make(groups, members, state)
            self._made_for = (state, list(state.values()), present, _kinds(groups), [list(g["params"]) for g in groups])
        return self._given(gradients, name_of)

    def standing(
        self, groups: list[dict[str, Any]], state: Mapping[Tensor, State], name_of: Callable[[Tensor], str]
    ) -> list[Bucket] | None:
        """The buckets where they are right as they are, their device can reach a verdict on the gradients and all
        engines take its factor, and in them the gradients; None elsewhere."""
        gradients = _gradients_of(groups)
        present = [gradient is not None for gradient in gradients]
        self._turn_to(present)
        if self._engine not in ("auto", "fused") or not self.latest:
            return None
        if judging(self.latest[0].parameters[0].device.type) is None:
            return None
        if not all(bucket.engine.takes_factor and not bucket.batch.layouts for bucket in self.latest):
            return None
        if not self._hold(groups, state, gradients, present):
            return None
        return self._given(gradients, name_of)

    def _given(self, gradients: list[Any], name_of: Callable[[Tensor], str]) -> list[Bucket]:
        """The buckets, with these gradients in them."""
        for bucket in self.latest:
            bucket.take_gradients(gradients, name_of)
        return self.latest

    def _hold(
        self, groups: list[dict[str, Any]], state: Mapping[Tensor, State], gradients: list[Any], present: list[bool]
    ) -> bool:
        """Whether the buckets are right as they are."""
        if self._made_for is None:
            return False
        made_state, made_states, made_present, made_kinds, made_parameters = self._made_for
        return (
            made_state is state
            and len(made_states) == len(state)
            and all(map(is_, state.values(), made_states))
            and made_present == present
            and made_kinds == _kinds(groups)
            and all(
                len(group["params"]) == len(known) and all(map(is_, group["params"], known))
                for group, known in zip(groups, made_parameters, strict=True)
            )
            and all(bucket.still_holds(gradients) for bucket in self.latest)
        )

    def portable(self, groups: list[dict[str, Any]], state: defaultdict[Tensor, Any]) -> defaultdict[Tensor, Any]:
        """The state without blocks that one rank alone knows; the same where nothing lies on many ranks."""
        changed = {}
        for group in groups:
            for parameter in group["params"]:
                if parameter in state and (layout := self.layout_of(parameter)) is not None:
                    rule = rule_class(group["rule"]).of(group)
                    changed[parameter] = portable(rule, state[parameter], layout)
        return defaultdict(state.default_factory, {**state, **changed}) if changed else state

    def with_state(self, groups: list[dict[str, Any]], state: Mapping[Tensor, State]) -> list[Bucket]:
        """The buckets of the parameters that have been updated, made for one use."""
        return self._make(groups, [[p for p in group["params"] if state.get(p)] for group in groups], state)

    def _make(
        self, groups: list[dict[str, Any]], members: list[list[Tensor]], state: Mapping[Tensor, State]
    ) -> list[Bucket]:
        position = {id(p): index for index, p in enumerate(p for group in groups for p in group["params"])}
        found: defaultdict[Any, list[Entry]] = defaultdict(list)
        if (now := _kinds(groups)) != self._entries_of:
            for index, group in enumerate(groups):
                check_stored_as(group, where(group, index))
            self._entries, self._entries_of = {}, now
        kinds = [rule_class(group["rule"]) for group in groups]
        known = {kind: next(iter(_states_of(kind, groups, state)), {}) for kind in kinds}
        rules = [rule_of(kind, group, index) for index, (kind, group) in enumerate(zip(kinds, groups, strict=True))]
        turns = turns_of(_taking_turns(groups, rules))
        for index, (kind, group, parameters) in enumerate(zip(kinds, groups, members, strict=True)):
            whole = rules[index]
            for parameter in parameters:
                slots = state[parameter]
                entry = self._entries.get(id(parameter))
                if entry is None or entry.layout is not None or not entry.holds_of(parameter, slots, group):
                    for name, turn in turns.get(id(parameter), {}).items():
                        slots.setdefault(name, turn)
                    try:
                        entry = self._entry(parameter, slots, group, whole, known[kind])
                    except ValueError as error:
                        changed = reshaped(self._rules.get(id(group)), whole, tuple(parameter.shape))
                        way = f"{changed}{where(group, index)}, which takes a new optimizer: {error}"
                        raise ValueError(way if changed else f"{error}{where(group, index)}") from None
                    self._entries[id(parameter)] = entry
                arrives = parameter.dtype if parameter.grad is None else parameter.grad.dtype
                found[entry.kind, arrives].append(entry)
        buckets = [_bucket(entries, position) for entries in found.values()]
        for bucket in buckets:
            bucket.batch.observed = self.observed
        self._rules |= {id(group): rule for group, rule in zip(groups, rules, strict=True)}
        return buckets

    def _entry(self, parameter: Tensor, slots: State, group: Group, whole: Rule, other: State) -> Entry:
        """What is to be known of a parameter, whose state is filled in and laid out; `other` is one of its rule."""
        rule = whole.fit(tuple(parameter.shape))
        layout = self.layout_of(parameter)
        codecs = (
            prepare(rule, parameter, slots, other, Storage.of(group))
            if layout is None
            else prepare_part(rule, parameter, slots, other, Storage.of(group), layout)
        )
        engine = engine_for(self._engine, rule, real(largest_held(parameter, layout)), codecs, layout)
        kinds = (type(whole), type(rule), flags(type(rule), rule.values()))
        cut = layout and (layout.mesh, layout.placements)
        kind = (engine.name, *kinds, parameter.device, *codecs.items(), cut)
        return Entry(parameter, slots, group, rule, engine, codecs, layout, kind, looks_of(parameter, slots))


def _disagreement(mesh: DeviceMesh, has: bool, name: str, count: int) -> str:
    those, others = (", ".join(map(str, ranks)) for ranks in ranks_of(mesh, has))
    more = f" (and {count - 1} more)" if count > 1 else ""
    return (
        f"{name}{more} has a gradient on ranks {those} and none on ranks {others}; no weight has changed. All ranks "
        "have to take the same step: let the loss of each use it, or set its grad to zeros where it has none"
    )


def _taking_turns(groups: list[dict[str, Any]], rules: list[Rule]) -> Iterator[tuple[Tensor, Rule]]:
    """The parameters whose rule has work for them now and then, and that rule, fitted."""
    for group, rule in zip(groups, rules, strict=True):
        if any(slot.work is not None for slot in rule.slot_list()):
            yield from ((p, rule.fit(tuple(p.shape))) for p in group["params"])


def _gradients_of(groups: list[dict[str, Any]], among: AbstractSet[int] | None = None) -> list[Any]:
    """Every parameter's gradient; None in the place of those that have none or are not meant."""
    if among is not None:
        return [p.grad if id(p) in among else None for group in groups for p in group["params"]]
    return [gradient for group in groups for gradient in map(_gradient_of, group["params"])]


def _kinds(groups: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What decides the arithmetic of each group."""
    try:
        return [
            (id(group), group["rule"], flags(rule_class(group["rule"]), group), *map(group.get, STORAGE))
            for group in groups
        ]
    except KeyError:
        for index, group in enumerate(groups):
            rule_of(rule_class(group["rule"]), group, index)  # names what is missing, and where
        raise


def _bucket(entries: list[Entry], position: Mapping[int, int]) -> Bucket:
    parameters, first = [entry.parameter for entry in entries], entries[0]
    weights, codecs = parameters, first.codecs
    layouts = [entry.layout for entry in entries if entry.layout is not None]
    if layouts or parameters[0].is_complex():
        weights = [real(held(entry.parameter, entry.layout)) for entry in entries]
    if parameters[0].is_complex():
        codecs = {number: Plain(dtype.to_real()) for number, codec in codecs.items() for _, dtype in codec.layout(())}
    places = [position[id(parameter)] for parameter in parameters]
    states, groups = [entry.state for entry in entries], [entry.group for entry in entries]
    batch = Batch(first.rule, weights, states, groups, codecs, places)
    batch.columns = {name: [real(local(one)) for one in column] for name, column in batch.columns.items()}
    batch.layouts = layouts
    return Bucket(rule_class(first.group["rule"]), first.engine, batch, parameters, places)


def _states_of(kind: type[Rule], groups: list[dict[str, Any]], state: Mapping[Tensor, State]) -> list[State]:
    """The states of all parameters of one rule that have been updated, also of those without a gradient now."""
    found = [state.get(p) for group in groups if rule_class(group["rule"]) is kind for p in group["params"]]
    return [slots for slots in found if slots]


def settle(buckets: list[Bucket], groups: list[dict[str, Any]], state: Mapping[Tensor, State]) -> None:
    """For rules that measure all parameters before they update any: add up, and work out the numbers they share."""
    measuring: defaultdict[type[Rule], list[Bucket]] = defaultdict(list)
    for bucket in buckets:
        if type(bucket.batch.rule).measure is not Rule.measure:
            measuring[bucket.kind].append(bucket)
    for kind, together in measuring.items():
        totals = add_over_ranks(
            (next(iter(bucket.batch.layouts), None), bucket.engine.measure(bucket.batch)) for bucket in together
        )
        group, numbers, _ = max((c for bucket in together for c in bucket.batch.classes()), key=lambda c: c[0]["lr"])
        new = together[0].batch.rule.settle(totals, namespace(numbers), namespace(group))
        for slots in _states_of(kind, groups, state):
            slots.update(new)
