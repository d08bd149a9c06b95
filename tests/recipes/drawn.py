"""Selectors and recipes drawn by hypothesis: what is true of all of them is tested of these."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st

from schedules.cases import any_schedule, reciprocal
from stepwell import select
from stepwell.codecs import CHOICES
from stepwell.recipes import Recipe, RecipeError, Route
from stepwell.roles import ROLES, ParameterRole
from stepwell.rules.hyper import Range
from stepwell.rules.registry import rule_class, rule_names
from stepwell.rules.rule import hyper_parameters
from stepwell.schedules.function import function_name
from stepwell.select import Selector


def is_large(entry: ParameterRole) -> bool:
    """A predicate of a user's."""
    return entry.parameter.numel() > 10


FUNCTIONS: dict[str, Any] = {function_name(each): each for each in (is_large, reciprocal)}

WORDS = st.text(max_size=12)
WHOLE = st.integers(0, 9)


def _between(make: Any) -> st.SearchStrategy[Selector]:
    ends = st.tuples(WHOLE, WHOLE).map(sorted)
    return st.one_of(
        WHOLE.map(make),
        WHOLE.map(lambda least: make(at_least=least)),
        ends.map(lambda two: make(at_least=two[0], at_most=two[1])),
    )


SIMPLE_SELECTORS = st.one_of(
    st.just(select.everything()),
    st.lists(st.sampled_from(ROLES), min_size=1, max_size=3).map(lambda roles: select.role(*roles)),
    st.lists(WORDS, min_size=1, max_size=3).map(lambda names: select.name(*names)),
    st.lists(WORDS, min_size=1, max_size=3).map(lambda names: select.module(*names)),
    st.sampled_from([r"layers\.[0-3]\.", "a|b", "", "'", '"']).map(select.regex),
    _between(select.ndim),
    _between(select.size),
    _between(select.depth),
    st.just(select.where(is_large)),
)
SELECTORS = st.recursive(
    SIMPLE_SELECTORS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] & pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        inner.map(lambda one: ~one),
    ),
    max_leaves=8,
)

# Those of the package: a test may have defined some of its own.
RULES = [name for name in rule_names() if rule_class(name).__module__.startswith("stepwell.")]


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that a hyper-parameter of this annotation takes."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = next((mark for mark in arguments[1:] if isinstance(mark, Range)), Range())
        numbers = st.integers(1, 4) if arguments[0] is int else st.floats(0.01, 0.99)
        return numbers.filter(limits.__contains__)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return (
            st.lists(values_of(arguments[0]), min_size=1, max_size=3).map(tuple)
            if arguments[-1] is Ellipsis
            else st.tuples(*map(values_of, arguments))
        )
    if origin in (Union, types.UnionType):
        return st.one_of(*map(values_of, arguments))
    return {type(None): st.none(), bool: st.booleans(), int: st.integers(1, 4), float: st.floats(0.01, 0.99)}[
        annotation
    ]


STORAGE = {name: st.none() | values_of(annotation) for name, annotation in CHOICES.items()}


def values_for(rule: str) -> st.SearchStrategy[dict[str, Any]]:
    """Some hyper-parameters of a rule."""
    known = hyper_parameters(rule_class(rule))
    names = st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: values_of(known[name]) for name in chosen}))


@st.composite
def _routes(draw: st.DrawFn, selectors: st.SearchStrategy[Selector]) -> tuple[Route, ...]:
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True))
    routes = []
    for name in names:
        rule = draw(st.sampled_from(RULES))
        schedules = draw(st.dictionaries(st.sampled_from(["lr", "weight_decay"]), any_schedule(), max_size=1))
        routes.append(
            Route(
                rule=rule,
                name=name,
                select=draw(selectors),
                hyper_parameters=draw(values_for(rule)),
                schedules=schedules,
                **{name: draw(values) for name, values in STORAGE.items()},
                why=draw(WORDS),
            )
        )
    return tuple(routes)


@st.composite
def recipes(draw: st.DrawFn, selectors: st.SearchStrategy[Selector] = SELECTORS) -> Recipe:
    """Any recipe; a combination of hyper-parameters that a rule refuses is drawn anew."""
    routes = draw(_routes(selectors))
    fields = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "defaults": values_for(routes[0].rule),
                "schedules": st.dictionaries(st.sampled_from(["lr", "weight_decay"]), any_schedule(), max_size=2),
                "undecayed": selectors,
                "layer_decay": st.floats(0.1, 0.9),
                "roles": st.dictionaries(WORDS, st.sampled_from(ROLES), max_size=2),
                "depths": st.dictionaries(WORDS, WHOLE, max_size=2),
                "clip_norm": st.none() | st.floats(0.1, 10),
                "on_nonfinite": st.sampled_from(["ignore", "raise", "skip"]),
                "cautious": st.booleans(),
                **STORAGE,
                "engine": st.sampled_from(["auto", "reference", "foreach", "fused"]),
                "name": WORDS,
                "source": WORDS,
            },
        )
    )
    try:
        return Recipe(routes=routes, **fields)
    except RecipeError:
        return draw(st.nothing())
