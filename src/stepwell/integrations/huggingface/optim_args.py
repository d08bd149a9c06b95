"""`optim_args`: hyper-parameters as one line of text, each value with its type."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.recipes import Recipe

_NAME = re.compile(r"\s*([A-Za-z_]\w*)\s*(=?)")
_WORD = re.compile(r"[A-Za-z][\w.\-]*")
_WORDS = {"true": True, "false": False, "none": None}
_CLOSING = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class Argument:
    """One hyper-parameter.

    Attributes:
        name: what it is called.
        value: a number, a flag, None, a text or a tuple of these.
        where: where it stands, for an error to end with.
    """

    name: str
    value: Any
    where: str


def parse(given: str | Mapping[str, Any] | None) -> list[Argument]:
    """The hyper-parameters in "betas=(0.9, 0.95), nesterov=true", or in a dict of them.

    Values are Python's numbers, texts and tuples; true, false and none in any case; a bare word is a text.

    Raises:
        ValueError: the text does not parse; says at which position, counted from 1.
        TypeError: neither a text nor a dict.
    """
    if given is None:
        return []
    if isinstance(given, Mapping):
        return [Argument(str(name), _tuples(value), f" (optim_args {name!r})") for name, value in given.items()]
    if not isinstance(given, str):
        raise TypeError(f"optim_args must be a text such as 'betas=(0.9, 0.95)', or a dict, got {given!r}")
    found: dict[str, Argument] = {}
    for start, piece in _pieces(given):
        head = _NAME.match(piece)
        if head is None or not head[2]:
            tuples = "; a tuple needs brackets, as in betas=(0.9, 0.95)" if found else ""
            raise _error(given, start, f"name=value is needed, got {piece.strip()!r}{tuples}")
        name = head[1]
        if name in found:
            raise _error(given, start, f"{name!r} is there twice")
        text = piece[head.end() :]
        begin = start + head.end() + len(text) - len(text.lstrip())
        if not text.strip():
            raise _error(given, start + head.end(), f"a value is missing after '{name}='")
        found[name] = Argument(
            name, _value(given, begin, text.strip()), f" (optim_args, position {start + head.start(1) + 1})"
        )
    return list(found.values())


def applied(recipe: Recipe, arguments: list[Argument], hint: str = "") -> Recipe:
    """The recipe with these hyper-parameters. An error names the place in the text; `hint` ends it."""
    try:
        return recipe.set(**{argument.name: argument.value for argument in arguments})
    except (TypeError, ValueError):
        pass  # said below, with its place
    for argument in arguments:
        try:
            recipe = recipe.set(**{argument.name: argument.value})
        except TypeError as error:
            raise TypeError(f"{error}{argument.where}{hint}") from None
        except ValueError as error:
            raise ValueError(f"{error}{argument.where}") from None
    return recipe


def as_text(given: str | Mapping[str, Any] | None) -> str | None:
    """The text that transformers' own parser reads."""
    if not isinstance(given, Mapping):
        return given
    return ",".join(f"{name}={value}" for name, value in given.items())


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """What stands between the commas outside of brackets and quotes, and where it begins."""
    start, quote, open_ = 0, "", list[tuple[str, int]]()
    for position, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote, opened = letter, position
        elif letter in _CLOSING:
            open_.append((_CLOSING[letter], position))
        elif letter in _CLOSING.values():
            if not open_ or open_.pop()[0] != letter:
                raise _error(text, position, f"{letter!r} closes nothing")
        elif letter == "," and not open_:
            yield start, text[start:position]
            start = position + 1
    if quote:
        raise _error(text, opened, f"the quote {quote} is not closed")
    if open_:
        raise _error(text, open_[-1][1], f"{text[open_[-1][1]]!r} is not closed")
    if text[start:].strip() or start:
        yield start, text[start:]


def _value(text: str, position: int, value: str) -> Any:
    if value.casefold() in _WORDS:
        return _WORDS[value.casefold()]
    try:
        return _tuples(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        if _WORD.fullmatch(value):
            return value
    raise _error(text, position, f"{value!r} is neither a number, a flag, a word nor a tuple of these")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value


def _error(text: str, position: int, what: str) -> ValueError:
    return ValueError(f"optim_args does not parse at position {position + 1} of {text!r}: {what}")
