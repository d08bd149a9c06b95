"""Schedules as data: a dict for JSON and TOML, and the code that a schedule prints as, read without running it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from stepwell.schedules.composition import COMPOSITIONS
from stepwell.schedules.function import Function, function_name
from stepwell.schedules.schedule import Schedule, given, made, schedule_class
from stepwell.schedules.sequence import sequence
from stepwell.text import toml
from stepwell.text.naming import nearest
from stepwell.text.values import shown

Functions = Mapping[str, Callable[[Any], Any]]


def to_dict(schedule: Schedule) -> dict[str, Any]:
    """The schedule as a plain dict of strings, numbers, lists and dicts, which `json.dumps` takes as it is.

    "kind" is the schedule's class; what stands at its default is left out. A Python function goes by its name.

    >>> to_dict(Cosine(warmup=0.1))
    {"kind": "Cosine", "warmup": 0.1}
    """
    return {"kind": type(schedule).__name__} | {name: _plain(value) for name, value in given(schedule).items()}


def from_dict(data: Mapping[str, Any], *, functions: Functions | None = None) -> Schedule:
    """The schedule that a dict describes, as `to_dict` gives it.

    Args:
        data: a "kind" (case, dashes and underscores do not matter) and the schedule's arguments.
        functions: the Python functions that the data may name. Nothing is imported because a file says so.

    Raises:
        TypeError: an unknown or a missing argument; a value of the wrong type.
        ValueError: an unknown kind, or a value out of range.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"a schedule must be a dict with a 'kind', got {shown(data)}")
    if "kind" not in data:
        raise ValueError(f"a schedule needs a 'kind', such as 'Cosine', got {', '.join(data) or 'nothing'}")
    kind = schedule_class(str(data["kind"]))
    given = {name: _back(value, functions) for name, value in data.items() if name != "kind"}
    if kind is Function and isinstance(given.get("function"), str):
        given["function"] = _function(given["function"], functions)
    return made(kind, given)


def to_toml(schedule: Schedule) -> str:
    """The schedule as a TOML document."""
    return toml.pairs(to_dict(schedule))


def from_toml(text: str, *, functions: Functions | None = None) -> Schedule:
    """The schedule in a TOML document; see `from_dict`."""
    return from_dict(toml.read(text), functions=functions)


def parse(text: str, *, functions: Functions | None = None) -> Schedule:
    """The schedule that prints as `text`, or that goes by that name alone: "Cosine(warmup=0.1)", "cosine".

    The text is read, not run: it can hold schedules, compositions of them, and numbers, strings and lists. A name alone
    is a schedule in a composition too: "warmup(cosine, 10)".

    Raises:
        ValueError: the text is no such code, or names what is not known.
        TypeError: an unknown argument, or a value of the wrong type.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not a schedule such as 'Cosine(warmup=0.1)': {error.msg}") from None
    found = _read(_called(tree), text, functions)
    if not isinstance(found, Schedule):
        raise ValueError(f"{text!r} is not a schedule such as 'Cosine(warmup=0.1)'")
    return found


def _read(node: ast.expr, text: str, functions: Functions | None) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        positional = [_read(_called(one), text, functions) for one in node.args]
        named = {str(one.arg): _read(one.value, text, functions) for one in node.keywords}
        make = {**COMPOSITIONS, "sequence": sequence}.get(node.func.id)
        if make is None:
            kind = schedule_class(node.func.id)
            if positional:
                raise ValueError(f"the arguments of {kind.__name__} go by name, got {ast.unparse(node)}")
            if isinstance(name := named.get("function"), str):
                named["function"] = _function(name, functions)
            return made(kind, named)
        if lacking := _lacking(make, len(positional), named):
            raise TypeError(f"{node.func.id} needs {' and '.join(lacking)}: give {'=…, '.join(lacking)}=…")
        return make(*positional, **named)
    if isinstance(node, (ast.List, ast.Tuple)):
        return tuple(_read(one, text, functions) for one in node.elts)
    if isinstance(node, (ast.Attribute, ast.Name)):
        return ast.unparse(node)  # the dotted name of a function
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{text!r} holds {ast.unparse(node)!r}, which is neither a schedule nor a number") from None


def _lacking(make: Callable[..., Any], positional: int, named: Mapping[str, Any]) -> list[str]:
    """The arguments that a composition cannot do without, and that are not among so many and these."""
    taken = signature(make).parameters.values()
    by_position = [one.name for one in taken if one.kind is one.POSITIONAL_OR_KEYWORD][:positional]
    needed = [one.name for one in taken if one.default is one.empty and one.kind is not one.VAR_POSITIONAL]
    return [name for name in needed if name not in (*by_position, *named)]


def _called(node: ast.expr) -> ast.expr:
    """A name alone as the call that makes the schedule."""
    return ast.Call(node, [], []) if isinstance(node, ast.Name) else node


def _function(name: str, functions: Functions | None) -> Callable[[Any], Any]:
    known = functions or {}
    if name not in known:
        raise ValueError(f"the function {name!r} is not among functions={list(known)}{nearest(name, known)}")
    return known[name]


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return function_name(value) if callable(value) else value


def _back(value: Any, functions: Functions | None) -> Any:
    if isinstance(value, Mapping):
        return from_dict(value, functions=functions)
    return tuple(_back(one, functions) for one in value) if isinstance(value, list) else value
