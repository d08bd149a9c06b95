"""The arithmetic of a program as Python source: on the host for the scalars, and for the body of a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stepwell.algebra import plain
from stepwell.algebra.tracing import Expression, Level
from stepwell.engines.fused.program import Program

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
}  # fmt: skip
# Functions whose text uses an argument more than once: the argument gets a name of its own.
_NEEDS_NAMES = frozenset({"sign", "minimum", "maximum", "where"})

Names = Mapping[str, str]


class Writer:
    """Writes expressions as Python source.

    Args:
        functions: how to call `sqrt`, `exp`, … in the language written.
        constant: how to write a number.
        leaf: how to name what the expressions are made of (loads, symbols, scalars), or None for "work it out".
    """

    def __init__(
        self,
        functions: Names,
        constant: Callable[[float | bool], str],
        leaf: Callable[[Expression], str | None],
        prefix: str,
    ) -> None:
        self._functions = functions
        self._constant = constant
        self._leaf = leaf
        self._prefix = prefix
        self._text: dict[int, str] = {}
        self.lines: list[str] = []

    def write(self, nodes: Sequence[Expression], named: Iterable[Expression]) -> None:
        """Append a line for every node that is used more than once or stands in `named`; inline the others."""
        uses: dict[int, int] = {}
        names = {node.index for node in named}
        for node in nodes:
            for argument in node.arguments:
                uses[argument.index] = uses.get(argument.index, 0) + 1
                if node.operation in _NEEDS_NAMES:
                    names.add(argument.index)
        for node in nodes:
            if node.operation == "constant" or node.index in self._text or self._leaf(node) is not None:
                continue
            text = self._expression(node)
            if node.index in names or uses.get(node.index, 0) > 1:
                variable = f"{self._prefix}{node.index}"
                self.lines.append(f"{variable} = {_outer(text)}")
                text = variable
            self._text[node.index] = text

    def text(self, node: Expression) -> str:
        """The name or the text of a node that has been written."""
        if node.operation == "constant":
            return self._constant(node.value)
        known = self._text.get(node.index) or self._leaf(node)
        if known is None:
            raise AssertionError(f"{node!r} is used before it is worked out")
        return known

    def _expression(self, node: Expression) -> str:
        arguments = [self.text(argument) for argument in node.arguments]
        if node.operation in INFIX:
            if node.operation == "pow" and node.arguments[1].value == 2.0:
                node_text = self.text(node.arguments[0])
                return f"({node_text} * {node_text})"
            return f"({arguments[0]} {INFIX[node.operation]} {arguments[1]})"
        one, zero = self._constant(1.0), self._constant(0.0)
        match node.operation:
            case "neg":
                return f"(-{arguments[0]})"
            case "spread":
                return arguments[0]
            case "where":
                return f"({arguments[1]} if {arguments[0]} else {arguments[2]})"
            case "sign":
                x = arguments[0]
                return f"({one} if {x} > {zero} else ({self._constant(-1.0)} if {x} < {zero} else {zero}))"
            case "minimum" | "maximum":
                x, y = arguments
                better = "<" if node.operation == "minimum" else ">"
                return f"(({y} if {y} {better} {x} else {x}) if {y} == {y} else {y})"
        return f"{self._functions[node.operation]}({', '.join(arguments)})"


def _outer(text: str) -> str:
    """Without the parentheses that enclose all of it."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and position < len(text) - 1:
            return text
    return text[1:-1]


HostScalars = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[tuple[float, ...], tuple[float, ...]]]


def host_source(program: Program) -> str:
    """Source of `scalars(h, s)`: the kernel's scalars and the new scalar slots, in float64.

    `h` holds the hyper-parameters by name, `s` the step, the gradient factor and the scalar slots.
    """
    wanted = [*program.scalars, *(e for _, e in program.scalar_slots)]
    nodes = scalar_nodes(wanted)
    functions = {name: f"plain.{name}" for name in ("reciprocal", "sqrt", "absolute", "exp", "log", "cos", "floor")}
    writer = Writer(functions, _host_constant, _host_leaf, "c")
    writer.write(nodes, wanted)
    results = ", ".join(writer.text(e) for e in program.scalars)
    slots = ", ".join(writer.text(e) for _, e in program.scalar_slots)
    body = "\n".join(f"    {line}" for line in writer.lines)
    return f"def scalars(h, s):\n{body}\n    return ({results}{',' * bool(results)}), ({slots}{',' * bool(slots)})\n"


def host_function(program: Program) -> HostScalars:
    """The function whose source is `host_source(program)`."""
    scope: dict[str, Any] = {"plain": plain.PLAIN, "math": math}
    exec(compile(host_source(program), f"<scalars of {program.name}>", "exec"), scope)
    function: HostScalars = scope["scalars"]
    return function


def _host_constant(value: float | bool) -> str:
    if isinstance(value, bool) or math.isfinite(value):
        return repr(value)
    return f"math.{'nan' if math.isnan(value) else 'inf'}" if value != -math.inf else "-math.inf"


def _host_leaf(node: Expression) -> str | None:
    if node.operation != "symbol":
        return None
    kind, _, name = str(node.value).partition(".")
    if kind == "gradient_factor":
        return 's["gradient_factor"]'
    name, bracket, index = name.partition("[")
    return f'{kind}["{name}"]{bracket}{index}'


def scalar_nodes(roots: Iterable[Expression]) -> list[Expression]:
    """All that the roots are made of, arguments before what is made of them."""
    seen: dict[int, Expression] = {}
    pending = list(roots)
    while pending:
        node = pending.pop()
        if node.index not in seen:
            seen[node.index] = node
            pending.extend(node.arguments)
    nodes = [seen[index] for index in sorted(seen)]
    assert all(node.level <= Level.SCALAR for node in nodes)
    return nodes
