"""Hyper-parameters: what values a rule's field may take, and the errors that say so.

A field's annotation carries its range: `betas: tuple[Fraction, Fraction] = (0.9, 0.999)`. Numbers are symbols to the
tracer, flags (`bool`, `Literal`, `None`, an enum, a name) are plain Python, and a `Switch` is a number whose zero is a
flag: a rule may ask `if h.momentum`, and keeps no slot for a momentum that is off. A number that is `Shaping` decides
the shape of a slot, and is a flag whatever it is.
"""

from __future__ import annotations

import math
import numbers
import types
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from itertools import repeat
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin

import numpy as np
import torch

from stepwell.text.naming import nearest
from stepwell.text.numbers import as_float
from stepwell.text.values import shown

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, either end left out where it is open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False

    def __contains__(self, number: float) -> bool:
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return above and below and (not self.whole or float(number).is_integer())

    def __str__(self) -> str:
        kind = "a whole number " if self.whole else ""
        if self.high == math.inf and self.low == -math.inf:
            return f"{kind or 'a '}finite number".replace("number finite", "finite")
        if self.high == math.inf:
            return f"{kind}{'above' if self.open_low else 'at least'} {self.low:g}"
        return f"{kind}in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


class Switch:
    """Marks a number whose zero switches a part of the rule off."""


class Shaping:
    """Marks a number that decides the shape of a slot: it stays what it was when the slot was made."""


NonNegative = Annotated[float, Range(low=0)]
Positive = Annotated[float, Range(low=0, open_low=True)]
Fraction = Annotated[float, Range(low=0, high=1, open_high=True)]
OpenFraction = Annotated[float, Range(low=0, high=1, open_low=True, open_high=True)]
Whole = Annotated[float, Range(low=0, whole=True)]
Count = Annotated[int, Range(low=1, whole=True)]
Seed = Annotated[int, Range(low=0, whole=True)]
Rounds = Annotated[int, Range(low=1, high=100, whole=True)]
"""How often an iteration within one step goes round: more than a hundred take time and memory for nothing."""


def is_switch(annotation: Any) -> bool:
    """Whether the field's zero is a flag."""
    return _is_marked(annotation, Switch)


def is_shaping(annotation: Any) -> bool:
    """Whether the field's number decides the shape of a slot."""
    return _is_marked(annotation, Shaping)


def _is_marked(annotation: Any, kind: type) -> bool:
    return any(isinstance(mark, kind) for mark in getattr(annotation, "__metadata__", ()))


def may_be_flag(annotation: Any) -> bool:
    """Whether a value of this field can be a flag."""
    if get_origin(annotation) is Annotated and get_args(annotation)[0] is float:
        return is_switch(annotation) or is_shaping(annotation)
    if get_origin(annotation) is tuple:
        return any(may_be_flag(each) for each in get_args(annotation) if each is not Ellipsis)
    return annotation is not float


def is_flag(annotation: Any, value: Any) -> bool:
    """Whether a value is plain Python to a rule: a flag, a name, None, a member of an enum, a choice (`Literal`), a
    count (`int`), a switch that is off, what shapes a slot, anything else that is no number, or a tuple in which any of
    these stands."""
    if value is None or isinstance(value, (bool, str, Enum)):
        return True
    if is_switch(annotation):
        return not value
    if _decides(annotation):
        return True
    if isinstance(value, (tuple, list)):
        elements = get_args(annotation) if get_origin(annotation) is tuple else ()
        return any(map(is_flag, elements if len(elements) == len(value) else repeat(float), value))
    # Numbers of every kind can be multiplied; what cannot be told from its like by a key cannot be a flag.
    return not hasattr(value, "__mul__") and isinstance(value, Hashable)


def _decides(annotation: Any) -> bool:
    """Whether all values are counts, choices or shapes: `Count`, a `Literal`, a tuple of them, or either of them."""
    origin = get_origin(annotation)
    if origin is Literal:
        return True
    if origin is Annotated:
        return get_args(annotation)[0] is int or is_shaping(annotation)
    if origin is tuple or origin in (Union, types.UnionType):
        return all(_decides(each) for each in get_args(annotation) if each is not Ellipsis and each is not type(None))
    return annotation is int


def settings(annotation: Any) -> tuple[Any, ...]:
    """Values by which a field of this annotation switches something on or off: all its flags, and a few numbers, of
    which its range may refuse some."""
    origin = get_origin(annotation)
    if annotation is bool:
        return False, True
    if annotation is type(None):
        return (None,)
    if origin is Literal:
        return get_args(annotation)
    if origin in (Union, types.UnionType):
        return tuple(value for option in get_args(annotation) for value in settings(option))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return tuple(annotation)
    return (0, 0.5, 1, 2) if origin is Annotated or annotation in (int, float) else ()


def validated(name: str, value: Any, annotation: Any, where: str = "") -> Any:
    """The value as the rule will see it. Raises ValueError or TypeError in one line that names field, value and range.

    `where` ends the sentence, for example `" (group 'norms')"`.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *marks = get_args(annotation)
        limits = next((mark for mark in marks if isinstance(mark, Range)), Range())
        return _number(name, value, limits, base is int, where)
    if annotation is bool:
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {shown(value)}{where}")
        return value
    if annotation in (int, float):
        return _number(name, value, Range(), annotation is int, where)
    if origin is tuple:
        return _tuple(name, value, get_args(annotation), where)
    if origin is Literal:
        choices = get_args(annotation)
        if value not in choices:
            known = ", ".join(map(repr, choices))
            hint = nearest(value, [c for c in choices if isinstance(c, str)]) if isinstance(value, str) else ""
            one_of = "one of " if len(choices) > 1 else ""
            raise ValueError(f"{name} must be {one_of}{known}, got {shown(value)}{hint}{where}")
        return value
    if origin in (Union, types.UnionType):
        options = get_args(annotation)
        if value is None and type(None) in options:
            return None
        return _one_of(name, value, [option for option in options if option is not type(None)], where)
    return value


class Checked(Generic[T]):
    """An attribute that takes what `validated` lets through, also later than at construction."""

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> T:
        if instance is None:
            raise AttributeError(self._name)
        value: T = instance.__dict__[self._name]
        return value

    def __set__(self, instance: object, value: T) -> None:
        instance.__dict__[self._name] = validated(self._name, value, self._annotation)


def _one_of(name: str, value: Any, options: list[Any], where: str) -> Any:
    """The value by the first option that takes it. Raises the error of one that is for values of this type."""
    errors: list[Exception] = []
    for option in [option for option in options if _is_for(option, value)] or options[:1]:
        try:
            return validated(name, value, option, where)
        except (TypeError, ValueError) as error:
            errors.append(error)
    raise next((error for error in errors if isinstance(error, ValueError)), errors[0])


def _is_for(annotation: Any, value: Any) -> bool:
    """Whether the annotation is for values of this type, whatever its range."""
    origin = get_origin(annotation)
    if origin is tuple:
        return isinstance(value, (tuple, list))
    if origin is Literal:
        return type(value) in map(type, get_args(annotation))
    if origin is Annotated or annotation in (int, float):
        return isinstance(value, (numbers.Real, torch.Tensor)) and not isinstance(value, bool)
    return annotation is Any or not isinstance(annotation, type) or isinstance(value, annotation)


def _number(name: str, value: Any, limits: Range, whole: bool, where: str) -> Any:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or whole:
            raise TypeError(f"{name} must be {limits}, got a tensor of shape {tuple(value.shape)}{where}")
        number = float(value)
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        words = str(limits) if str(limits).startswith("a ") else f"a number {limits}"
        of_jax = type(value).__module__.partition(".")[0] in ("jax", "jaxlib")  # as from optax.inject_hyperparams
        way = f"; write float(…), or for one that changes transformation(rule, live=({name!r},))" if of_jax else ""
        raise TypeError(f"{name} must be {words}, got {shown(value, typed=True)}{way}{where}")
    else:
        number = as_float(value)
    if whole and not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {shown(value, typed=True)}{where}")
    if number in limits and not math.isfinite(number) and limits.low > -math.inf:  # the range alone would not say why
        allowed = f"a finite number {'above' if limits.open_low else 'of at least'} {limits.low:g}"
        raise ValueError(f"{name} must be {allowed}, got {shown(value)}{where}")
    if not math.isfinite(number) or number not in limits:
        raise ValueError(f"{name} must be {limits}, got {shown(value)}{where}")
    if isinstance(value, (torch.Tensor, float, int)) and type(value).__module__ != "numpy":
        return value
    # NumPy's numbers and fractions as Python's: a state dict holds plain values.
    return int(value) if isinstance(value, numbers.Integral) else number


def _tuple(name: str, value: Any, annotations: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim == 1:
        value = value.tolist()
    if annotations[-1] is Ellipsis and isinstance(value, (tuple, list)) and value:
        annotations = annotations[:1] * len(value)
    if isinstance(value, str) or not isinstance(value, (tuple, list)) or len(value) != len(annotations):
        raise ValueError(f"{name} must be {len(annotations)} numbers, got {shown(value)}{where}")
    return tuple(
        validated(f"{name}[{index}]", element, annotation, where)
        for index, (element, annotation) in enumerate(zip(value, annotations, strict=True))
    )
