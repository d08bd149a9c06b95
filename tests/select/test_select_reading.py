"""Selectors as text: read back as they were, never run, and errors that say what to mend."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.drawn import FUNCTIONS, SELECTORS
from stepwell import select


@given(SELECTORS)
def test_a_selector_is_read_back_as_it_prints(selector):
    again = select.parse(repr(selector), functions=FUNCTIONS)
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
        ("role('nrom')", "unknown role 'nrom' (did you mean 'norm'?); roles are "),
        ("nmae('x')", "unknown selector 'nmae' (did you mean 'name'?); selectors are everything, role, name, regex, "),
        ("name('a'", "\"name('a'\" is no selector such as \"role('norm') | name('*.bias')\": '(' was never closed at "),
        ("norm", "'norm' is no selector such as \"role('norm') | name('*.bias')\""),
        ("", "'' is no selector such as "),
        ("role('norm') and ndim(1)", "\"role('norm') and ndim(1)\" is no selector such as "),
        ("ndim(shape=2)", "ndim(shape=2): ndim() got an unexpected keyword argument 'shape'"),
        ("ndim(at_least='2')", "ndim takes whole numbers at least 0, got '2'"),
        ("__import__('os')", "unknown selector '__import__'; selectors are "),
        ("where(my.larg)", "where(my.larg) names no function among functions=['my.large'] (did you mean 'my.large'?)"),
        ("where(lambda one: True)", "where(lambda one: True) names no function among functions=['my.large']"),
        ("~" * 20_000 + "ndim(1)", "a selector of 20,007 characters is nested too deeply"),
    ],
    ids=lambda text: text[:30],
)
def test_bad_texts(text, message):
    with pytest.raises(ValueError) as error:
        select.parse(text, functions={"my.large": callable})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_how_to_join_is_said():
    with pytest.raises(ValueError, match=r"; join selectors with & \| ~$"):
        select.parse("not role('norm')")
