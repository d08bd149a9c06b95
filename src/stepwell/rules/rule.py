"""A rule: one optimizer's update, written once, in the notation of its paper, as a pure function of numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Self, get_args, get_type_hints

from stepwell.algebra.matrices import normal_like
from stepwell.rules.hyper import NonNegative, is_flag, may_be_flag, settings, validated
from stepwell.rules.registry import enter
from stepwell.text.naming import meant_or_known, nearest

Decay = Literal["coupled", "decoupled", "independent", "proximal"]
AnyDecay = Literal["coupled", "decoupled", "independent", "proximal", "inside"]
ActsOn = Literal["elements", "tensors", "matrices"]
Shape = tuple[int, ...]

# What an update is given besides, under names that no slot may have.
_GIVEN = {
    "p": "the weights",
    "g": "the gradient",
    "step": "the number of the update",
    "gradient_factor": "what gradients are multiplied with",
}


def row_wise(shape: Shape) -> Shape:
    """The shape of a slot that holds one number a row: (…, rows, 1) for a parameter of shape (…, rows, cols)."""
    return (*shape[:-1], 1)


def column_wise(shape: Shape) -> Shape:
    """The shape of a slot that holds one number a column: (…, 1, cols) for a parameter of shape (…, rows, cols)."""
    return (*shape[:-2], 1, shape[-1])


def tensor_wise(_: Shape) -> Shape:
    """The shape of a slot that holds one number a parameter."""
    return ()


@dataclass(frozen=True)
class Slot:
    """One tensor (or, where `scalar`, one number) of optimizer state for each parameter.

    `start` says what stands in it before the first update: zeros, a copy of the weights, or normal numbers, the same
    for each matrix and each parameter. `shape` gives the slot's shape from the parameter's, which it has itself by
    default. A `scalar` slot is made of hyper-parameters and the step alone and is kept as a Python number; a number
    that is made of the gradient is `tensor_wise`. A `shared` scalar is one number for all parameters of the rule:
    `settle` gives it, and a parameter that joins later finds it as it is.

    How its numbers may be stored: a `positive` slot holds none below 0, so that 8 and 4 bits need not keep a sign, and
    keep a second moment from becoming 0. A `fine` slot is kept in as many bits as the weights, never in 8 or 4: it
    holds an average of weights (as all do that start from them), or numbers whose sign counts however small they are.
    A `wide` slot has at least 32 bits, also where the parameter has 16: an orthogonal basis does not survive being
    rounded.

    A scalar slot with `work` holds the parameter's turn, from 0 to `every` − 1, at work that comes once in so many
    steps. `work` says how much that is, from the shape in which the rule sees the parameter, and turns are given so
    that all steps have about as much; the rule never changes them.
    """

    name: str
    start: Literal["zeros", "weights", "normal"] = "zeros"
    scalar: bool = False
    shared: bool = False
    shape: Callable[[Shape], Shape] | None = None
    wide: bool = False
    positive: bool = False
    fine: bool = False
    work: Callable[[Shape], float] | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.start == "weights":
            object.__setattr__(self, "fine", True)

    @staticmethod
    def normal_numbers(like: Any) -> Any:
        """What stands first in a slot that starts with normal numbers, in the shape and dtype of `like`."""
        matrix = like.reshape(1, -1) if like.ndim < 2 else like
        return normal_like(matrix, seed=0).reshape(like.shape)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One optimizer's update.

    Subclass it as a frozen dataclass. The fields are the hyper-parameters with the paper's defaults, `slots` names the
    optimizer state, and `direction` says where to go; the base class applies weight decay and the learning rate once
    for all rules. A rule that must, gives the whole `update` instead. See `docs/what-is-a-number.md`.

    Args:
        lr: learning rate, per step.
        weight_decay: weight decay λ, at least 0.
        decay: what weight decay means. "coupled" adds λ·p to the gradient (L2 regularisation: λ/2·‖p‖² in the loss);
            "decoupled" shrinks the weights by the share lr·λ before the step, as torch's AdamW does; "independent" by
            the share λ, whatever the rate: p ← (1 − λ)·p − lr·d (Loshchilov & Hutter 2019, arXiv:1711.05101, Algs. 1
            and 2, with a schedule multiplier of 1); "proximal" divides by 1 + lr·λ after the step (Zhuang et al. 2022,
            arXiv:2202.00089); "inside" leaves it to the rule's own `direction`.
        maximize: go up the gradient instead of down.
    """

    lr: NonNegative = 1e-3
    weight_decay: NonNegative = 0.0
    decay: AnyDecay = "decoupled"
    maximize: bool = False

    acts_on: ClassVar[ActsOn] = "elements"
    # Whether each number moves by at most about the rate, whatever the size of gradients and weights: where that rounds
    # to nothing, a plan warns.
    moves_by_rate: ClassVar[bool] = False
    # Hyper-parameters for which None may be given, in place of what the rule then puts there.
    may_be_none: ClassVar[tuple[str, ...]] = ()
    # Whether several matrices of one shape may be handed to a rule of matrices as one stack.
    stackable: ClassVar[bool] = True

    @property
    def slots(self) -> tuple[str | Slot, ...]:
        """The optimizer state for each parameter. A plain class attribute will do, unless a flag decides."""
        return ()

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.acts_on not in (known := get_args(ActsOn)):
            one_of = ", ".join(map(repr, known))
            hint = nearest(str(cls.acts_on), known)
            raise ValueError(f"acts_on of {cls.__name__} must be one of {one_of}, got {cls.acts_on!r}{hint}")
        if not abstract:
            enter(cls)

    def __new__(cls, *_: Any, **given: Any) -> Self:
        if inspect.get_annotations(cls) and "__dataclass_fields__" not in cls.__dict__:
            raise TypeError(
                f"decorate {cls.__name__} with @dataclass(frozen=True, kw_only=True): it has fields of its own"
            )
        cls.check_names(given)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, annotation in hyper_parameters(type(self)).items():
            object.__setattr__(self, name, validated(name, getattr(self, name), annotation))

    def direction(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        """Where one step of length `lr` goes, and the new values of the slots.

        Args:
            p: the weights, before the step.
            g: their gradient (with coupled decay already added).
            s: the slots by name, and `s.step`, the number of this update: 1 at the first.
            h: the hyper-parameters by name.
        """
        raise TypeError(f"{type(self).__name__} defines neither direction() nor update()")

    def rate(self, s: Any, h: Any) -> Any:
        """What the direction is multiplied with: `lr`, unless the rule makes something of it."""
        return h.lr

    @property
    def own_rate(self) -> str:
        """The length of a step in words, for a rule that finds it, or a part of it, while it trains; "" where `lr` says
        it. Plans show it, for what stands in `lr` is not the rate then."""
        return ""

    def update(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        """The weights after the step, and the new values of the slots."""
        direction, slots = self.directed(p, g, s, h)
        return self.moved(p, direction, s, h), slots

    def directed(self, p: Any, g: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        """What `direction` gives for a step."""
        found: Any = self.direction(p, self.regularised(p, g, h), s, h)
        returned = found if isinstance(found, (tuple, list)) else (found,)
        if len(returned) != 2 or not isinstance(returned[1], Mapping):
            got = ", ".join("None" if each is None else type(each).__name__ for each in returned)
            raise TypeError(
                f"{type(self).__name__}.direction must return the direction and a dict of the new slots ({{}} where it "
                f"has none), got {got}"
            )
        return returned[0], returned[1]

    def regularised(self, p: Any, g: Any, h: Any) -> Any:
        """The gradient that `direction` gets: with coupled decay, of the regularised loss."""
        return g + h.weight_decay * p if h.decay == "coupled" else g

    def moved(self, p: Any, direction: Any, s: Any, h: Any) -> Any:
        """The weights after a step in this direction, and their decay."""
        if h.decay == "decoupled":
            p = p * (1 - h.lr * h.weight_decay)
        elif h.decay == "independent":
            p = p * (1 - h.weight_decay)
        p = p - self.rate(s, h) * direction
        if h.decay == "proximal":
            p = p / (1 + h.lr * h.weight_decay)
        return p

    def exchange(self, function: str, p: Any, s: Any, h: Any) -> tuple[Any, Mapping[str, Any]]:
        """What "averaged" or "training" gives: weights, and slots where these change with them."""
        result = getattr(self, function)(p, s, h)
        return result if isinstance(result, tuple) else (result, {})

    def measure(self, p: Any, g: Any, s: Any, h: Any) -> Mapping[str, Any]:
        """Numbers that are added up over all elements of all parameters, before the update, for `settle`."""
        return {}

    def settle(self, totals: Mapping[str, Any], s: Any, h: Any) -> Mapping[str, Any]:
        """The new values of shared slots, from the totals of what `measure` gave; the update then sees them.

        It is asked once for all parameters, with `s` and `h` of the group that has the largest learning rate.
        """
        return {}

    def fit(self, shape: Shape) -> Rule:
        """The rule for a parameter of this shape: itself, unless the shape decides a flag, or that another rule
        serves better. What it gives instead has its own flags, and the live numbers of the group."""
        return self

    def working_shape(self, shape: Shape) -> Shape:
        """The shape in which the rule sees a parameter of this shape, and its slots of the same shape. Slots of another
        shape are made for this one. It keeps the order of the elements."""
        return shape

    def slot_shape(self, slot: Slot, shape: Shape) -> Shape:
        """The shape of one of its slots for a parameter of this shape."""
        return shape if slot.shape is None else slot.shape(self.working_shape(shape))

    def own_slots(self, saved: Mapping[str, Any]) -> Mapping[str, Any]:
        """A parameter's saved state with the names and shapes of these slots, also where another implementation of the
        same rule saved it."""
        return saved

    def own_values(self, live: Mapping[str, Any]) -> dict[str, Any]:
        """What a fitted rule decides by itself: its flags, and what is not among the live values of the whole one."""
        own = set(flags(type(self), self.values()))
        return {name: value for name, value in self.values().items() if name not in live or (name, value) in own}

    def but(self, **values: Any) -> Self:
        """The same rule with other hyper-parameters."""
        return type(self)(**{**self.values(), **values})

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Self:
        """The rule with the hyper-parameters that a parameter group holds."""
        return cls(**{name: group[name] for name in cls.field_names()})

    @classmethod
    def check_names(cls, names: Any, where: str = "") -> None:
        """Raise TypeError for a name that is not a hyper-parameter of this rule."""
        known = hyper_parameters(cls)
        for name in names:
            if name not in known:
                raise TypeError(
                    f"unknown hyper-parameter {name!r} for {cls.__name__}{meant_or_known(name, known)}{where}"
                )

    def check_slots(self, returned: Mapping[str, Any]) -> None:
        """Raise TypeError for a returned slot that is not declared."""
        known = [slot.name for slot in self.slot_list()]
        for name in returned:
            if name not in known:
                hint = nearest(name, known)
                raise TypeError(
                    f"{type(self).__name__} returns the slot {name!r}, which `slots` does not declare{hint}"
                )

    def slot_list(self) -> tuple[Slot, ...]:
        """The slots, each as a `Slot`. Raises TypeError where a single name stands in place of a tuple, or where two
        slots, or a slot and something else that an update is given, have one name."""
        slots: Any = self.slots
        if isinstance(slots, str):
            raise TypeError(f"slots of {type(self).__name__} must be a tuple, got {slots!r}; write ({slots!r},)")
        listed = tuple(slot if isinstance(slot, Slot) else Slot(slot) for slot in slots)
        names: set[str] = set()
        for slot in listed:
            if slot.name in _GIVEN:
                raise TypeError(f"a slot of {type(self).__name__} may not be called {slot.name!r}: {_GIVEN[slot.name]}")
            if slot.name in names:
                raise TypeError(f"{type(self).__name__} has two slots called {slot.name!r}; give one another name")
            names.add(slot.name)
        return listed

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """The names of the hyper-parameters."""
        return tuple(hyper_parameters(cls))

    def values(self) -> dict[str, Any]:
        """The hyper-parameters by name."""
        return {name: getattr(self, name) for name in self.field_names()}


_HYPER_PARAMETERS: dict[type, dict[str, Any]] = {}


def hyper_parameters(rule: type[Rule]) -> dict[str, Any]:
    """The names and annotations of a rule's fields, in the order of its signature: the class that has `lr` leads."""
    if rule in _HYPER_PARAMETERS:
        return _HYPER_PARAMETERS[rule]
    hints = get_type_hints(rule, include_extras=True)
    every = {field.name for field in fields(rule)}
    leader = next(ancestor for ancestor in rule.__mro__ if "lr" in inspect.get_annotations(ancestor))
    ordered: dict[str, Any] = {}
    for ancestor in (leader, *rule.__mro__):
        for name in inspect.get_annotations(ancestor):
            if name in every:
                ordered.setdefault(name, hints[name])
    if rule is not Rule:  # `lr: float` in a rule of the user's keeps the range that every learning rate has
        ranges = hyper_parameters(Rule)
        ordered = {name: ranges.get(name, hint) if hint is float else hint for name, hint in ordered.items()}
    _HYPER_PARAMETERS[rule] = ordered
    return ordered


def flags(rule: type[Rule], values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The values that are plain Python to the rule, and so decide its arithmetic: flags, choices, None, counts
    (annotated `int`), switches that are off, what shapes a slot, tuples with any of these, and whatever is no number.
    All others are numbers that the tracer keeps as symbols."""
    if rule not in _MAY_BE_FLAGS:
        known = hyper_parameters(rule).items()
        may_be = tuple((name, annotation) for name, annotation in known if may_be_flag(annotation))
        _MAY_BE_FLAGS[rule] = may_be, tuple(name for name, annotation in known if not may_be_flag(annotation))
    may_be, numbers = _MAY_BE_FLAGS[rule]
    found = [(name, values[name]) for name, kind in may_be if is_flag(kind, values[name])]
    # Only by mistake is one of these none: where flags change, the rule looks at all its values.
    return (*found, *[(name, values[name]) for name in numbers if type(values[name]) in _NO_NUMBERS])


_MAY_BE_FLAGS: dict[type, tuple[tuple[tuple[str, Any], ...], tuple[str, ...]]] = {}
_NO_NUMBERS = {type(None), str}


def switched(rule: Rule, shape: Shape) -> list[Rule]:
    """The rule, and others that differ in their flags alone: one for each set of slots that these can give it. All are
    fitted to a parameter of this shape."""
    found, known = [rule], {_slot_names(rule)}
    for one in found:
        for name, annotation in hyper_parameters(type(one)).items():
            for value in settings(annotation) if may_be_flag(annotation) else ():
                try:
                    other = one.but(**{name: value})
                    other.fit(shape)
                except (TypeError, ValueError):  # no value of this field, or none that goes with the others
                    continue
                if _slot_names(other) not in known:
                    known.add(_slot_names(other))
                    found.append(other)
    return [one.fit(shape) for one in found]


def _slot_names(rule: Rule) -> frozenset[str]:
    return frozenset(slot.name for slot in rule.slot_list())


class Names(SimpleNamespace):
    """Hyper-parameters, or slots, as attributes."""

    def __contains__(self, name: str) -> bool:
        return name in vars(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        known = list(vars(self))
        raise AttributeError(f"there is no {name!r} among {', '.join(known)}{nearest(name, known)}")


def namespace(values: Mapping[str, Any]) -> Names:
    """What a rule gets as `h` or `s`: names as attributes."""
    return Names(**values)
