from __future__ import annotations

import pytest
from torch import nn

from stepwell.compare.contestants import CONTESTANTS, Axis, Contestant, ContestantError, choose
from stepwell.compare.sweep import committed_sweep
from stepwell.recipes import PRESETS


def model() -> nn.Module:
    return nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 7))


def test_the_recipes_in_the_order_asked_for():
    assert [recipe.name for recipe in choose(["muon", "adamw"])] == ["muon", "adamw"]


def test_the_baseline_comes_first():
    assert list(CONTESTANTS) == ["adamw", "lion", "muon", "schedule-free"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mun"], f"unknown recipe 'mun' (did you mean 'muon'?); recipes are {', '.join(PRESETS)}"),
        (["zzz"], f"unknown recipe 'zzz'; recipes are {', '.join(PRESETS)}"),
        (["lion", "Lion"], "recipe 'lion' is named twice; name each recipe once"),
        (["llama", "LLaMA"], "recipe 'llama' is named twice; name each recipe once"),
        ([], f"no recipe is named; recipes are {', '.join(PRESETS)}"),
        (["nowhere.toml"], "nowhere.toml: cannot be read: No such file or directory"),
    ],
)
def test_names_that_cannot_be_run(names, message):
    with pytest.raises(ValueError) as caught:
        choose(names)
    assert str(caught.value) == message


def test_another_preset_runs_as_it_is_written():
    (contestant,) = choose(["finetune"])
    assert (contestant.name, contestant.title, contestant.recipe) == ("finetune", "finetune", PRESETS["finetune"])
    optimizer, scheduler = contestant.build(model(), {}, 100)
    assert optimizer.clip_norm == 1.0
    scheduler.step(10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([2e-5, 2e-5])


def test_a_recipe_in_a_file(tmp_path):
    path = tmp_path / "Mine.toml"
    PRESETS["llama"].set(lr=1e-2).save(path)
    (contestant,) = choose([str(path)])
    assert (contestant.name, contestant.title) == ("Mine", "Mine")
    assert contestant.recipe == PRESETS["llama"].set(lr=1e-2)


def test_two_recipes_in_files_of_one_name(tmp_path):
    first, second = tmp_path / "mine.toml", tmp_path / "mine.json"
    PRESETS["llama"].save(first)
    PRESETS["lion"].save(second)
    with pytest.raises(ContestantError) as caught:
        choose([str(first), str(second)])
    assert str(caught.value) == (
        f"two recipes are called 'mine', the second is {str(second)!r}; rename a file, whose recipe is called by the "
        "file's name"
    )
    PRESETS["llama"].save(second)
    with pytest.raises(ContestantError, match=r"^recipe 'mine' is named twice"):
        choose([str(first), str(second)])


def test_a_sweep_looks_around_a_recipes_own_values():
    """A factor of 20 for rates and 100 for decay, as for the contestants that come with stepwell."""
    (contestant,) = choose(["muon-original"])
    rate, decay = contestant.space
    assert (rate.name, decay.name) == ("lr", "weight_decay")
    assert (rate.low * rate.high, rate.high / rate.low) == pytest.approx((0.02**2, 20))
    assert (decay.low * decay.high, decay.high / decay.low) == pytest.approx((0.01**2, 100))
    (plain,) = choose(["llrd"])  # no decay
    assert [axis.name for axis in plain.space] == ["lr"]


def test_a_rate_or_decay_of_nothing_is_not_searched():
    still = PRESETS["adamw"].set(lr=0.0, weight_decay=0.1)
    assert [axis.name for axis in Contestant.of(still, "still").searched()] == ["weight_decay"]
    none = Contestant.of(still.set(weight_decay=0.0), "none")
    with pytest.raises(ContestantError, match=r"^recipe 'none' has no range to search: no rate or decay above 0"):
        none.searched()


def test_in_a_sweep_the_routes_of_a_recipe_keep_their_ratio():
    """0.02 beside 3e-4: at twice the one, twice the other."""
    (contestant,) = choose(["muon-original"])
    optimizer, _ = contestant.build(model(), {"lr": 0.04, "weight_decay": 0.1}, 100)
    rates = {group["rule"]: group["initial_lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"Muon": 0.04, "AdamW": 6e-4})
    assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.1, 0.0])


def test_a_point_of_the_space_as_arguments():
    space = (
        Axis(name="lr", low=1e-3, high=1e-1),
        Axis(name="betas", index=0, low=0.05, high=0.2, complement=True),
        Axis(name="betas", index=1, low=0.005, high=0.1, complement=True),
    )
    recipe = Contestant(name="r", title="R", recipe=PRESETS["adamw"], space=space)
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
    optimizer, scheduler = CONTESTANTS[name].build(model(), best.settings, 100)
    assert {group["rule"] for group in optimizer.param_groups} == rules
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    peak = best.settings["lr"]
    assert max(rates) == pytest.approx(peak)
    assert rates[4] < 0.6 * peak
    assert rates[-1] == pytest.approx(peak) if name == "schedule-free" else rates[-1] < 0.01 * peak
