"""How a recipe stores weights and state, laid over a model."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import stepwell
from stepwell import Recipe, Route
from stepwell.codecs import Storage
from stepwell.recipes import RecipeError

WHY_WIDE = "the state of embeddings keeps float32, because their rows get gradients at different times"


class Model(nn.Module):
    """An embedding and two matrices that are large enough for blocks, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(80, 64)
        self.up = nn.Linear(64, 128)
        self.norm = nn.LayerNorm(128)
        self.head = nn.Linear(128, 80)


def stored(recipe: Recipe, model: nn.Module | None = None) -> dict[str, Storage]:
    """How each parameter is stored."""
    groups = stepwell.plan(model or Model(), recipe).groups
    return {member.name: group.storage for group in groups for member in group.members}


def test_embeddings_keep_float32_in_a_group_of_their_own() -> None:
    plan = stepwell.plan(Model(), Recipe(routes=Route(rule="AdamW"), state_dtype="8bit"))
    assert {group.name: group.storage.state_dtype for group in plan.groups} == {
        "adamw": "8bit", "adamw embeddings": "float32", "adamw undecayed": "8bit",
    }  # fmt: skip
    apart = next(group for group in plan.groups if group.name == "adamw embeddings")
    assert ([member.name for member in apart.members], apart.why) == (["embed.weight"], f"all the rest; {WHY_WIDE}")
    optimizer = plan.build_optimizer()
    assert [group["state_dtype"] for group in optimizer.param_groups] == [g.storage.state_dtype for g in plan.groups]
    table = str(stepwell.describe(optimizer))
    assert "state in 8bit" in table
    assert "state in float32" in table


def test_a_route_speaks_for_itself() -> None:
    embed = Route(rule="Lion", name="embed", select="role('embedding')", state_dtype="4bit")
    found = stored(Recipe(routes=(embed, Route(rule="AdamW", master="kahan")), state_dtype="8bit", master="stochastic"))
    assert found["embed.weight"] == ("4bit", "stochastic")
    assert found["up.weight"] == ("8bit", "kahan")


def test_what_all_are_asked_goes_to_those_that_can() -> None:
    plain = Route(rule="SGD", name="plain", select="role('head')")
    found = stored(Recipe(routes=(plain, Route(rule="AdamW")), state_dtype="8bit"))
    assert (found["head.weight"].state_dtype, found["up.weight"].state_dtype) == (None, "8bit")


@pytest.mark.parametrize(
    ("recipe", "mistake"),
    [
        (
            Recipe(routes=Route(rule="SGD"), state_dtype="8bit"),
            "SGD keeps no state that state_dtype='8bit' could store; it takes None, 'float32' or 'bfloat16'",
        ),
        (
            Recipe(routes=Route(rule="SGD", state_dtype="4bit")),
            "route 'sgd': SGD keeps no state that state_dtype='4bit' could store; it takes None, 'float32' or "
            "'bfloat16'",
        ),
    ],
    ids=["recipe", "route"],
)
def test_a_storage_that_no_rule_can_use(recipe: Recipe, mistake: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(mistake)):
        stepwell.plan(Model(), recipe)


def test_a_storage_that_weights_cannot_have() -> None:
    recipe = Recipe(routes=Route(rule="AdamW"), master="kahan")
    with pytest.raises(RecipeError, match="float16 weights take master='float32' or None, got 'kahan'"):
        stepwell.plan(Model().half(), recipe)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("up.weight", ["state: exp_avg as 8bit signed, exp_avg_sq as 8bit unsigned", "weights: stochastic bfloat16"]),
        ("embed.weight", ["state: exp_avg as float32, exp_avg_sq as float32", f"because: {WHY_WIDE}"]),
        (
            "norm.weight",
            [
                "state: exp_avg as float32, exp_avg_sq as float32",
                "because: with fewer than 4096 elements there is little to save",
            ],
        ),
    ],
)
def test_a_plan_explains_how_a_parameter_is_stored(name: str, lines: list[str]) -> None:
    recipe = Recipe(routes=Route(rule="AdamW"), state_dtype="8bit", master="stochastic")
    story = stepwell.plan(Model().bfloat16(), recipe).explain(name).splitlines()
    assert [line for line in lines if line not in story] == []


def test_other_storages_stand_beside_it() -> None:
    plan = stepwell.plan(Model(), "adamw", horizon=10)
    rows = {row.title: row.state for row in plan.memory(beside=(Storage("8bit"), Storage("4bit"))).rows}
    # Blocks for `up` and the head: a byte or half of one, and a float32 for each 256.
    large, all_of_it = 64 * 128 + 80 * 128, sum(p.numel() for p in plan.model.parameters())
    rest = 2 * 4 * (all_of_it - large)
    assert rows == {
        "adamw": 2 * 4 * all_of_it,
        "adamw 8-bit": rest + 2 * (large + large // 64),
        "adamw 4-bit": rest + 2 * (large // 2 + large // 64),
    }


def test_the_short_way() -> None:
    options: dict[str, Any] = {"state_dtype": "8bit", "master": "stochastic", "rounding_seed": 7}
    optimizer = stepwell.create_optimizer(Model().bfloat16(), "muon", lr=1e-3, **options)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert {group["rounding_seed"] for group in groups.values()} == {7}
    assert {group["master"] for group in groups.values()} == {"stochastic"}
    assert (groups["hidden"]["state_dtype"], groups["adamw embeddings"]["state_dtype"]) == ("8bit", "float32")
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert optimizer.state[groups["hidden"]["params"][0]]["momentum_buffer"].dtype == torch.uint8


def test_two_plans_differ_in_storage() -> None:
    model, recipe = Model(), Recipe(routes=Route(rule="AdamW"))
    difference = stepwell.plan(model, recipe).diff(stepwell.plan(model, recipe.replace(state_dtype="bfloat16")))
    assert "state_dtype – → bfloat16" in difference
