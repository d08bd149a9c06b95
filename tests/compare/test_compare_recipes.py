from __future__ import annotations

import pytest
from torch import nn

from stepwell.compare.recipes import RECIPES, Axis, Recipe, RecipeError, choose_recipes
from stepwell.compare.sweep import committed_sweep


def model() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 7))


def test_the_recipes_in_the_order_asked_for():
    assert [recipe.name for recipe in choose_recipes(["muon", "adamw"])] == ["muon", "adamw"]


def test_the_baseline_comes_first():
    assert list(RECIPES) == ["adamw", "lion", "muon", "schedule-free"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mun"], "unknown recipe 'mun'; allowed are adamw, lion, muon, schedule-free; did you mean 'muon'?"),
        (["sophia"], "unknown recipe 'sophia'; allowed are adamw, lion, muon, schedule-free"),
        (["lion", "lion"], "recipe 'lion' is named twice; name each recipe once"),
        ([], "no recipe is named; allowed are adamw, lion, muon, schedule-free"),
    ],
)
def test_names_that_cannot_be_run(names, message):
    with pytest.raises(RecipeError) as caught:
        choose_recipes(names)
    assert str(caught.value) == message


def test_a_point_of_the_space_as_arguments():
    space = (
        Axis(name="lr", low=1e-3, high=1e-1),
        Axis(name="betas", index=0, low=0.05, high=0.2, complement=True),
        Axis(name="betas", index=1, low=0.005, high=0.1, complement=True),
    )
    recipe = Recipe(name="r", title="R", optimizer="adamw", schedule="cosine", warmup=0.1, space=space)
    assert recipe.settings([0.0123456, 0.1, 0.04321]) == {"lr": 0.0123, "betas": [0.9, 0.9568]}


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("adamw", {"AdamW"}),
        ("lion", {"Lion"}),
        ("muon", {"Muon", "AdamW"}),
        ("schedule-free", {"ScheduleFreeAdamW"}),
    ],
)
def test_each_recipe_builds_at_its_best_settings(name, rules):
    best = committed_sweep().best(name)
    optimizer, scheduler = RECIPES[name].build(model(), best.settings, 100)
    assert {group["rule"] for group in optimizer.param_groups} == rules
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    peak = best.settings["lr"]
    assert max(rates) == pytest.approx(peak)
    assert rates[4] < 0.6 * peak
    assert rates[-1] == pytest.approx(peak) if name == "schedule-free" else rates[-1] < 0.01 * peak
