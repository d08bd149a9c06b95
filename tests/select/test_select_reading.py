"""Selectors as text: read back as they were, never run, and errors that say what to mend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell import select
from stepwell.roles import ROLES

TEXTS = st.text(max_size=12)
ENDS = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted)


def is_large(entry):
    return entry.parameter.numel() > 10


def between(make):
    return st.one_of(
        st.integers(0, 9).map(make),
        st.integers(0, 9).map(lambda least: make(at_least=least)),
        ENDS.map(lambda ends: make(at_least=ends[0], at_most=ends[1])),
    )


SIMPLE = st.one_of(
    st.just(select.everything()),
    st.lists(st.sampled_from(ROLES), min_size=1, max_size=3).map(lambda roles: select.role(*roles)),
    st.lists(TEXTS, min_size=1, max_size=3).map(lambda names: select.name(*names)),
    st.lists(TEXTS, min_size=1, max_size=3).map(lambda names: select.module(*names)),
    st.sampled_from([r"layers\.[0-3]\.", "a|b", "", "'", '"']).map(select.regex),
    between(select.ndim),
    between(select.size),
    between(select.depth),
    st.just(select.where(is_large)),
)
SELECTORS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] & pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        inner.map(lambda one: ~one),
    ),
    max_leaves=8,
)


@given(SELECTORS)
def test_a_selector_is_read_back_as_it_prints(selector):
    again = select.parse(repr(selector), functions={"is_large": is_large})
    assert again == selector
    assert repr(again) == repr(selector)


def test_spaces_and_brackets_do_not_matter():
    assert select.parse(" ( role( 'norm' ) ) |  name(\"a\") ") == select.role("norm") | select.name("a")
    assert select.parse("role('norm') | name('a') & ndim(1)") == select.role("norm") | select.name("a") & select.ndim(1)


@given(st.text(max_size=30))
def test_any_other_text_is_an_error_in_one_line(text):
    message = ""
    try:
        select.parse(text)
    except ValueError as error:
        message = str(error)
    assert "\n" not in message


def test_backslashes_of_a_regular_expression_need_not_be_doubled():
    assert select.parse(r"regex('layers\.[0-3]\.')") == select.regex(r"layers\.[0-3]\.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("role(norm)", "role(norm): norm is neither a text nor a number; texts stand in quotation marks"),
        ("role('nrom')", "unknown role 'nrom'; did you mean 'norm'?; roles are "),
        ("nmae('x')", "unknown selector 'nmae'; did you mean 'name'?; selectors are everything, role, name, regex, "),
        ("name('a'", "\"name('a'\" is no selector such as \"role('norm') | name('*.bias')\": '(' was never closed at "),
        ("norm", "'norm' is no selector such as \"role('norm') | name('*.bias')\""),
        ("", "'' is no selector such as "),
        ("role('norm') and ndim(1)", "\"role('norm') and ndim(1)\" is no selector such as "),
        ("ndim(shape=2)", "ndim(shape=2): ndim() got an unexpected keyword argument 'shape'"),
        ("ndim(at_least='2')", "ndim takes whole numbers at least 0, got '2'"),
        ("__import__('os')", "unknown selector '__import__'; selectors are "),
        ("where(is_larg)", "where(is_larg) names no function among functions=['is_large']; did you mean 'is_large'?"),
        ("where(lambda one: True)", "where(lambda one: True) names no function among functions=['is_large']"),
        ("~" * 20_000 + "ndim(1)", "a selector of 20,007 characters is nested too deeply"),
    ],
    ids=lambda text: text[:30],
)
def test_bad_texts(text, message):
    with pytest.raises(ValueError) as error:
        select.parse(text, functions={"is_large": is_large})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_how_to_join_is_said():
    with pytest.raises(ValueError, match=r"; join selectors with & \| ~$"):
        select.parse("not role('norm')")
