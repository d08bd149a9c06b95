"""What is true of any recipe on any model: every trainable parameter lands in exactly one group, tied ones once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import stepwell
from recipes.drawn import FUNCTIONS, WHOLE, is_large
from stepwell import Recipe, Route, select
from stepwell.planning import Plan
from stepwell.roles import ROLES
from stepwell.rules.registry import rule_class, rule_names
from stepwell.select import Selector

NAMES = ("a", "b", "up", "norm", "head", "blocks")
OF_ELEMENTS = [
    name
    for name in rule_names()
    if rule_class(name).__module__.startswith("stepwell.") and rule_class(name).acts_on == "elements"
]


class Scale(nn.Module):
    """A layer of nobody's."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))
        self.table = nn.Parameter(torch.ones(2, 3))


LAYERS = st.sampled_from(
    [
        lambda: nn.Linear(3, 3),
        lambda: nn.Linear(3, 3, bias=False),
        lambda: nn.Embedding(5, 3),
        lambda: nn.LayerNorm(3),
        lambda: nn.Conv1d(3, 3, 2),
        lambda: nn.BatchNorm1d(3),
        lambda: nn.ReLU(),
        Scale,
    ]
).map(lambda make: make())


def _tree(children: dict[str, nn.Module], kind: type[nn.Module]) -> nn.Module:
    if kind is nn.ModuleDict:
        return nn.ModuleDict(children)
    return kind(*children.values()) if kind is nn.Sequential else kind(children.values())


TREES = st.recursive(
    LAYERS,
    lambda inner: st.builds(
        _tree,
        st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=4),
        st.sampled_from([nn.ModuleDict, nn.Sequential, nn.ModuleList]),
    ),
    max_leaves=12,
)


@st.composite
def models(draw: st.DrawFn) -> nn.Module:
    """A model with a parameter to train, some of whose layers share weights and some of which are frozen."""
    model = nn.ModuleDict({"body": draw(TREES), "tail": nn.Linear(3, 3)})
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.LayerNorm))]
    for first, second in draw(st.lists(st.tuples(*[st.sampled_from(layers)] * 2), max_size=2)):
        if first.weight.shape == second.weight.shape:
            second.weight = first.weight
    names = [name for name, _ in model.named_parameters() if not name.startswith("tail")]
    for name in draw(st.lists(st.sampled_from(names), max_size=3)) if names else []:
        model.get_parameter(name).requires_grad_(False)
    return model


def combined(simple: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    return st.recursive(
        simple,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda pair: pair[0] & pair[1]),
            st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
            inner.map(lambda one: ~one),
        ),
        max_leaves=4,
    )


# A name that a model lacks is refused; every one here has this.
OF_THE_TENSOR = st.one_of(
    WHOLE.map(lambda least: select.size(at_least=least)),
    st.integers(0, 3).map(select.ndim),
    st.just(select.name("tail.weight")),
    st.just(select.where(is_large)),
)
OF_THE_GRAPH = st.one_of(
    st.lists(st.sampled_from(ROLES), min_size=1, max_size=3).map(lambda roles: select.role(*roles)),
    WHOLE.map(lambda most: select.depth(at_most=most)),
)


@st.composite
def recipes(draw: st.DrawFn, simple: st.SearchStrategy[Selector] = OF_THE_TENSOR | OF_THE_GRAPH) -> Recipe:
    """A recipe of rules of elements, whose last route takes what is left."""
    selectors = combined(simple)
    routes = [
        Route(rule=draw(st.sampled_from(OF_ELEMENTS)), name=f"route {index}", select=draw(selectors))
        for index in range(draw(st.integers(0, 3)))
    ]
    routes.append(Route(rule="AdamW", name="rest"))
    defaults: dict[str, Any] = draw(
        st.dictionaries(st.sampled_from(["lr", "weight_decay"]), st.floats(0.01, 1), max_size=2)
    )
    return Recipe(
        routes=tuple(routes),
        defaults=defaults,
        undecayed=draw(selectors),
        layer_decay=draw(st.none() | st.just(0.5)),
    )


def layout(plan: Plan) -> list[tuple[str, str, dict[str, Any], list[str]]]:
    """What a plan comes to: groups, rules, values and names."""
    return [
        (group.name, type(group.rule).__name__, group.rule.values(), [member.name for member in group.members])
        for group in plan.groups
    ]


@settings(deadline=None)
@given(models(), recipes())
def test_every_trainable_parameter_lands_in_exactly_one_group(model, recipe):
    plan = stepwell.plan(model, recipe)
    held = [id(member.parameter) for group in plan.groups for member in group.members]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert {id(entry.parameter) for entry in plan.frozen} == {
        id(parameter) for parameter in model.parameters() if not parameter.requires_grad
    }
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    names = [group.name for group in plan.groups]
    assert len(names) == len(set(names))
    for group in plan.groups:
        for member in group.members:
            taking = next(route for route in recipe.routes if route.select(member))
            assert group.route is taking
            rule = recipe.rule_of(taking)
            assert group.rule.weight_decay == (0 if recipe.undecayed(member) else rule.weight_decay)
            above = plan.deepest - member.depth
            assert group.rule.lr == rule.lr * (1 if recipe.layer_decay is None else recipe.layer_decay**above)
    assert sum(len(group["params"]) for group in plan.build_optimizer().param_groups) == len(held)


@settings(deadline=None)
@given(models(), recipes())
def test_a_recipe_that_was_written_down_lays_alike(model, recipe):
    again = Recipe.from_toml(recipe.to_toml(), functions=FUNCTIONS)
    assert layout(stepwell.plan(model, again)) == layout(stepwell.plan(model, recipe))


@settings(deadline=None)
@given(models(), recipes())
def test_the_order_of_tables_does_not_matter(model, recipe):
    turned = recipe.replace(defaults=dict(reversed(recipe.defaults.items())))
    assert layout(stepwell.plan(model, turned)) == layout(stepwell.plan(model, recipe))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), LAYERS, min_size=1), recipes(OF_THE_TENSOR))
def test_registration_decides_the_order_inside_a_group_alone(layers, recipe):
    """Where no selector asks for roles and depths, which are read along the order of registration."""

    def laid(children: dict[str, nn.Module]) -> list[Any]:
        model = nn.ModuleDict({"body": nn.ModuleDict(children), "tail": nn.Linear(3, 3)})
        plan = stepwell.plan(model, recipe.replace(layer_decay=None))
        return [(*before, sorted(names)) for *before, names in layout(plan)]

    assert laid(layers) == laid(dict(reversed(layers.items())))


def test_a_plan_is_the_same_in_every_process():
    code = (
        "import stepwell\n"
        "from small_models import Language\n"
        "for name in ('muon', 'llrd'):\n"
        "    plan = stepwell.plan(Language(tied=True), name, horizon=100)\n"
        "    print(plan, plan.to_dict(), *map(plan.explain, ('embed.weight', 'blocks.0.up.bias')))\n"
    )
    paths = [str(Path(stepwell.__file__).parent.parent), str(Path(__file__).parent.parent)]
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "4711")
    }
    assert len(printed) == 1
