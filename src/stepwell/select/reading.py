"""Selectors read from the code that they print as, without running it."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from stepwell.select.selectors import (
    Predicate,
    Predicates,
    Selector,
    depth,
    everything,
    module,
    name,
    ndim,
    regex,
    role,
    size,
    where,
)
from stepwell.text.naming import nearest

MAKERS: Mapping[str, Callable[..., Selector]] = {
    function.__name__: function for function in (everything, role, name, regex, module, ndim, size, depth)
}
EXAMPLE = "\"role('norm') | name('*.bias')\""


def parse(text: str, *, functions: Predicates | None = None) -> Selector:
    """The selector that prints as `text`. The text is read, not run.

    Args:
        text: selectors joined by `&`, `|`, `~` and brackets.
        functions: the Python functions that `where(…)` may name.

    Raises:
        ValueError: the text is no such code, or names what is not known.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a regular expression's backslash is no escape that Python knows
            tree = ast.parse(str(text).strip(), mode="eval").body
        return _read(tree, functions or {})
    except SyntaxError as error:
        column = f" at column {error.offset}" if error.offset else ""
        raise ValueError(f"{text!r} is no selector such as {EXAMPLE}: {error.msg}{column}") from None
    except (RecursionError, MemoryError):  # how Python's own parser says so
        raise ValueError(f"a selector of {len(text):,} characters is nested too deeply") from None


def _read(node: ast.expr, functions: Predicates) -> Selector:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        first, second = _read(node.left, functions), _read(node.right, functions)
        return first & second if isinstance(node.op, ast.BitAnd) else first | second
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return ~_read(node.operand, functions)
    code = ast.unparse(node)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        joins = isinstance(node, (ast.BoolOp, ast.UnaryOp, ast.BinOp))
        raise ValueError(f"{code!r} is no selector such as {EXAMPLE}{'; join selectors with & | ~' * joins}")
    called = node.func.id
    if called == "where":
        return where(_predicate(node, functions))
    if called not in MAKERS:
        known = [*MAKERS, "where"]
        raise ValueError(f"unknown selector {called!r}{nearest(called, known)}; selectors are {', '.join(known)}")
    positional = [_plain(one, code) for one in node.args]
    named = {str(one.arg): _plain(one.value, code) for one in node.keywords}
    try:
        return MAKERS[called](*positional, **named)
    except TypeError as error:
        raise ValueError(f"{code}: {error}") from None


def _plain(node: ast.expr, code: str) -> Any:
    """A text or a number."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        written = ast.unparse(node)
        raise ValueError(f"{code}: {written} is neither a text nor a number; texts stand in quotation marks") from None


def _predicate(node: ast.Call, functions: Predicates) -> Predicate:
    named = ast.unparse(node.args[0]) if len(node.args) == 1 and not node.keywords else ""
    if named not in functions:
        raise ValueError(
            f"where({named}) names no function among functions={list(functions)}{nearest(named, functions)}"
        )
    return functions[named]
