"""The plan: what it says, what becomes of it, and what differs between two."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import stepwell
import stepwell.integrations.huggingface  # registers the rule that has no rate
from small_models import Language
from stepwell import Recipe, RecipeError, Route
from stepwell.planning import Plan

RECIPE = Recipe(
    name="mine",
    routes=(
        Route(
            rule="Muon", name="hidden", select="role('hidden matrix')", why="maps activations",
            hyper_parameters={"lr": 0.02},
        ),
        Route(rule="AdamW", hyper_parameters={"lr": 1e-3}, schedules={"lr": "Linear(warmup=0.5)"}),
    ),
    defaults={"weight_decay": 0.1},
    schedules={"lr": "Constant(warmup=10)"},
    clip_norm=1.0,
    on_nonfinite="raise",
)  # fmt: skip


def language(*, frozen: bool = False, tied: bool = False) -> Language:
    torch.manual_seed(0)
    model = Language(tied=tied)
    model.embed.requires_grad_(not frozen)
    return model


@pytest.fixture
def plan() -> Plan:
    return stepwell.plan(language(), RECIPE, horizon=100)


class TestTable:
    def test_all_of_it(self):
        """hidden: 2·(16·8 + 8·16) numbers; head: 11·8; norms and biases: 2·(8 + 8 + 16 + 8); embedding: 11·8."""
        plan = stepwell.plan(language(frozen=True), RECIPE, horizon=100)
        assert (
            str(plan)
            == f"""\
group            rule   tensors  parameters               lr  decay  why
hidden           Muon         4         512  0 → 0.02 → 0.02    0.1  hidden matrix: role('hidden matrix');
                                                                     maps activations
                                                                     blocks.0.up.weight, blocks.0.down.weight
                                                                     and 2 more
adamw            AdamW        1          88    0 → 0.001 → 0    0.1  head: all the rest
                                                                     head.weight
adamw undecayed  AdamW        8          80    0 → 0.001 → 0      0  norm, bias: all the rest; decay would
                                                                     only pull these to 0
                                                                     blocks.0.norm.weight, blocks.0.norm.bias
                                                                     and 6 more
total                        13         680                          recipe mine {RECIPE.hash}, 100 steps
frozen                        1          88                          requires_grad=False: in no group, never
                                                                     changed

warning: embed.weight (88 numbers) will not be trained: requires_grad=False"""
        )

    def test_a_narrow_one(self, plan):
        assert all(len(line) <= 100 for line in plan.to_text(100).splitlines())

    def test_in_a_line(self, plan):
        assert repr(plan) == f"<Plan for Language: recipe mine {RECIPE.hash}, 100 steps, 3 groups, 768 parameters>"

    def test_without_a_horizon_rates_are_said_to_be_scheduled(self):
        text = str(stepwell.plan(language(), "adamw"))
        assert "0.001, scheduled" in text
        assert "no horizon" in text
        assert "warning: Cosine(warmup=0.1) of lr needs a horizon" in text

    def test_without_a_horizon_there_is_no_scheduler_of_what_needs_one(self):
        message = r"^Cosine\(warmup=0.1\) of lr needs a horizon, .*: give horizon=…, as in plan\("
        with pytest.raises(ValueError, match=message):
            stepwell.plan(language(), "adamw").build()

    def test_a_schedule_that_does_not_fit(self):
        with pytest.raises(
            ValueError, match=r"^recipe 'llama': .* over 18 steps: .*, got 2000; train for more steps, or"
        ):
            stepwell.plan(language(), "llama", horizon=18).build()

    def test_as_data(self, plan):
        data = json.loads(json.dumps(plan.to_dict()))
        assert Recipe.from_dict(data["recipe"]) == RECIPE
        assert (data["hash"], data["horizon"], data["parameters"]) == (RECIPE.hash, 100, 768)
        hidden = data["groups"][0]
        assert hidden["names"] == [f"blocks.{block}.{name}.weight" for block in (0, 1) for name in ("up", "down")]
        assert (hidden["rule"], hidden["lr"], hidden["values"]["momentum"]) == ("Muon", [0.0, 0.02, 0.02], 0.95)
        assert hidden["schedules"] == {"lr": "Constant(warmup=10)"}
        assert data["warnings"] == []


class TestOwnRates:
    """Rules that find the length of a step themselves, of which `lr` is a cap, a factor or nothing."""

    @pytest.mark.parametrize(
        ("rule", "values", "rate", "words"),
        [
            ("Adafactor", {"lr": None}, "0.01 *", "min(lr, 1/√t)·max(ε₂, RMS(θ))"),
            ("Adafactor", {"warmup_init": True, "scale_parameter": False}, "0.01 *", "min(10⁻⁶·t, 1/√t)"),
            ("Adafactor", {"lr": 1e-3, "relative_step": False}, "0.001 *", "lr·max(ε₂, RMS(θ))"),
            ("Adafactor", {"lr": 1e-3, "relative_step": False, "scale_parameter": False}, "0.001", ""),
            ("Prodigy", {}, "1 *", "lr·d, d estimated while it trains"),
            ("DAdaptAdam", {}, "1 *", "lr·d, d estimated while it trains"),
            ("TransformersAdafactor", {}, "its own *", "min(0.01, 1/√t)·max(ε₂, RMS(θ))"),
        ],
        ids=str,
    )
    def test_say_how_long_a_step_is(self, rule, values, rate, words):
        recipe = Recipe(routes=Route(rule=rule, name="all", hyper_parameters=values))
        assert Recipe.from_toml(recipe.to_toml()) == recipe
        plan = stepwell.plan(language(), recipe, horizon=100)
        assert [cells[4] for cells, *_ in plan.lines()[:2]] == [rate, rate]
        assert plan.groups[0].why.endswith(f"* steps of {words}") == bool(words)
        assert (f"lr is not the length of its steps: that is {words}" in plan.explain("head.weight")) == bool(words)
        assert plan.to_dict()["groups"][0]["own_rate"] == words
        assert plan.memory().own.state > 0
        assert plan.cost().moved > 0
        assert words in plan.to_html()

    def test_training_without_any_rate(self):
        model = language()
        plan = stepwell.plan(model, Recipe(routes=Route(rule="TransformersAdafactor")), horizon=100)
        optimizer, scheduler = plan.build()
        before = model.head.weight.detach().clone()
        sum(parameter.square().sum() for parameter in model.parameters()).backward()
        optimizer.step()
        scheduler.step()
        assert scheduler.get_last_lr() == [None, None]
        assert not torch.equal(model.head.weight, before)
        assert plan.groups[0].rule.lr is None
        scheduler.load_state_dict(scheduler.state_dict())

    def test_no_layer_wise_share_of_what_is_not_there(self):
        recipe = Recipe(routes=Route(rule="TransformersAdafactor", name="all"), layer_decay=0.9)
        with pytest.raises(
            RecipeError, match=r"route 'all': layer_decay multiplies lr, and TransformersAdafactor has n"
        ):
            stepwell.plan(language(), recipe)

    def test_a_rate_of_none_is_for_rules_that_know_one(self):
        with pytest.raises(RecipeError, match="lr must be a number at least 0, got None"):
            Recipe(routes=Route(rule="AdamW", hyper_parameters={"lr": None}))
        with pytest.raises(RecipeError, match="lr must be a number at least 0, got None"):
            Recipe(routes=Route(rule="Adafactor", hyper_parameters={"lr": None, "relative_step": False}))


class TestManyGroups:
    def test_reasons_stand_below_each_once(self, set_depths):
        """Layer-wise rates leave no room beside them, and the groups of a route have one reason."""
        set_depths(lambda name: 1 + int(name.split(".")[1]) if name.startswith("blocks") else 3)
        plan = stepwell.plan(language(), RECIPE.replace(layer_decay=0.123456), horizon=100)
        lines = plan.to_text(96).splitlines()
        assert all(len(line) <= 96 for line in lines)
        assert lines[0].split() == ["group", "rule", "tensors", "parameters", "lr", "decay"]
        text = " ".join(" ".join(lines).split())
        assert text.count("hidden matrix: role('hidden matrix'); maps activations") == 1
        assert "hidden depth 1, hidden depth 2: hidden matrix: role('hidden matrix')" in text
        assert "blocks.0.up.weight, blocks.0.down.weight and 2 more" in text


class TestExplain:
    def test_the_whole_story(self, plan):
        assert plan.explain("blocks.1.up.bias").splitlines() == [
            "blocks.1.up.bias: 16, 16 numbers, float32",
            f"role: bias (bias of Linear), depth {plan.groups[2].members[-2].depth}",
            "route 'hidden': role('hidden matrix') does not",
            "route 'adamw': everything() takes it",
            "undecayed: role('norm', 'bias', 'scalar', 'other') takes it",
            "group 'adamw undecayed': AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False, "
            "decay='decoupled', correct_bias=True, maximize=False)",
            "lr: Linear(warmup=0.5), so 0 → 0.001 → 0",
            "state: exp_avg, exp_avg_sq",
        ]

    def test_the_reason_of_a_route(self, plan):
        assert "because: maps activations" in plan.explain("blocks.0.up.weight").splitlines()

    def test_by_any_name_of_a_tied_parameter(self):
        plan = stepwell.plan(language(tied=True), "muon", horizon=100)
        assert plan.explain("head.weight") == plan.explain("embed.weight")
        assert "tied with: head.weight" in plan.explain("embed.weight").splitlines()

    def test_a_layer_wise_rate(self, set_depths):
        set_depths(lambda name: 1 if name.startswith("blocks") else 3)
        plan = stepwell.plan(language(), RECIPE.replace(layer_decay=0.5), horizon=100)
        assert "layer-wise rate: depth 1 of 3, 0.5^2 = 0.25 of the rate" in plan.explain("blocks.0.up.weight")

    def test_a_frozen_parameter(self):
        plan = stepwell.plan(language(frozen=True), RECIPE, horizon=100)
        assert plan.explain("embed.weight").splitlines()[-1] == (
            "frozen: requires_grad=False, so it is in no group and never changed"
        )

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("blocks.0.up.wieght", " (did you mean 'blocks.0.up.weight'?)"),
            ("embed.wieght", " (did you mean 'embed.weight'?)"),
            ("blocks.0", "; in that module there are blocks.0.up.weight, blocks.0.down.weight and 4 more"),
        ],
    )
    def test_a_name_that_is_not_there(self, name, hint):
        plan = stepwell.plan(language(frozen=True), RECIPE, horizon=100)
        with pytest.raises(ValueError) as error:
            plan.explain(name)
        assert str(error.value) == f"the model has no parameter {name!r}{hint}"


class TestBuild:
    def test_groups_and_options(self, plan):
        optimizer, _ = plan.build()
        names = [group["name"] for group in optimizer.param_groups]
        assert names == ["hidden", "adamw", "adamw undecayed"]
        assert [group["rule"] for group in optimizer.param_groups] == ["Muon", "AdamW", "AdamW"]
        assert [group["param_names"] for group in optimizer.param_groups] == [
            [member.name for member in group.members] for group in plan.groups
        ]
        assert (optimizer.clip_norm, optimizer.on_nonfinite, optimizer.engine) == (1.0, "raise", "auto")

    def test_rates_of_each_route_at_each_step(self, plan):
        """hidden: 0.02·min(t/10, 1). The rest: 0.001·t/50 up to step 50, then 0.001·(100 − t)/50."""
        optimizer, scheduler = plan.build()
        for step in range(101):
            hidden, *rest = [group["lr"] for group in optimizer.param_groups]
            assert hidden == pytest.approx(0.02 * min(step / 10, 1))
            assert rest == pytest.approx([1e-3 * min(step, 100 - step) / 50] * 2)
            scheduler.step()

    def test_other_hyper_parameters_follow_their_schedules(self):
        recipe = RECIPE.replace(schedules={"lr": "cosine", "weight_decay": "Linear()", "betas[0]": "Linear(end=0.5)"})
        optimizer, scheduler = stepwell.plan(language(), recipe, horizon=100).build()
        scheduler.step(50)
        hidden, rest, undecayed = optimizer.param_groups
        assert [group["weight_decay"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.05, 0.0])
        assert rest["betas"] == undecayed["betas"] == pytest.approx((0.9 * 0.75, 0.999))
        assert hidden["lr"] == pytest.approx(0.01)

    def test_layer_wise_rates_follow_the_schedule_in_proportion(self, set_depths):
        set_depths(lambda name: 0 if name.startswith("embed") else 2)
        recipe = Recipe(routes=Route(rule="AdamW"), schedules={"lr": "Linear()"}, layer_decay=0.5).set(lr=1.0)
        optimizer, scheduler = stepwell.plan(language(), recipe, horizon=100).build()
        scheduler.step(20)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25 * 0.8, 0.8, 0.8])

    def test_a_recipe_without_schedules_keeps_its_rates(self):
        optimizer, scheduler = stepwell.plan(language(), RECIPE.replace(schedules={}).set(lr=0.5), horizon=10).build()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == 0.5

    def test_names_with_wildcards_in_them(self):
        recipe = Recipe(
            routes=(
                Route(rule="Lion", name="a*", select="ndim(2)", schedules={"lr": "Constant(warmup=4)"}),
                Route(rule="AdamW", name="ab[1]", schedules={"lr": "Linear()"}),
            )
        )
        optimizer, scheduler = stepwell.plan(language(), recipe, horizon=8).build()
        scheduler.step(2)
        lion, adamw = [group["lr"] for group in optimizer.param_groups]
        assert (lion, adamw) == pytest.approx((1e-4 * 2 / 4, 1e-3 * 6 / 8))

    def test_it_trains(self, plan):
        optimizer, scheduler = plan.build()
        losses = []
        for _ in range(100):
            loss = plan.model.loss()
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        assert losses[-1] < 0.2 * losses[0]

    def test_a_horizon_that_is_needed(self):
        with pytest.raises(ValueError, match="horizon"):
            stepwell.plan(language(), "adamw").build()

    def test_nothing_is_changed_or_allocated_by_a_plan(self):
        model = language()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        plan = stepwell.plan(model, RECIPE, horizon=100)
        plan.memory(), plan.cost(), plan.to_html(), str(plan)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())


class TestMeta:
    def test_a_model_without_data(self):
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(1 << 17, 1 << 17), nn.LayerNorm(1 << 17))
        plan = stepwell.plan(model, "muon", horizon=1000)
        assert plan.parameters == 2**34 + 3 * 2**17
        assert plan.memory().own.weights == 4 * plan.parameters
        assert math.isfinite(plan.cost().seconds)
        assert "0.weight" in plan.to_html()


class TestDiff:
    def test_what_differs(self, plan):
        other = stepwell.plan(plan.model, "adamw", horizon=200)
        assert plan.diff(other).splitlines() == [
            "horizon: 100 → 200",
            "blocks.0.up.weight, blocks.0.down.weight and 2 more: rule Muon → AdamW, lr 0.02 → 0.001, "
            "weight_decay 0.1 → 0.01, eps 1e-07 → 1e-08, lr schedule Constant(warmup=10) → Cosine(warmup=0.1)",
            "embed.weight, head.weight: weight_decay 0.1 → 0.01, lr schedule Linear(warmup=0.5) → Cosine(warmup=0.1)",
            "blocks.0.norm.weight, blocks.0.norm.bias and 6 more: lr schedule Linear(warmup=0.5) → Cosine(warmup=0.1)",
        ]

    def test_nothing(self, plan):
        assert plan.diff(stepwell.plan(plan.model, RECIPE.replace(name="another"), horizon=100)) == ""

    def test_what_one_of_them_does_not_train(self, plan):
        other = stepwell.plan(language(frozen=True), RECIPE, horizon=100)
        assert plan.diff(other).startswith("embed.weight: rule AdamW → not trained")
        assert other.diff(plan).startswith("embed.weight: rule not trained → AdamW")

    def test_what_is_no_plan(self, plan):
        with pytest.raises(TypeError, match=r"^a plan is compared with another stepwell\.Plan, got Recipe$"):
            plan.diff(RECIPE)


class TestArguments:
    def test_a_recipe_may_be_a_rule_or_a_file(self, tmp_path):
        path = tmp_path / "recipe.toml"
        RECIPE.save(path)
        plan = stepwell.plan(language(), str(path))
        assert plan.recipe == RECIPE
        assert {type(group.rule).__name__ for group in stepwell.plan(language(), "prodigy").groups} == {"Prodigy"}
        assert "NAdam" in [row.title for row in plan.memory(beside=["nadam"]).rows]

    @pytest.mark.parametrize(
        ("arguments", "kind", "message"),
        [
            ({"recipe": "mun"}, ValueError, "unknown recipe 'mun' (did you mean 'muon'?); recipes are "),
            ({"recipe": 5}, TypeError, "recipe must be a stepwell.Recipe, or the name of a preset, a rule or "),
            ({"horizon": 0}, ValueError, "horizon must be at least 1 step, got 0"),
            ({"horizon": -3}, ValueError, "horizon must be at least 1 step, got -3"),
            ({"horizon": float("nan")}, TypeError, "horizon must be a whole number of steps (int), got nan"),
            ({"epochs": 3}, TypeError, "epochs count the steps of a loader: give loader=… too"),
            ({"model": 3}, TypeError, "a recipe is laid over a torch.nn.Module, got int"),
        ],
        ids=repr,
    )
    def test_what_cannot_be_planned(self, arguments, kind, message):
        with pytest.raises(kind) as error:
            stepwell.plan(**{"model": language(), **arguments})
        assert str(error.value).startswith(message)

    def test_the_loader_gives_the_horizon(self):
        pytest.importorskip("stepwell.horizon")
        assert stepwell.plan(language(), "adamw", loader=100, epochs=3).horizon == 300
