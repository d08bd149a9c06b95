"""A schedule's arithmetic as straight Python, for the one step that a scheduler asks for again and again.

The tracer, which turns a rule into a kernel, turns a schedule into one expression of floats: nothing is looked up by
type any more, and only the branch that is taken is worked out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

from stepwell.algebra.tracing import Expression, Graph, Level

_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
_FUNCTIONS = {name: getattr(math, name) for name in ("sqrt", "exp", "log", "cos", "floor")} | {"absolute": abs}
_DEEPEST = 20  # an expression nested deeper than this gets a line of its own: Python's parser has an end


def as_python(function: Callable[[Any], Any], name: str) -> Callable[[int], Any]:
    """`function` of one whole number, written out as Python; itself, if it does more than the algebra's arithmetic."""
    graph = Graph()
    try:
        source = _source(function(graph.symbol("step")))
    except Exception:
        # A function of the user's that asks what its step is (a branch, a table) cannot be traced, and need not be. If
        # it is wrong, its caller hears so when it is called.
        return function
    scope: dict[str, Any] = dict(_FUNCTIONS)
    exec(compile(source, f"<{name}>", "exec"), scope)
    written: Callable[[int], Any] = scope["factor"]
    return written


def _source(result: Any) -> str:
    if not isinstance(result, Expression):
        return f"def factor(step):\n    return {float(result)!r}\n"
    needed = _needed(result)
    uses = Counter(argument.index for node in needed for argument in _mentions(node))
    texts: dict[int, str] = {}
    depths: dict[int, int] = {}
    lines = []
    for node in needed:
        same = _same_number(node)
        if same is not None:
            texts[node.index], depths[node.index] = texts[same.index], depths[same.index]
            continue
        texts[node.index] = text = _text(node, texts)
        depths[node.index] = 1 + max((depths[argument.index] for argument in node.arguments), default=0)
        if node.arguments and node.level > Level.CONSTANT and (uses[node.index] > 1 or depths[node.index] > _DEEPEST):
            lines.append(f"    x{node.index} = {text}\n")
            texts[node.index], depths[node.index] = f"x{node.index}", 0
    return f"def factor(step):\n{''.join(lines)}    return {texts[result.index]}\n"


def _needed(result: Expression) -> list[Expression]:
    """The nodes that the result is made of, arguments first."""
    found: dict[int, Expression] = {}
    open_ = [result]
    while open_:
        node = open_.pop()
        if node.index not in found:
            found[node.index] = node
            open_ += node.arguments
    return [found[index] for index in sorted(found)]


def _same_number(node: Expression) -> Expression | None:
    """The argument that the node is equal to, bit for bit and in type: x·1, x/1, x − 0, and 1 for 1**x."""
    if node.operation not in ("mul", "div", "sub", "pow"):
        return None
    first, second = node.arguments
    if node.operation == "pow":
        return first if _is(first, 1.0) else None
    neutral = 0.0 if node.operation == "sub" else 1.0
    if _is(second, neutral) and _is_float(first):
        return first
    return second if node.operation == "mul" and _is(first, 1.0) and _is_float(second) else None


def _is(node: Expression, value: float) -> bool:
    return node.operation == "constant" and node.value == value


def _is_float(node: Expression) -> bool:
    """Whether the number is surely a float, where a step is an int."""
    if node.operation in ("add", "sub", "mul", "pow"):
        return any(map(_is_float, node.arguments))
    return node.operation in ("constant", "div", "sqrt", "exp", "log", "cos")


def _mentions(node: Expression) -> tuple[Expression, ...]:
    """Its arguments, as often as the text names them."""
    return node.arguments * 2 if node.operation in ("minimum", "maximum", "sign") else node.arguments


def _text(node: Expression, texts: dict[int, str]) -> str:
    if node.operation == "symbol":
        return str(node.value)
    if node.operation == "constant":
        return f"({node.value!r})" if math.isfinite(node.value) else f"float('{node.value}')"
    names = [texts[argument.index] for argument in node.arguments]
    if node.operation in _OPERATORS:
        return f"({names[0]} {_OPERATORS[node.operation]} {names[1]})"
    if node.operation in _FUNCTIONS:
        return f"{node.operation}({names[0]})"
    if node.operation == "neg":
        return f"(-{names[0]})"
    if node.operation == "where":
        return f"({names[1]} if {names[0]} else {names[2]})"
    if node.operation in ("minimum", "maximum"):
        x, y = names
        return f"({y} if {y} {'<' if node.operation == 'minimum' else '>'} {x} else {x})"
    if node.operation == "sign":
        return f"float(({names[0]} > 0) - ({names[0]} < 0))"
    raise TypeError(f"a schedule gives one number for one step, and has no use for {node.operation}")
