"""`optim_args`: what parses, to which types, and what an error points at."""

from __future__ import annotations

from typing import Any

import pytest

from stepwell import Recipe, RecipeError, Route
from stepwell.integrations.huggingface.optim_args import applied, parse


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, {}),
        ("", {}),
        ("  ", {}),
        ("eps=1e-6", {"eps": 1e-6}),
        ("betas=(0.9, 0.95), nesterov=True,ns_steps=5", {"betas": (0.9, 0.95), "nesterov": True, "ns_steps": 5}),
        ("nesterov = false , beta1=none", {"nesterov": False, "beta1": None}),
        ("decay=independent, split='a,b'", {"decay": "independent", "split": "a,b"}),
        ("betas=[0.9, 0.95]", {"betas": (0.9, 0.95)}),
        ({"betas": [0.9, 0.95], "eps": 1}, {"betas": (0.9, 0.95), "eps": 1}),
    ],
)
def test_values_have_types(text: Any, values: dict[str, Any]) -> None:
    found = {argument.name: argument.value for argument in parse(text)}
    assert found == values
    assert [type(value) for value in found.values()] == [type(value) for value in values.values()]


# Positions count from 1.
@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("eps", 1, r"name=value is needed, got 'eps'"),
        ("eps=1e-6, 3", 10, r"name=value is needed, got '3'; a tuple needs brackets, as in betas=\(0.9, 0.95\)"),
        ("betas=0.9,0.95", 11, r"name=value is needed, got '0.95'"),
        ("eps=1e-6,", 10, r"name=value is needed, got ''"),
        ("eps=, lr=1", 5, r"a value is missing after 'eps='"),
        ("eps=1, eps=2", 7, r"'eps' is there twice"),
        ("betas=(0.9, 0.95", 7, r"'\(' is not closed"),
        ("betas=0.9)", 10, r"'\)' closes nothing"),
        ("betas=(0.9]", 11, r"'\]' closes nothing"),
        ("decay='inside", 7, r"the quote ' is not closed"),
        ("nesterov=true, eps=1e-6e", 20, r"'1e-6e' is neither a number, a flag, a word nor a tuple of these"),
        ("eps=__import__('os')", 5, r".* is neither a number"),
    ],
)
def test_an_error_points_at_the_position(text: str, position: int, what: str) -> None:
    with pytest.raises(ValueError, match=rf"^optim_args does not parse at position {position} of .*: {what}"):
        parse(text)


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^optim_args must be a text such as 'betas=\(0.9, 0.95\)', or a dict, got 3$"):
        parse(3)  # type: ignore[arg-type]


def test_they_go_into_a_recipe() -> None:
    recipe = applied(Recipe.preset("muon"), parse("betas=(0.8, 0.9), muon_momentum=0.9, nesterov=false"))
    hidden, rest = (recipe.rule_of(route).values() for route in recipe.routes)
    assert (hidden["momentum"], hidden["nesterov"], rest["betas"]) == (0.9, False, (0.8, 0.9))
    recipe = Recipe(routes=(Route(rule="Adafactor", hyper_parameters={"relative_step": False}),))
    recipe = applied(recipe, parse("warmup_init=true, relative_step=true"))  # the one goes with the other alone
    assert recipe.rule_of(recipe.routes[0]).values()["warmup_init"] is True


def test_an_unknown_name_and_a_value_out_of_range_tell_the_place() -> None:
    message = (
        r"^unknown hyper-parameter 'bets' for Lion \(did you mean 'betas'\?\) \(optim_args, position 10\); try it$"
    )
    with pytest.raises(TypeError, match=message):
        applied(Recipe.preset("lion"), parse("lr=1e-4, bets=(0.9, 0.99)"), "; try it")
    with pytest.raises(ValueError, match=r"betas\[1\] must be in \[0, 1\), got 1.5 \(optim_args, position 1\)$"):
        applied(Recipe.preset("lion"), parse("betas=(0.9, 1.5)"))
    with pytest.raises(ValueError, match=r"\(optim_args 'betas'\)$"):
        applied(Recipe.preset("lion"), parse({"betas": 0.9}))
    assert issubclass(RecipeError, ValueError)
