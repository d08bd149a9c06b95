"""The selectors themselves, and the functions that make them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from stepwell.roles import ROLES, ParameterRole, Role
from stepwell.schedules.function import function_name
from stepwell.text.naming import nearest
from stepwell.text.values import shown

Predicate = Callable[[ParameterRole], bool]
Predicates = Mapping[str, Predicate]


class Selector:
    """A question about one parameter, answered by calling it with the parameter's `ParameterRole`."""

    def __call__(self, entry: ParameterRole) -> bool:
        raise NotImplementedError

    def by_name(self, entry: ParameterRole) -> frozenset[str]:
        """The names of a tied parameter by which it was asked for; none where names were not asked."""
        del entry
        return frozenset()

    @property
    def speaks_of(self) -> tuple[str, ...]:
        """The names that it looks for, which are most likely misspelt where it finds nothing."""
        return ()

    @property
    def parts(self) -> tuple[Selector, ...]:
        """The questions that it is combined of; itself, where it is not combined."""
        return (self,)

    def __and__(self, other: Selector) -> Selector:
        return Both(self, _selector(other))

    def __or__(self, other: Selector) -> Selector:
        return Either(self, _selector(other))

    def __invert__(self) -> Selector:
        return self.inner if isinstance(self, Not) else Not(self)


@dataclass(frozen=True, repr=False)
class Everything(Selector):
    """Every parameter."""

    def __call__(self, entry: ParameterRole) -> bool:
        return True

    def __repr__(self) -> str:
        return "everything()"


@dataclass(frozen=True, repr=False)
class ByRole(Selector):
    """Parameters of these roles."""

    roles: tuple[Role, ...]

    def __call__(self, entry: ParameterRole) -> bool:
        return entry.has_role(self.roles)

    def __repr__(self) -> str:
        return f"role({_listed(self.roles)})"


@dataclass(frozen=True, repr=False)
class ByName(Selector):
    """Parameters that have such a name: their own, that of a module around them, or one that a pattern describes."""

    patterns: tuple[str, ...]

    def __call__(self, entry: ParameterRole) -> bool:
        return bool(self.by_name(entry))

    def by_name(self, entry: ParameterRole) -> frozenset[str]:
        return frozenset(name for name in entry.names if any(_matches(name, pattern) for pattern in self.patterns))

    @property
    def speaks_of(self) -> tuple[str, ...]:
        return self.patterns

    def __repr__(self) -> str:
        return f"name({_listed(self.patterns)})"


@dataclass(frozen=True, repr=False)
class ByRegex(Selector):
    """Parameters one of whose names holds what a regular expression describes."""

    pattern: str

    def __call__(self, entry: ParameterRole) -> bool:
        return bool(self.by_name(entry))

    def by_name(self, entry: ParameterRole) -> frozenset[str]:
        return frozenset(name for name in entry.names if re.search(self.pattern, name))

    @property
    def speaks_of(self) -> tuple[str, ...]:
        return (self.pattern,)

    def __repr__(self) -> str:
        return f"regex({self.pattern!r})"


@dataclass(frozen=True, repr=False)
class ByModule(Selector):
    """Parameters that a module of such a class owns, a subclass of it included."""

    classes: tuple[str, ...]

    def __call__(self, entry: ParameterRole) -> bool:
        return any(name in self.classes for name in entry.module_classes)

    @property
    def speaks_of(self) -> tuple[str, ...]:
        return self.classes

    def __repr__(self) -> str:
        return f"module({_listed(self.classes)})"


@dataclass(frozen=True, repr=False)
class Between(Selector):
    """Parameters for which a number lies in a range, both ends included."""

    quantity: str
    at_least: int | None
    at_most: int | None

    def __call__(self, entry: ParameterRole) -> bool:
        value = QUANTITIES[self.quantity](entry)
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __repr__(self) -> str:
        if self.at_least == self.at_most:
            return f"{self.quantity}({self.at_least})"
        ends = (("at_least", self.at_least), ("at_most", self.at_most))
        return f"{self.quantity}({', '.join(f'{name}={value}' for name, value in ends if value is not None)})"


QUANTITIES: Mapping[str, Callable[[ParameterRole], int]] = {
    "ndim": lambda entry: entry.parameter.ndim,
    "size": lambda entry: entry.parameter.numel(),
    "depth": lambda entry: entry.depth,
}


@dataclass(frozen=True, repr=False)
class Where(Selector):
    """Parameters of which a Python function says so."""

    predicate: Predicate

    def __call__(self, entry: ParameterRole) -> bool:
        return bool(self.predicate(entry))

    def __repr__(self) -> str:
        return f"where({function_name(self.predicate)})"


@dataclass(frozen=True, repr=False)
class Both(Selector):
    """Parameters that two selectors take."""

    first: Selector
    second: Selector

    def __call__(self, entry: ParameterRole) -> bool:
        return self.first(entry) and self.second(entry)

    def by_name(self, entry: ParameterRole) -> frozenset[str]:
        found = [asked for one in (self.first, self.second) if (asked := one.by_name(entry))]
        return frozenset.intersection(*found) if found else frozenset()

    @property
    def speaks_of(self) -> tuple[str, ...]:
        return (*self.first.speaks_of, *self.second.speaks_of)

    @property
    def parts(self) -> tuple[Selector, ...]:
        return (*self.first.parts, *self.second.parts)

    def __repr__(self) -> str:
        return f"{_inside(self.first, Either)} & {_inside(self.second, Either, Both)}"


@dataclass(frozen=True, repr=False)
class Either(Selector):
    """Parameters that one of two selectors takes."""

    first: Selector
    second: Selector

    def __call__(self, entry: ParameterRole) -> bool:
        return self.first(entry) or self.second(entry)

    def by_name(self, entry: ParameterRole) -> frozenset[str]:
        taking = [one for one in (self.first, self.second) if one(entry)]
        asked = [one.by_name(entry) for one in taking]
        return frozenset().union(*asked) if all(asked) else frozenset()

    @property
    def speaks_of(self) -> tuple[str, ...]:
        return (*self.first.speaks_of, *self.second.speaks_of)

    @property
    def parts(self) -> tuple[Selector, ...]:
        return (*self.first.parts, *self.second.parts)

    def __repr__(self) -> str:
        return f"{self.first!r} | {_inside(self.second, Either)}"


@dataclass(frozen=True, repr=False)
class Not(Selector):
    """Parameters that a selector does not take."""

    inner: Selector

    def __call__(self, entry: ParameterRole) -> bool:
        return not self.inner(entry)

    @property
    def parts(self) -> tuple[Selector, ...]:
        return self.inner.parts

    def __repr__(self) -> str:
        return f"~{_inside(self.inner, Either, Both)}"


def everything() -> Selector:
    """Every parameter."""
    return Everything()


def role(*roles: Role) -> Selector:
    """Parameters of one of these roles (`stepwell.roles.ROLES`). Raises ValueError for another."""
    _check_texts("role", roles)
    for each in roles:
        if each not in ROLES:
            raise ValueError(f"unknown role {each!r}{nearest(each, ROLES)}; roles are {', '.join(ROLES)}")
    return ByRole(tuple(roles))


def name(*patterns: str) -> Selector:
    """Parameters with one of these names: a parameter's, a module's around it, or a shell-style pattern
    (`"*.experts.*"`). A tied parameter has several names, and any of them counts."""
    _check_texts("name", patterns)
    return ByName(patterns)


def regex(pattern: str) -> Selector:
    r"""Parameters one of whose names holds what the regular expression describes: `regex(r"layers\.[0-3]\.")`."""
    _check_texts("regex", (pattern,))
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"regex({pattern!r}) is no regular expression: {error}") from None
    return ByRegex(pattern)


def module(*classes: str) -> Selector:
    """Parameters that a module of one of these classes owns, by the class's name: `module("LayerNorm")`. A subclass
    counts as its base class too."""
    _check_texts("module", classes)
    return ByModule(classes)


def ndim(exactly: int | None = None, *, at_least: int | None = None, at_most: int | None = None) -> Selector:
    """Parameters with so many dimensions."""
    return _between("ndim", exactly, at_least, at_most)


def size(exactly: int | None = None, *, at_least: int | None = None, at_most: int | None = None) -> Selector:
    """Parameters that hold so many numbers."""
    return _between("size", exactly, at_least, at_most)


def depth(exactly: int | None = None, *, at_least: int | None = None, at_most: int | None = None) -> Selector:
    """Parameters at this depth: 0 for what comes before the first block, 1 for the first block, and so on; the head
    and what else follows the last block stands one deeper than it."""
    return _between("depth", exactly, at_least, at_most)


def where(predicate: Predicate) -> Selector:
    """Parameters for which a Python function of the `ParameterRole` returns True. A text speaks of it by module and
    name, and is read with `functions={"module.name": function}`; one without a name cannot be read back."""
    if not callable(predicate):
        raise TypeError(f"where takes a function of a ParameterRole, got {shown(predicate)}")
    return Where(predicate)


def _between(quantity: str, exactly: int | None, at_least: int | None, at_most: int | None) -> Selector:
    given = [one for one in (exactly, at_least, at_most) if one is not None]
    if not given or (exactly is not None and len(given) > 1):
        raise ValueError(f"{quantity} takes one number, or at_least=, at_most= or both")
    for number in given:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"{quantity} takes whole numbers at least 0, got {shown(number)}")
    if exactly is not None:
        return Between(quantity, exactly, exactly)
    if at_least is not None and at_most is not None and at_least > at_most:
        raise ValueError(f"{quantity}(at_least={at_least}, at_most={at_most}) takes nothing")
    return Between(quantity, at_least, at_most)


def _check_texts(maker: str, words: tuple[Any, ...]) -> None:
    if not words:
        raise ValueError(f"{maker}() needs at least one text")
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"{maker}() takes texts, got {shown(word)}")


def _selector(other: Any) -> Selector:
    if not isinstance(other, Selector):
        raise TypeError(f"a selector combines with selectors only, got {shown(other)}")
    return other


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(map(repr, words))


def _inside(selector: Selector, *looser: type[Selector]) -> str:
    return f"({selector!r})" if isinstance(selector, looser) else repr(selector)
