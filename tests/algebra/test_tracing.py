"""The tracer records arithmetic, and says what a number that is not there yet cannot do."""

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch

from stepwell.algebra import lerp, mean, norm, sqrt, where
from stepwell.algebra.tracing import Expression, Graph, Level


def test_equal_subexpressions_are_one_node() -> None:
    graph = Graph()
    x, y = graph.load("x"), graph.symbol("y")
    assert (x * y + 1) is (x * y + 1)
    assert (x * y) is not (y * x)


def test_constants_are_worked_out_while_tracing() -> None:
    graph = Graph()
    zero = graph.load("x") * 0.0
    constant = graph.apply("add", 1.0, 2.0)
    assert constant.value == 3.0
    assert constant.level is Level.CONSTANT
    assert zero.level is Level.ELEMENT


def test_negative_zero_is_not_zero() -> None:
    graph = Graph()
    assert graph.apply("add", graph.load("x"), 0.0) is not graph.apply("add", graph.load("x"), -0.0)


def test_levels_say_how_often_a_number_is_worked_out() -> None:
    graph = Graph()
    p, lr = graph.load("p"), graph.symbol("lr")
    assert (1 - lr * 2).level is Level.SCALAR
    assert norm(p).level is Level.TENSOR
    assert mean(p).level is Level.TENSOR
    assert (norm(p) * lr).level is Level.TENSOR
    assert lerp(p, norm(p), lr).level is Level.ELEMENT


def test_a_rule_may_not_branch_on_a_number() -> None:
    lr = Graph().symbol("h.lr")
    with pytest.raises(TypeError, match=r"a rule may not branch on the number gt\(h\.lr, 0\.0\).*use where"):
        bool(lr > 0)
    with pytest.raises(TypeError, match=r"a rule may not branch on the number h\.lr"):
        _ = 1 if lr else 2


def test_a_switch_that_is_on_may_be_asked() -> None:
    assert Graph().symbol("h.momentum", truth=True)


@pytest.mark.parametrize(
    ("use", "what"),
    [(float, "a Python float"), (int, "a Python int"), (range, "an index"), (list, "a sequence"), (len, "a sequence")],
)
def test_a_number_that_is_not_there_yet_cannot_become_another_kind(use: object, what: str) -> None:
    with pytest.raises(TypeError, match=f"a rule may not turn h.lr into {what}; use the functions of stepwell.algebra"):
        use(Graph().symbol("h.lr"))  # type: ignore[operator]


def test_only_numbers_enter_the_arithmetic() -> None:
    with pytest.raises(TypeError, match=r"a rule's arithmetic takes numbers, not str \('a'\)"):
        Graph().load("x") + "a"


def test_the_graph_reads_as_it_was_written() -> None:
    graph = Graph()
    x = graph.load("x")
    result = where(x > 0, sqrt(x), 0.0)
    assert isinstance(result, Expression)
    assert repr(result) == "where(gt(x, 0.0), sqrt(x), 0.0)"


FUNCTIONS = "use the functions of stepwell.algebra"


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (abs, TypeError, "a rule may not call abs() on g; use stepwell.algebra.absolute"),
        (lambda g: g[0], TypeError, f"a rule may not take a part of g; {FUNCTIONS}"),
        (
            lambda g: g @ g,
            TypeError,
            "a rule may not take g for a matrix; say acts_on = 'matrices' in the class",
        ),
        (torch.sqrt, TypeError, f"a rule may not give its numbers to torch's sqrt(); {FUNCTIONS}"),
        (
            lambda g: g.clone(),
            AttributeError,
            f"a rule may not ask g for .clone, which is a tensor's; {FUNCTIONS}",
        ),
        (
            lambda g: g.mul_(2),
            AttributeError,
            "a rule may not ask g for .mul_, which is a tensor's; a number is not changed in place: return the new one",
        ),
    ],
)
def test_what_a_tensor_can_and_a_rules_number_cannot(use: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        use(Graph().load("g"))


def test_what_is_no_mistake_stays_as_it_was() -> None:
    g = Graph().load("g")
    assert not hasattr(g, "dtype")
    assert copy.copy(g).index == g.index
    assert isinstance(np.float64(2.0) * g, Expression)


def test_a_large_number_is_shown_shortly() -> None:
    x = Graph().load("x")
    for _ in range(60):
        x = x * x
    assert len(repr(x)) < 1000
