"""Selectors: what each takes, and how they are combined."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn

from stepwell import select
from stepwell.roles import ParameterRole


def entry(name: str = "blocks.0.up.weight", shape: tuple[int, ...] = (8, 4), **changes: Any) -> ParameterRole:
    fields: dict[str, Any] = {"role": "hidden matrix", "why": "", "module_classes": frozenset({"Linear"}), "depth": 1}
    return ParameterRole(name=name, parameter=nn.Parameter(torch.empty(shape)), **(fields | changes))


HIDDEN = entry()
NORM = entry("blocks.0.norm.weight", (4,), role="norm", module_classes=frozenset({"RMSNorm", "LlamaRMSNorm"}))
TIED = entry("embed.weight", (11, 4), role="embedding", aliases=("head.weight",), depth=0)
ALL = (HIDDEN, NORM, TIED)


@pytest.mark.parametrize(
    ("selector", "taken"),
    [
        (select.everything(), (HIDDEN, NORM, TIED)),
        (select.role("norm", "embedding"), (NORM, TIED)),
        (select.name("blocks.0.up.weight"), (HIDDEN,)),
        (select.name("blocks"), (HIDDEN, NORM)),
        (select.name("block"), ()),
        (select.name("*.weight"), (HIDDEN, NORM, TIED)),
        (select.name("*.up.*", "head.weight"), (HIDDEN, TIED)),
        (select.regex(r"blocks\.\d+\.norm"), (NORM,)),
        (select.regex("^head"), (TIED,)),
        (select.module("RMSNorm"), (NORM,)),
        (select.module("LlamaRMSNorm", "Linear"), (HIDDEN, NORM, TIED)),
        (select.ndim(1), (NORM,)),
        (select.ndim(at_least=2), (HIDDEN, TIED)),
        (select.size(at_least=32, at_most=44), (HIDDEN, TIED)),
        (select.size(at_most=32), (HIDDEN, NORM)),
        (select.depth(0), (TIED,)),
        (select.where(lambda one: one.name.startswith("e")), (TIED,)),
        (select.role("hidden matrix") & select.name("blocks"), (HIDDEN,)),
        (select.role("hidden matrix") | select.name("head"), (HIDDEN, TIED)),
        (~select.role("hidden matrix"), (NORM, TIED)),
        (select.name("blocks") & ~select.ndim(1), (HIDDEN,)),
    ],
    ids=lambda given: "" if isinstance(given, tuple) else repr(given),
)
def test_what_each_takes(selector, taken):
    assert tuple(one for one in ALL if selector(one)) == taken


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        (select.everything(), "everything()"),
        (select.role("hidden matrix"), "role('hidden matrix')"),
        (select.name("a", "*.b"), "name('a', '*.b')"),
        (select.regex(r"\.b$"), r"regex('\\.b$')"),
        (select.ndim(2), "ndim(2)"),
        (select.size(at_least=2, at_most=3), "size(at_least=2, at_most=3)"),
        (select.depth(at_most=3), "depth(at_most=3)"),
        (select.role("norm") & select.ndim(1) & select.size(4), "role('norm') & ndim(1) & size(4)"),
        (select.role("norm") & (select.ndim(1) & select.size(4)), "role('norm') & (ndim(1) & size(4))"),
        ((select.role("norm") | select.ndim(1)) & select.size(4), "(role('norm') | ndim(1)) & size(4)"),
        (select.role("norm") | select.ndim(1) & select.size(4), "role('norm') | ndim(1) & size(4)"),
        (~(select.role("norm") | select.ndim(1)), "~(role('norm') | ndim(1))"),
        (~select.role("norm") & select.ndim(1), "~role('norm') & ndim(1)"),
        (~~select.role("norm"), "role('norm')"),
        (select.where(callable), "where(builtins.callable)"),
    ],
)
def test_they_print_as_the_code_that_makes_them(selector, text):
    assert repr(selector) == text


def test_they_are_equal_by_value_and_pickle():
    selector = (select.role("norm") | select.name("a")) & ~select.depth(at_least=1)
    again = (select.role("norm") | select.name("a")) & ~select.depth(at_least=1)
    assert selector == again == pickle.loads(pickle.dumps(selector))
    assert hash(selector) == hash(again)
    assert selector != (select.role("norm") | select.name("b")) & ~select.depth(at_least=1)


class TestByName:
    """By which of its names a tied parameter was asked for."""

    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            (select.role("embedding"), set()),
            (select.name("head"), {"head.weight"}),
            (select.name("*.weight"), {"embed.weight", "head.weight"}),
            (select.regex("emb"), {"embed.weight"}),
            (select.role("embedding") & select.name("head"), {"head.weight"}),
            (select.name("*.weight") & select.name("head"), {"head.weight"}),
            (select.name("embed") | select.name("head"), {"embed.weight", "head.weight"}),
            (select.name("embed") | select.role("norm"), {"embed.weight"}),
            (select.name("embed") | select.role("embedding"), set()),
            (~select.name("norm"), set()),
        ],
        ids=lambda given: "" if isinstance(given, set) else repr(given),
    )
    def test_names(self, selector, names):
        assert selector(TIED)
        assert selector.by_name(TIED) == names


def test_what_a_selector_speaks_of():
    selector = (select.name("a") | select.role("norm")) & ~select.module("C")
    assert selector.speaks_of == ("a",)
    assert selector.parts == (select.name("a"), select.role("norm"), select.module("C"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: select.role("nrom"), "unknown role 'nrom' (did you mean 'norm'?); roles are hidden matrix, "),
        (lambda: select.role(), "role() needs at least one text"),
        (lambda: select.name(), "name() needs at least one text"),
        (lambda: select.name(3), "name() takes texts, got 3"),
        (lambda: select.regex("(a"), "regex('(a') is no regular expression: missing ), unterminated subpattern"),
        (lambda: select.ndim(), "ndim takes one number, or at_least=, at_most= or both"),
        (lambda: select.ndim(2, at_least=1), "ndim takes one number, or at_least=, at_most= or both"),
        (lambda: select.size(1.5), "size takes whole numbers at least 0, got 1.5"),
        (lambda: select.depth(at_most=-1), "depth takes whole numbers at least 0, got -1"),
        (lambda: select.depth(True), "depth takes whole numbers at least 0, got True"),
        (lambda: select.size(at_least=3, at_most=2), "size(at_least=3, at_most=2) takes nothing"),
        (lambda: select.where("norm"), "where takes a function of a ParameterRole, got 'norm'"),
        (lambda: select.role("norm") & "norm", "a selector combines with selectors only, got 'norm'"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises((TypeError, ValueError)) as error:
        make()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
