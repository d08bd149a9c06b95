"""A number that records what is done to it: the tracer.

A rule that is run on `Expression`s leaves behind the graph of its own arithmetic, from which the fused engine writes
a kernel. The graph knows nothing of the language that it will be written in.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Never

from stepwell.algebra.kinds import interpolated, register
from stepwell.algebra.plain import PLAIN


class Level(enum.IntEnum):
    """How often a number must be worked out."""

    CONSTANT = 0  # once, while tracing
    SCALAR = 1  # once a launch: made of hyper-parameters and the step alone
    TENSOR = 2  # once a tensor: made of a reduction over it
    ROW = 3  # once a row of a matrix: made of a reduction over its columns
    COLUMN = 4  # once a column
    ELEMENT = 5  # once an element


def joined(levels: Iterable[Level]) -> Level:
    """The level of what is made of numbers of these levels: rows and columns meet in the elements."""
    found = set(levels)
    return Level.ELEMENT if {Level.ROW, Level.COLUMN} <= found else max(found)


_FUNCTIONS = "use the functions of stepwell.algebra"
_DEEPEST = 6  # so far an error shows what a number is made of


class Expression:
    """A node of the graph: an operation, its arguments, and the level at which it has to be worked out."""

    __slots__ = ("arguments", "graph", "index", "level", "operation", "truth", "value")

    def __init__(
        self, graph: Graph, operation: str, arguments: tuple[Expression, ...], value: Any, level: Level, truth: bool
    ) -> None:
        self.graph = graph
        self.operation = operation
        self.arguments = arguments
        self.value = value
        self.level = level
        self.truth = truth
        self.index = len(graph.nodes)  # arguments are made before what is made of them: a topological order

    def __repr__(self) -> str:
        return self._shown(_DEEPEST)

    def _shown(self, depth: int) -> str:
        if self.operation in ("constant", "symbol", "load"):
            return str(self.value)
        # As text a graph is a tree, which may be larger than any memory.
        arguments = ", ".join(argument._shown(depth - 1) for argument in self.arguments) if depth else "…"
        return f"{self.operation}({arguments})"

    # The operators of the algebra.
    def __add__(self, other: Any) -> Any:
        return self.graph.apply("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self.graph.apply("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.graph.apply("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.graph.apply("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self.graph.apply("mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.graph.apply("mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.graph.apply("div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.graph.apply("div", other, self)

    def __pow__(self, other: Any) -> Any:
        return self.graph.apply("pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self.graph.apply("pow", other, self)

    def __neg__(self) -> Any:
        return self.graph.apply("neg", self)

    def __lt__(self, other: Any) -> Any:
        return self.graph.apply("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return self.graph.apply("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return self.graph.apply("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return self.graph.apply("ge", self, other)

    def __eq__(self, other: object) -> Any:
        return self.graph.apply("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return self.graph.apply("ne", self, other)

    def __hash__(self) -> int:
        return self.index

    # What a number that is not there yet cannot do.
    def __bool__(self) -> bool:
        if self.truth:
            return True
        raise TypeError(
            f"a rule may not branch on the number {self!r}: its value is known only when the kernel runs; "
            "use where(condition, x, y), or make it a flag (bool) of the rule"
        )

    def _refuse(self, what: str, way: str = _FUNCTIONS) -> Never:
        raise TypeError(f"a rule may not {what}; {way}")

    def __float__(self) -> float:
        self._refuse(f"turn {self!r} into a Python float")

    def __int__(self) -> int:
        self._refuse(f"turn {self!r} into a Python int")

    def __index__(self) -> int:
        self._refuse(f"turn {self!r} into an index")

    def __iter__(self) -> Iterator[Any]:
        self._refuse(f"turn {self!r} into a sequence")

    def __len__(self) -> int:
        self._refuse(f"turn {self!r} into a sequence")

    def __getitem__(self, _: Any) -> Never:
        self._refuse(f"take a part of {self!r}")

    def __abs__(self) -> Never:
        self._refuse(f"call abs() on {self!r}", "use stepwell.algebra.absolute")

    def __matmul__(self, _: Any) -> Never:
        self._refuse(f"take {self!r} for a matrix", "say acts_on = 'matrices' in the class")

    def __getattr__(self, name: str) -> Never:
        if name.startswith("__") or name in Expression.__slots__:  # Python's own questions, as those of copy and pickle
            raise AttributeError(name)
        way = "a number is not changed in place: return the new one" if name.endswith("_") else _FUNCTIONS
        raise AttributeError(f"a rule may not ask {self!r} for .{name}, which is a tensor's; {way}")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Never:
        raise TypeError(f"a rule may not give its numbers to torch's {function.__name__}(); {_FUNCTIONS}")


_FOLDED: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
    "neg": lambda x: -x,
    "reciprocal": PLAIN.reciprocal,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    **{name: getattr(PLAIN, name) for name in ("sqrt", "absolute", "sign", "exp", "log", "cos", "floor")},
    **{name: getattr(PLAIN, name) for name in ("minimum", "maximum", "where")},
}


class Graph:
    """The arithmetic of one rule. Equal subexpressions are one node."""

    def __init__(self) -> None:
        self.nodes: list[Expression] = []
        # Whether it adds up what stands below each other in one matrix, not in all of a stack.
        self.adds_below = False
        self._known: dict[tuple[Any, ...], Expression] = {}

    def load(self, array: str, level: Level = Level.ELEMENT) -> Expression:
        """One number of the array called `array`, which has one for each element (or row, or column, or tensor)."""
        return self._node("load", (), array, level)

    def symbol(self, name: str, *, truth: bool = False) -> Expression:
        """A number known before the launch. `truth`: it is known not to be zero, so a rule may ask `if h.momentum`."""
        return self._node("symbol", (), name, Level.SCALAR, truth=truth)

    def apply(self, operation: str, *arguments: Any) -> Any:
        """The node for an operation; worked out at once where every argument is a constant."""
        nodes = tuple(a if isinstance(a, Expression) else self._constant(a) for a in arguments)
        if all(node.level is Level.CONSTANT for node in nodes) and operation in _FOLDED:
            return self._constant(_FOLDED[operation](*(node.value for node in nodes)))
        return self._node(operation, nodes, None, joined(node.level for node in nodes))

    def reduce(self, operation: str, argument: Any) -> Any:
        """The node for a sum: a "total" over all that a tensor has of the argument (elements, or rows, or columns), a
        "row_total" over the columns in each row, a "column_total" over the rows in each column."""
        node = argument if isinstance(argument, Expression) else self._constant(argument)
        if node.level < Level.ROW:
            node = self.spread(node)
        elif (operation, node.level) in (("row_total", Level.COLUMN), ("column_total", Level.ROW)):
            self.adds_below = True
            operation = "total"
        level = {"total": Level.TENSOR, "row_total": Level.ROW, "column_total": Level.COLUMN}[operation]
        return self._node(operation, (node,), None, level)

    def mean(self, operation: str, x: Expression) -> Any:
        """The mean that belongs to a sum: its number of terms is a "count" of elements, rows or columns."""
        if (operation, x.level) in (("row_total", Level.ROW), ("column_total", Level.COLUMN)):
            return x  # one number in each row already
        sum_of = self.reduce(operation, x)
        terms = {Level.ROW: "rows", Level.COLUMN: "columns"}.get(x.level)
        if terms is None:
            terms = {"total": "elements", "row_total": "columns", "column_total": "rows"}[operation]
        return sum_of / self._node("count", (), terms, Level.TENSOR)

    def spread(self, node: Expression, level: Level = Level.ELEMENT) -> Expression:
        """The same number at every element (or row, or column, or once a tensor)."""
        return node if node.level is level else self._node("spread", (node,), level.name, level)

    def _constant(self, value: Any) -> Expression:
        if not isinstance(value, (bool, int, float)):
            raise TypeError(f"a rule's arithmetic takes numbers, not {type(value).__name__} ({value!r})")
        return self._node("constant", (), value if isinstance(value, bool) else float(value), Level.CONSTANT)

    def _node(
        self, operation: str, arguments: tuple[Expression, ...], value: Any, level: Level, *, truth: bool = False
    ) -> Expression:
        # repr tells -0.0 from 0.0 and nan from itself, which equality does not.
        key = (operation, tuple(a.index for a in arguments), repr(value))
        if key not in self._known:
            node = Expression(self, operation, arguments, value, level, truth)
            self.nodes.append(node)
            self._known[key] = node
        return self._known[key]


class Tracing:
    """The algebra on `Expression`s."""

    def sqrt(self, x: Expression) -> Any:
        return x.graph.apply("sqrt", x)

    def absolute(self, x: Expression) -> Any:
        return x.graph.apply("absolute", x)

    def sign(self, x: Expression) -> Any:
        return x.graph.apply("sign", x)

    def exp(self, x: Expression) -> Any:
        return x.graph.apply("exp", x)

    def log(self, x: Expression) -> Any:
        return x.graph.apply("log", x)

    def cos(self, x: Expression) -> Any:
        return x.graph.apply("cos", x)

    def floor(self, x: Expression) -> Any:
        return x.graph.apply("floor", x)

    def minimum(self, x: Any, y: Any) -> Any:
        return _graph_of(x, y).apply("minimum", x, y)

    def maximum(self, x: Any, y: Any) -> Any:
        return _graph_of(x, y).apply("maximum", x, y)

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        if isinstance(condition, bool):
            return x if condition else y
        return _graph_of(condition, x, y).apply("where", condition, x, y)

    def lerp(self, x: Any, y: Any, weight: Any) -> Any:
        return interpolated(x, y, weight)

    def total(self, x: Expression) -> Any:
        return x if x.level <= Level.TENSOR else x.graph.reduce("total", x)

    def mean(self, x: Expression) -> Any:
        return x if x.level <= Level.TENSOR else x.graph.mean("total", x)

    def row_mean(self, x: Expression) -> Any:
        return x.graph.mean("row_total", x)

    def column_mean(self, x: Expression) -> Any:
        return x.graph.mean("column_total", x)


def _graph_of(*numbers: Any) -> Graph:
    return next(number.graph for number in numbers if isinstance(number, Expression))


register(Expression, Tracing())
