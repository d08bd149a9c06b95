"""What holds for the roles and depths of every module, however it is put together."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stepwell.roles import ROLES, deepest, parameter_roles


class Custom(nn.Module):
    """A module that keeps its parts as attributes, perhaps with a parameter of its own."""

    def __init__(self, parts: list[nn.Module], own: tuple[int, ...] | None) -> None:
        super().__init__()
        for number, part in enumerate(parts):
            self.add_module(f"part{number}", part)
        if own is not None:
            self.own = nn.Parameter(torch.zeros(own))


# Made anew for every example, since a tree may be tied and its parameters frozen.
LEAVES = (
    lambda: nn.Linear(4, 4),
    lambda: nn.Linear(4, 12, bias=False),
    lambda: nn.Conv2d(4, 4, 3),
    lambda: nn.Embedding(6, 4),
    lambda: nn.LayerNorm(4),
    lambda: nn.ReLU(),
    lambda: nn.LSTM(4, 4, num_layers=2),
    lambda: nn.MultiheadAttention(4, 2),
    lambda: Custom([], (4, 4)),
    lambda: nn.ParameterList([torch.zeros(3, 3)]),
)


def _containers(children: st.SearchStrategy[nn.Module]) -> st.SearchStrategy[nn.Module]:
    parts = st.lists(children, min_size=1, max_size=4)
    own = st.sampled_from([None, (4,), (2, 4), (3, 4, 4)])
    return st.one_of(
        parts.map(nn.ModuleList),
        parts.map(lambda parts: nn.Sequential(*parts)),
        parts.map(lambda parts: nn.ModuleDict({f"key{number}": part for number, part in enumerate(parts)})),
        st.builds(Custom, parts, own),
    )


trees = st.recursive(st.sampled_from(LEAVES).map(lambda make: make()), _containers, max_leaves=14)


@st.composite
def tied_trees(draw: st.DrawFn) -> nn.Module:
    """A tree, some of whose weights are tied, modules used twice, and parameters frozen."""
    model = nn.ModuleDict({"body": draw(trees), "rest": draw(trees)})
    weights = [
        module for module in model.modules() if isinstance(getattr(module, "weight", None), nn.Parameter)
    ]  # of any shape: nothing is run
    if len(weights) > 1 and draw(st.booleans()):
        weights[-1].weight = weights[0].weight
    if draw(st.booleans()):
        model["again"] = model["body"]
    for parameter in model.parameters():
        parameter.requires_grad_(draw(st.booleans()))
    return model


def facts(model: nn.Module, *overrides: Any) -> list[tuple[Any, ...]]:
    return [
        (entry.name, entry.aliases, entry.role, entry.why, entry.depth, entry.split, entry.split_dim)
        for entry in parameter_roles(model, *overrides)
    ]


@settings(deadline=None)
@given(tied_trees())
def test_every_parameter_is_listed_once_and_answers_to_all_its_names(model):
    found = parameter_roles(model)
    assert [entry.name for entry in found] == [name for name, _ in model.named_parameters()]
    assert [id(entry.parameter) for entry in found] == [id(parameter) for parameter in model.parameters()]
    everywhere = dict(model.named_parameters(remove_duplicate=False))
    assert sorted(name for entry in found for name in entry.names) == sorted(everywhere)
    assert all(everywhere[name] is entry.parameter for entry in found for name in entry.names)


@settings(deadline=None)
@given(tied_trees())
def test_roles_and_depths_are_known_and_stable(model):
    before = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    found = parameter_roles(model)
    assert facts(model) == facts(model)
    assert [(name, parameter.requires_grad) for name, parameter in model.named_parameters()] == before
    assert all(entry.role in ROLES and 0 <= entry.depth <= deepest(found) for entry in found)
    assert all(not entry.split or sum(entry.split) == entry.parameter.shape[entry.split_dim] for entry in found)


@settings(deadline=None)
@given(trees)
def test_depths_leave_no_gap(model):
    """Where nothing is tied, every depth up to the deepest is that of some parameter, but perhaps 0."""
    found = parameter_roles(model)
    assert {entry.depth for entry in found} | {0} == set(range(deepest(found) + 1))


@settings(deadline=None)
@given(tied_trees(), st.data())
def test_overrides_that_do_not_overlap_may_stand_in_any_order(model, data):
    names = [name for name, _ in model.named_parameters()]
    if not names:
        return
    keys = data.draw(st.lists(st.sampled_from(names), unique=True))
    roles = {key: data.draw(st.sampled_from(["other", "scalar", "norm", "bias"])) for key in keys}
    depths = {key: data.draw(st.integers(0, 99)) for key in keys}
    shuffled = data.draw(st.permutations(keys))
    found = facts(model, roles, depths)
    assert facts(model, {key: roles[key] for key in shuffled}, {key: depths[key] for key in shuffled}) == found
    plain = {entry.name: entry for entry in parameter_roles(model)}
    for name, _, role, _, depth, *_ in found:
        expected = plain[name]
        assert (role, depth) == ((roles[name], depths[name]) if name in roles else (expected.role, expected.depth))
