"""Engines that run a rule's own Python, on numbers made of a few parameters at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.algebra.postponed import in_turn
from stepwell.codecs import WEIGHTS, drawn, noise
from stepwell.engines.batch import Batch, not_captured
from stepwell.engines.devices import capturing
from stepwell.engines.observing import add_up_units, squares_of, units_added_up
from stepwell.rules.rule import Names, Rule, Shape, namespace

# Methods of a rule that take a gradient: a step, and a step of a `OneMatrixRule` in three.
_OF_A_STEP = ("update", "mix", "turn", "move")


class Direct(ABC):
    """An engine says which parameters make up a number, what the number is, and how it is stored."""

    name: str
    counts_on = False
    takes_factor = False

    @abstractmethod
    def parts(self, rule: Rule, weights: list[Tensor], members: list[int]) -> Iterable[list[int]]:
        """The members, in parts that are worked out together."""

    @abstractmethod
    def number(self, tensors: list[Tensor], dtype: torch.dtype) -> Any:
        """The number that stands for these tensors. `dtype` is float64 where anything is stored in it, else float32."""

    @abstractmethod
    def store(self, targets: list[Tensor], value: Any) -> None:
        """Write a number back into the tensors that it stands for."""

    @abstractmethod
    def tensors(self, value: Any, count: int) -> list[Any]:
        """The tensors (or plain numbers) that a number is made of, one for each of `count` parameters."""

    @abstractmethod
    def sum(self, value: Any) -> float:
        """The sum over all elements of a number."""

    def taken_apart(
        self, part: list[int], batch: Batch, numbers: tuple[Any, Any, Any, Any]
    ) -> tuple[Any, Mapping[str, Any], Callable[[Any], None]] | None:
        """The direction in which to move these weights, the new values of the slots, and what moves the weights in a
        direction; None where that is all left to the rule. `numbers` are p, g, s, h."""
        del part, batch, numbers
        return None

    def leaves_out(self, batch: Batch) -> bool:
        """Whether it can leave a step of the batch out by a verdict that only the device knows: if what the host counts
        is not asked for."""
        return self.takes_factor and batch.asked == set()

    def apply(self, batch: Batch, function: str = "update") -> None:
        """Work out `rule.function` for every parameter of the batch, in place."""
        updating = function == "update"
        noted = _drawn_from(batch) if updating and self.takes_factor and batch.asked is None else None
        for group, scalars, members in self._classes(batch, function):
            h = namespace({name: group[name] for name in batch.rule.field_names()})
            for part in self.parts(batch.rule, batch.weights, members):
                kept = _copies(part, batch) if updating and batch.may_skip else []
                self._apply_to(part, batch, function, h, scalars, noted)
                for tensor, before in kept:
                    tensor.copy_(batch.unless_left_out(tensor, before))
        if noted is not None:
            batch.asked = noted
        if updating and batch.counted_on_device:
            batch.counted()

    def _classes(self, batch: Batch, function: str) -> list[tuple[Mapping[str, Any], dict[str, Any], list[int]]]:
        """The parameters that share every number. Where the rule asks for none that the host counts, and on a GPU, what
        is held on the device stays there."""
        device = batch.weights[0].device
        if function == "update" and self.leaves_out(batch):
            on_gpu, captured = device.type != "cpu", capturing(device)
            if not (batch.counted_on_device or captured) and (batch.may_skip or (on_gpu and batch.reads_device)):
                batch.count_on_device()
            if batch.counted_on_device or captured or on_gpu:
                return batch.live_classes()
        return batch.classes()

    def check_captured(self, batch: Batch) -> None:
        """See `Engine.check_captured`: replays would keep the learning rate and the step of the capture."""
        if not self.takes_factor:
            why = f"the {self.name} engine takes the step and the rates from the host"
        elif _drawn_from(batch):
            why = "what is rounded by chance depends on the step, which the host counts for it"
        elif batch.asked:
            why = "it depends on the step, which the host counts for it"
        else:
            return
        raise not_captured(batch.rule, why)

    def measure(self, batch: Batch) -> dict[str, float]:
        """The totals of what `rule.measure` gives, over all elements of the batch. Nothing is changed."""
        totals: dict[str, float] = {}
        for group, scalars, members in batch.classes():
            h = namespace({name: group[name] for name in batch.rule.field_names()})
            for part in self.parts(batch.rule, batch.weights, members):
                for name, value in batch.rule.measure(*self._numbers(part, batch, scalars), h).items():
                    totals[name] = totals.get(name, 0.0) + self.sum(value)
        return totals

    def squares(self, batch: Batch) -> Tensor | None:
        """What its last update has observed: see `Engine.squares`."""
        return batch.prepared.get("squares")

    def unit_squares(self, batch: Batch) -> list[Tensor | None]:
        """What its last update has observed of units: see `Engine.unit_squares`."""
        return units_added_up(batch)

    def _observe(self, part: list[int], batch: Batch, numbers: tuple[Any, ...]) -> None:
        seen = squares_of([self.tensors(number, len(part)) for number in numbers])
        if "squares" not in batch.prepared:
            batch.prepared["squares"] = seen.new_zeros(len(batch.weights), len(numbers))
        squares = batch.prepared["squares"]
        # A list of places would be sent to the device. As a rule they follow each other.
        in_a_row = part == list(range(part[0], part[0] + len(part)))
        runs = [(part[0], seen)] if in_a_row else [(index, seen[row : row + 1]) for row, index in enumerate(part)]
        for first, rows in runs:
            places = squares[first : first + len(rows)]
            places.copy_(batch.unless_left_out(rows, places))
        add_up_units(batch, part)

    def _numbers(self, part: list[int], batch: Batch, scalars: Mapping[str, float]) -> tuple[Any, Any, Any]:
        """p, g and s for these parameters."""
        gradients = [batch.gradients[index] for index in part]
        columns = {
            number: [column[index] for index in part] if column is not None else _loaded(part, batch, number)
            for number, column in ((number, batch.plain(number)) for number in batch.codecs)
        }
        weights = columns.pop(WEIGHTS)
        if type(batch.rule).working_shape is not Rule.working_shape:
            shapes = [batch.rule.working_shape(tuple(weight.shape)) for weight in weights]
            own_shape = {slot.name for slot in batch.rule.slot_list() if slot.shape is None}
            weights, gradients = _reshaped(weights, shapes), _reshaped(gradients, shapes)
            columns = {name: _reshaped(c, shapes) if name in own_shape else c for name, c in columns.items()}
        dtype = _computed_in(weights, gradients, *columns.values())
        g = self.number(gradients, dtype)
        if scalars["gradient_factor"] != 1.0:
            g = g * scalars["gradient_factor"]
        if batch.verdict is not None:
            g = g * batch.verdict[0].to(dtype)
        slots = {slot: self.number(column, dtype) for slot, column in columns.items()}
        return self.number(weights, dtype), g, namespace({**scalars, **slots})

    def _apply_to(
        self,
        part: list[int],
        batch: Batch,
        function: str,
        h: Any,
        scalars: Mapping[str, float],
        noted: set[str] | None,
    ) -> None:
        p, g, s = self._numbers(part, batch, scalars)
        rule = batch.rule
        if noted is not None:
            s = _noting(vars(s), ("step", *batch.scalar_slots), noted)
        apart = self.taken_apart(part, batch, (p, g, s, h)) if function == "update" else None
        if apart is not None:  # then the direction stands where new weights would
            new_weights, new, move = apart
        elif function in _OF_A_STEP:
            new_weights, new = getattr(rule, function)(p, g, s, h)
        else:
            new_weights, new = rule.exchange(function, p, s, h)
        rule.check_slots(new)
        observed = batch.observed and function == "update"
        before = p.clone() if observed and apart is not None else p
        if observed and apart is None:
            self._observe(part, batch, (new_weights - p, p, g))
        changed = {slot: value for slot, value in new.items() if slot in batch.codecs and value is not getattr(s, slot)}
        numbers = in_turn({**changed, WEIGHTS: new_weights}, {**vars(s), WEIGHTS: p})
        # Random bits are for training: an average to evaluate on is rounded to the nearest.
        draws = function == "update" and any(batch.codecs[number].draws for number in numbers)
        drawn_for = _noise(part, batch) if draws else None
        for number, value in numbers.items():
            if apart is not None and number == WEIGHTS:
                move(value)
            else:
                self._store(part, batch, number, value, drawn_for)
        if observed and apart is not None:
            after = self.number([batch.weights[index].reshape(p.shape) for index in part], p.dtype)
            self._observe(part, batch, (after - before, before, g))
        batch.keep(part, {slot: float(value) for slot, value in new.items() if slot not in batch.codecs})

    def _store(
        self, part: list[int], batch: Batch, number: str, value: Any, drawn_for: list[noise.Noise] | None
    ) -> None:
        column = batch.plain(number)
        if column is not None:
            self.store([column[index] for index in part], value)
            return
        codec = batch.codecs[number]
        place = drawn(number, batch.codecs) if codec.draws else 0
        for position, (index, tensor) in enumerate(zip(part, self.tensors(value, len(part)), strict=True)):
            bits = drawn_for[position].bits(place) if drawn_for is not None and codec.draws else None
            codec.store(shaped(tensor, batch.weights[index]), batch.parts(number, index), bits)


def _drawn_from(batch: Batch) -> set[str]:
    """What is asked of the host whatever the rule asks: the random bits of what is rounded by chance depend on the
    step."""
    return {"step"} if any(codec.draws for codec in batch.codecs.values()) else set()


def _noting(values: Mapping[str, Any], names: Sequence[str], asked: set[str]) -> Names:
    """A namespace that puts those of the names that are read into `asked`."""

    class Noting(Names):
        def __getattribute__(self, name: str) -> Any:
            if name in names:
                asked.add(name)
            return super().__getattribute__(name)

    return Noting(**values)


def _copies(part: list[int], batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """All that is stored for these parameters, and copies of it."""
    columns = [batch.weights, *batch.columns.values()]
    return [(column[index], column[index].clone()) for column in columns for index in part]


def _loaded(part: list[int], batch: Batch, number: str) -> list[Tensor]:
    """A number of each parameter, in its own shape."""
    codec = batch.codecs[number]
    return [codec.load(batch.parts(number, index), tuple(batch.weights[index].shape)) for index in part]


def _noise(part: list[int], batch: Batch) -> list[noise.Noise]:
    """What the random bits of each parameter's elements are made of."""
    found = zip(part, batch.keys_now()[part], batch.origins[part], strict=True)
    weights = batch.weights
    return [
        noise.noise(int(key), weights[index].numel(), weights[index].device, int(origin))
        for index, key, origin in found
    ]


def shaped(number: Any, weight: Tensor) -> Tensor:
    """The number of one parameter, in the parameter's shape."""
    if not isinstance(number, Tensor):
        return torch.full(weight.shape, number, dtype=torch.float32, device=weight.device)
    return number.reshape(weight.shape) if number.numel() == weight.numel() else number.expand(weight.shape)


def _reshaped(tensors: list[Tensor], shapes: list[Shape]) -> list[Tensor]:
    return [tensor.reshape(shape) for tensor, shape in zip(tensors, shapes, strict=True)]


def laid_out_for(target: Tensor, value: Tensor) -> Tensor:
    """The value in the target's shape, where the rule has seen it in another one; else as it is."""
    return value.reshape(target.shape) if value.shape != target.shape and value.numel() == target.numel() else value


def _computed_in(*columns: list[Tensor]) -> torch.dtype:
    return torch.float64 if any(column[0].dtype == torch.float64 for column in columns) else torch.float32
