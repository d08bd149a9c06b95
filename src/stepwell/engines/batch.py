"""What an engine is given: parameters that share a rule, its flags and all dtypes, and may differ in every number."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from operator import is_, itemgetter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.codecs import WEIGHTS, Codec, Plain, noise
from stepwell.engines.devices import same_device
from stepwell.layout.parts import Layout
from stepwell.rules.rule import Rule

# What can be trained. Complex numbers are worked on as pairs of reals.
REAL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex128, torch.complex64, torch.complex32)

State = dict[str, Any]
_step_of = itemgetter("step")
Group = Mapping[str, Any]


class Batch:
    """One launch.

    Args:
        rule: the rule with its flags, fitted to the shape of the weights. Numbers are read from the groups, where
            these have them.
        weights: the parameters, real and strided, changed in place. They share a dtype and a device.
        states: for each parameter its slots (tensors, changed in place, each slot stored in one way throughout; scalar
            slots and `step` are numbers) and what is stored beside its weights.
        groups: for each parameter its group, which holds the hyper-parameters by name.
        codecs: how weights and slots are stored, by number; by default as tensors of the dtypes that they have.
        places: which of the optimizer's parameters each is, counted from 0; random bits depend on it.

    Attributes:
        columns: all stored tensors but the weights, by name, for each parameter.
        gradients: for each parameter its gradient, of the same shape; never changed.
        gradient_factor: what gradients are multiplied with: unscaling, clipping, the sign of `maximize`.
        verdict: what they are multiplied with beside that, and whether this step is left out, where only the device
            knows: see `stepwell.engines.fused.triton_memory.judge`.
        may_skip: whether the verdict may leave this step out.
        observed: whether updates add up the squares of what they see: `Engine.squares`, `Engine.unit_squares`.
        asked: which of the numbers that the host counts (the step, the scalar slots) its first update has read, where
            an engine notes that; None before it.
        layouts: for each parameter how it lies on many ranks, where it does: then tensors are the parts that this rank
            holds.
        counted_on_device: whether the states' steps and scalar slots are tensors on the device, which counts on them.
    """

    def __init__(
        self,
        rule: Rule,
        weights: list[Tensor],
        states: list[State],
        groups: list[Group],
        codecs: Mapping[str, Codec] | None = None,
        places: Sequence[int] | None = None,
    ) -> None:
        self.rule = rule
        self.weights = weights
        self.states = states
        self.gradients = weights
        self.gradient_factor = 1.0
        self.verdict: Tensor | None = None
        self.may_skip = False
        self.observed = False
        self.counted_on_device = False
        self._steps_there: list[Any] = []
        self._borrowed: list[tuple[State, str, Tensor]] = []
        self.asked: set[str] | None = None
        self.layouts: list[Layout] = []
        self._groups = groups
        self.prepared: dict[str, Any] = {}  # what an engine wants to find again at the next step, by function
        slots = rule.slot_list()
        self.scalar_slots = tuple(slot.name for slot in slots if slot.scalar)
        tensors = {WEIGHTS: weights[0]} | {slot.name: states[0][slot.name] for slot in slots if not slot.scalar}
        self.codecs = codecs or {number: Plain(tensor.dtype) for number, tensor in tensors.items()}
        stored = [name for number, codec in self.codecs.items() for name in codec.names(number) if name != WEIGHTS]
        self.columns = {name: [state[name] for state in states] for name in stored}
        self._places = range(len(weights)) if places is None else places
        self._keys: tuple[list[int], NDArray[np.uint64]] | None = None
        self._fitted = rule.own_values(groups[0])
        members: dict[int, tuple[Group, list[int]]] = {}
        for index, group in enumerate(groups):
            members.setdefault(id(group), (group, []))[1].append(index)
        self._members = list(members.values())

    @functools.cached_property
    def addresses(self) -> NDArray[np.int64]:
        """Where the parameters' numbers lie in memory; whoever moves them sets it anew."""
        return addresses_of(self.weights)

    @functools.cached_property
    def column_addresses(self) -> dict[str, NDArray[np.int64]]:
        """Where the numbers of `columns` lie; whoever moves them sets it anew."""
        return {name: addresses_of(column) for name, column in self.columns.items()}

    def advance(self, *, counts_on: bool = False) -> None:
        """Count this update, for each parameter. Where the device has counted for another batch, the places stay in
        the states, as a CUDA graph may go on counting in them: with `counts_on` the device does so here too, without
        it the host has numbers in their stead until `return_counts`."""
        if self.counted_on_device:
            return
        steps = list(map(_step_of, self.states))
        if _any_on_device(steps):
            if counts_on:
                self._take_over_counts()
                return
            self._borrow_counts()
            steps = list(map(_step_of, self.states))
        if steps.count(steps[0]) == len(steps):
            step = steps[0] + 1
            for state in self.states:
                state["step"] = step
        else:
            for state in self.states:
                state["step"] += 1

    def _borrow_counts(self) -> None:
        """Have the host's numbers in the states, for one update."""
        device = self.weights[0].device
        for name in ("step", *self.scalar_slots):
            for state, value in zip(self.states, _numbers([state[name] for state in self.states]), strict=True):
                if same_device(state[name], device):
                    self._borrowed.append((state, name, state[name]))
                state[name] = int(value) if name == "step" else value

    def return_counts(self) -> bool:
        """Put back the places in which the device has counted, with what the host has counted now. Whether there are
        any."""
        borrowed, self._borrowed = self._borrowed, []
        for state, name, place in borrowed:
            place.fill_(state[name])
            state[name] = place
        return bool(borrowed)

    def _take_over_counts(self) -> None:
        """Let the device count on where it has counted for others; what the host has counted gets a place there."""
        device = self.weights[0].device
        for name in ("step", *self.scalar_slots):
            for state in self.states:
                if not same_device(state[name], device):
                    state[name] = torch.full((), float(state[name]), dtype=torch.float64, device=device)
        self.leave_counting()

    def count_on_device(self) -> None:
        """From this update on, which `advance` has counted already, let the device count: it alone knows which of them
        are left out."""
        device = self.weights[0].device
        for state in self.states:  # each its own: not all have a gradient at every step
            state["step"] = torch.full((), state["step"] - 1, dtype=torch.float64, device=device)
        self.leave_counting()

    def leave_counting(self) -> None:
        """From now on the device counts on, in the places that stand in the states."""
        self.counted_on_device = True
        self._steps_there = list(map(_step_of, self.states))

    @property
    def counts_stand(self) -> bool:
        """Whether the places in which the device counts, where it does, still stand in the states: others may have put
        back what stood there before, or counted on the host. Whoever changes a step changes scalar slots with it."""
        return not self.counted_on_device or all(map(is_, map(_step_of, self.states), self._steps_there))

    @property
    def reads_device(self) -> bool:
        """Whether a hyper-parameter of a group is held on the device."""
        device = self.weights[0].device
        values = [value for group in self.live_groups for value in group.values()]
        return any(
            same_device(each, device) for value in values for each in (value if type(value) is tuple else (value,))
        )

    def counted(self) -> None:
        """Let the device count this update, unless its verdict leaves it out."""
        if self.verdict is None:
            torch._foreach_add_(self._steps_there, 1.0)
        else:  # a list: of one tensor alone the host would read the number
            torch._foreach_add_(self._steps_there, [1.0 - self.verdict[1]] * len(self._steps_there))

    def live_classes(self) -> list[tuple[Group, dict[str, Any], list[int]]]:
        """As `classes` has them, but numbers that are held on the device stay there: the host waits for none. Those
        that the device has counted are not looked at, and part no parameters."""
        device = self.weights[0].device
        found: list[tuple[Group, dict[str, float], list[int]]] = []
        for live, members in self._members:
            together: dict[tuple[Any, ...], list[int]] = {}
            for index in members:
                values = [self.states[index][name] for name in ("step", *self.scalar_slots)]
                key = tuple([None if isinstance(value, Tensor) else value for value in values])
                together.setdefault(key, []).append(index)
            group = {**live_numbers(live, device), **self._fitted}
            for same in together.values():
                scalars = {name: self.states[same[0]][name] for name in ("step", *self.scalar_slots)}
                found.append((group, {**scalars, "gradient_factor": self.gradient_factor}, same))
        return found

    def classes(self) -> list[tuple[Group, dict[str, float], list[int]]]:
        """The parameters that share every number, so that one value serves them all: their group, their step and
        scalar slots by name, and their positions."""
        numbers = ("step", *self.scalar_slots)
        found: list[tuple[Group, dict[str, float], list[int]]] = []
        for live, members in self._members:
            group = {**plain_numbers(live), **self._fitted}
            states = self.states if len(members) == len(self.states) else [self.states[index] for index in members]
            columns = [list(map(itemgetter(number), states)) for number in numbers]
            if _any_on_device(columns[0]):
                columns = list(map(_numbers, columns))
            if all(column.count(column[0]) == len(column) for column in columns):  # as a rule, all are in step
                by_value = {tuple([column[0] for column in columns]): members}
            else:
                by_value = {}
                for index, values in zip(members, zip(*columns, strict=True), strict=True):
                    by_value.setdefault(values, []).append(index)
            for values, same in by_value.items():
                scalars = dict(zip(numbers, values, strict=True))
                found.append((group, {**scalars, "gradient_factor": self.gradient_factor}, same))
        return found

    def plain(self, number: str) -> list[Tensor] | None:
        """A number of all parameters, where it is stored as tensors of itself; None elsewhere."""
        if not isinstance(self.codecs[number], Plain):
            return None
        return self.weights if number == WEIGHTS else self.columns[number]

    def parts(self, number: str, index: int) -> list[Tensor]:
        """The tensors that hold a number of one parameter: its weights ("p") or a slot."""
        names = self.codecs[number].names(number)
        return [self.weights[index] if name == WEIGHTS else self.columns[name][index] for name in names]

    @property
    def keys(self) -> NDArray[np.uint64]:
        """The key of each parameter's random bits; their group's seed is live."""
        seeds = [group.get("rounding_seed", 0) for group, _ in self._members]
        if self._keys is None or self._keys[0] != seeds:
            of_parameters = [group.get("rounding_seed", 0) for group in self._groups]
            self._keys = seeds, noise.keys(of_parameters, self._places)
        return self._keys[1]

    @property
    def origins(self) -> NDArray[np.int64]:
        """Where in its parameter each part begins, in row-major order; random bits depend on it."""
        return np.array([layout.origin or 0 for layout in self.layouts] or [0] * len(self.weights), dtype=np.int64)

    def keys_now(self) -> NDArray[np.uint64]:
        """The keys of the random bits of this update."""
        return noise.keys_at(self.keys, list(map(_step_of, self.states)))

    def of(
        self, members: list[int], *, weights: list[Tensor], gradients: list[Tensor], columns: dict[str, list[Tensor]]
    ) -> Batch:
        """The same launch for some of its parameters, whose tensors are these; what is kept of each is kept here."""
        made = self._of(members, weights, self.codecs)
        made.columns, made.gradients, made.gradient_factor = columns, gradients, self.gradient_factor
        return made

    def without_slots(self, members: list[int], weights: list[Tensor], gradients: list[Tensor]) -> Batch:
        """A launch for some of its parameters, with these in place of weights and gradients, which reads no slot and
        takes the gradients as they are."""
        made = self._of(members, weights, {WEIGHTS: Plain(weights[0].dtype)})
        made.gradients = gradients
        return made

    def _of(self, members: list[int], weights: list[Tensor], codecs: Mapping[str, Codec]) -> Batch:
        states, groups = [self.states[index] for index in members], [self._groups[index] for index in members]
        return Batch(self.rule, weights, states, groups, codecs, [self._places[index] for index in members])

    @property
    def members(self) -> list[list[int]]:
        """The positions of the parameters of each group."""
        return [members for _, members in self._members]

    @property
    def live_groups(self) -> list[Group]:
        """The parameters' groups, each once."""
        return [group for group, _ in self._members]

    def live_group(self, index: int) -> Group:
        """The hyper-parameters of one parameter, as they stand in its group: also tensors."""
        return {**self._groups[index], **self._fitted}

    def unless_left_out(self, after: Tensor, before: Tensor) -> Tensor:
        """What the step has made, or where the verdict leaves it out, what was there before."""
        if not self.may_skip:
            return after
        assert self.verdict is not None
        return torch.where(self.verdict[1] != 0, before, after)

    def keep(self, members: list[int], new: Mapping[str, Any]) -> None:
        """Put the new values of scalar slots into the members' states."""
        if new:
            for index in members:
                self.states[index].update(new)


def addresses_of(tensors: Sequence[Tensor]) -> NDArray[np.int64]:
    """Where the tensors' numbers lie in memory."""
    return np.fromiter(map(Tensor.data_ptr, tensors), np.int64, len(tensors))


def not_captured(rule: Rule, why: str) -> RuntimeError:
    """The error of a step that would go into a CUDA graph."""
    name = type(rule).__name__
    return RuntimeError(f"{name} cannot be captured in a CUDA graph: {why}; take its step outside the graph")


def names_of(dtypes: Sequence[torch.dtype]) -> str:
    """The dtypes in words: "float64, float32"."""
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


class Engine(Protocol):
    """Runs rules."""

    @property
    def name(self) -> str:
        """What users call it."""

    @property
    def counts_on(self) -> bool:
        """Whether its device goes on with what it has counted for another batch: `Batch.advance`."""

    @property
    def takes_factor(self) -> bool:
        """Whether it multiplies gradients with the factor of a verdict that only the device knows: `Batch.verdict`."""

    def leaves_out(self, batch: Batch) -> bool:
        """Whether it can leave a step of the batch out by such a verdict."""

    def check_captured(self, batch: Batch) -> None:
        """Raise RuntimeError where a CUDA graph cannot capture a step of the batch. It has taken one before."""

    def apply(self, batch: Batch, function: str = "update") -> None:
        """Work out `rule.function` for every parameter of the batch, in place.

        `function` is "update", or another method of the rule that gives weights: "averaged", "training".
        """

    def measure(self, batch: Batch) -> dict[str, float]:
        """The totals of what `rule.measure` gives, over all elements of the batch. Nothing is changed."""

    def squares(self, batch: Batch) -> Tensor | None:
        """What the last update of an observed batch has seen, a row a parameter and a column each of `OBSERVED`: Σ x²
        over its elements on this rank. None before the first update.

        The update adds up as it goes, and on a GPU nobody waits for it before this is read.
        """

    def unit_squares(self, batch: Batch) -> list[Tensor | None]:
        """What the last update of an observed batch has seen of each parameter's units: Σ g² over each of the rows that
        this rank holds. None for a parameter that has one dimension, and before the first update.
        """


def _any_on_device(steps: list[Any]) -> bool:
    """Whether any of the steps is a tensor, which a device counts."""
    return not {int}.issuperset(map(type, steps))


def _numbers(values: list[Any]) -> list[Any]:
    """Python numbers, also where these are held in tensors: all of a device are read at once."""
    found = list(values)
    for device in {value.device for value in values if isinstance(value, Tensor)}:
        places = [place for place, value in enumerate(values) if same_device(value, device)]
        for place, number in zip(places, torch.stack([values[place] for place in places]).tolist(), strict=True):
            found[place] = number
    return found


_NO_NUMBERS = ("params", "param_names")


def plain_numbers(group: Group) -> Group:
    """The hyper-parameters as Python numbers, also those that are held in a tensor."""
    return {name: _plain(value) for name, value in group.items() if name not in _NO_NUMBERS}


def live_numbers(group: Group, device: torch.device) -> Group:
    """The hyper-parameters as Python numbers, but for those in tensors on the device, which the host does not read."""
    return {name: _live(value, device) for name, value in group.items() if name not in _NO_NUMBERS}


def _live(value: Any, device: torch.device) -> Any:
    there = same_device(value, device) and value.numel() == 1
    return value.detach().reshape(()).double() if there else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    if isinstance(value, (Tensor, np.generic, np.ndarray)):  # NumPy's would go on into slots, and so into checkpoints
        return float(value) if isinstance(value, Tensor) and value.numel() == 1 else _plain(value.tolist())
    return value


def without_numpy(value: Any) -> Any:
    """The value with Python's numbers in place of NumPy's; the very same where it has none of these."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        found = [without_numpy(each) for each in value]
        return value if all(map(is_, found, value)) else tuple(found) if isinstance(value, tuple) else found
    return value
