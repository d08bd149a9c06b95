"""Recipes: what they hold, what they refuse, and how one is made of another."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given

from recipes.drawn import recipes
from stepwell import Recipe, RecipeError, Route, rules, select
from stepwell.recipes import PRESETS, UNDECAYED
from stepwell.schedules import Constant, Cosine, Linear

TWO = Recipe(
    routes=(
        Route(rule="Muon", name="hidden", select=select.role("hidden matrix"), hyper_parameters={"momentum": 0.9}),
        Route(rule="AdamW", hyper_parameters={"lr": 3e-4}),
    ),
    defaults={"lr": 0.02, "weight_decay": 0.1},
    schedules={"lr": "Cosine(warmup=0.1)", "betas[0]": "Linear(end=0.9)"},
)


class TestRoutes:
    def test_a_rule_by_name_class_or_value(self):
        by_name = Route(rule="lion", hyper_parameters={"lr": 3e-4})
        assert by_name.rule == "Lion"
        assert by_name.name == "lion"
        assert by_name == Route(rule=rules.Lion(lr=3e-4), name="lion")
        assert Route(rule=rules.Lion).hyper_parameters == {}

    def test_values_of_a_rule_that_stand_at_its_defaults_are_left_to_the_recipe(self):
        recipe = Recipe(routes=(Route(rule=rules.AdamW(eps=1e-6)),), defaults={"lr": 3e-4, "eps": 1e-4})
        rule = recipe.rule_of(recipe.routes[0])
        assert (rule.lr, rule.eps) == (3e-4, 1e-6)

    def test_a_selector_and_a_schedule_as_text(self):
        route = Route(rule="AdamW", select="role('norm')", schedules={"lr": "constant"})
        assert (route.select, route.schedules) == (select.role("norm"), {"lr": Constant()})

    def test_a_wrapped_rule(self):
        assert Route(rule="cautious(AdamW)").rule == "cautious(AdamW)"


class TestValues:
    def test_a_route_wins_over_the_defaults(self):
        hidden, rest = map(TWO.rule_of, TWO.routes)
        assert (hidden.lr, hidden.weight_decay, hidden.momentum) == (0.02, 0.1, 0.9)
        assert (rest.lr, rest.weight_decay) == (3e-4, 0.1)

    def test_schedules_go_to_the_rules_that_have_their_number(self):
        hidden, rest = map(TWO.schedules_of, TWO.routes)
        assert hidden == {"lr": Cosine(warmup=0.1)}
        assert rest == {"lr": Cosine(warmup=0.1), "betas[0]": Linear(end=0.9)}

    def test_a_route_has_a_schedule_of_its_own(self):
        recipe = TWO.replace(routes=(TWO.routes[0], Route(rule="AdamW", schedules={"lr": "constant"})))
        assert recipe.schedules_of(recipe.routes[1])["lr"] == Constant()

    def test_numbers_of_tensors_and_lists_become_plain(self):
        recipe = Recipe(routes=(Route(rule="AdamW"),), defaults={"lr": torch.tensor(0.5), "betas": [0.5, 0.75]})
        assert recipe.defaults == {"lr": 0.5, "betas": (0.5, 0.75)}

    def test_cautious_wraps_every_rule_that_it_fits(self):
        recipe = TWO.replace(cautious=True, schedules={})
        assert [type(recipe.rule_of(route)).__name__ for route in recipe.routes] == [
            "cautious(Muon)",
            "cautious(AdamW)",
        ]
        twice = Recipe(routes=(Route(rule="cautious(Lion)"), Route(rule="Lion")), cautious=True)
        assert [type(twice.rule_of(route)).__name__ for route in twice.routes] == ["cautious(Lion)"] * 2

    def test_what_is_undecayed_by_default(self):
        assert TWO.undecayed == select.role(*UNDECAYED)
        assert TWO.replace(undecayed="role('norm')").undecayed == select.role("norm")

    def test_one_route_needs_no_tuple(self):
        assert Recipe(routes=Route(rule="AdamW")).routes == (Route(rule="AdamW"),)

    def test_nothing_in_it_can_be_changed(self):
        with pytest.raises(AttributeError):
            TWO.clip_norm = 1.0
        with pytest.raises(TypeError):
            TWO.defaults["lr"] = 1.0


class TestIdentity:
    def test_it_prints_as_the_code_that_makes_it(self):
        scope = {"Recipe": Recipe, "Route": Route, **vars(select), **{each.__name__: each for each in (Cosine, Linear)}}
        assert eval(repr(TWO), scope) == TWO
        assert repr(Recipe(routes=Route(rule="AdamW"))) == "Recipe(routes=(Route(rule='AdamW'),))"

    @given(recipes())
    def test_equality_pickling_and_replace_of_nothing(self, recipe):
        for same in (pickle.loads(pickle.dumps(recipe)), recipe.replace()):
            assert same == recipe
            assert hash(same) == hash(recipe)
            assert same.hash == recipe.hash

    def test_another_recipe_is_not_equal(self):
        assert TWO.replace(clip_norm=1.0) != TWO
        assert TWO != "muon"


class TestChanges:
    def test_replace(self):
        changed = TWO.replace(clip_norm=0.5, layer_decay=0.9)
        assert (changed.clip_norm, changed.layer_decay, changed.routes) == (0.5, 0.9, TWO.routes)

    def test_set_speaks_to_every_rule_that_has_the_name(self):
        changed = TWO.set(lr=0.5, momentum=0.8)
        assert [changed.rule_of(route).lr for route in changed.routes] == [0.5, 0.5]
        assert changed.rule_of(changed.routes[0]).momentum == 0.8

    def test_set_speaks_to_one_rule_or_route_by_its_name_before_it(self):
        changed = TWO.set(lr=0.5, adamw_lr=0.25, hidden_weight_decay=0.0)
        assert [changed.rule_of(route).lr for route in changed.routes] == [0.5, 0.25]
        assert [changed.rule_of(route).weight_decay for route in changed.routes] == [0.0, 0.1]

    def test_scaled_values_keep_their_ratios(self):
        changed = TWO.scaled(lr=0.5, momentum=0.5)
        assert [changed.rule_of(route).lr for route in changed.routes] == [0.01, 1.5e-4]
        assert changed.rule_of(changed.routes[0]).momentum == 0.45

    def test_a_rule_that_has_no_number_there_is_left_as_it_is(self):
        first = Route(rule="Prodigy", name="matrices", select="ndim(2)")
        other = Route(rule="Prodigy", hyper_parameters={"beta3": 0.8})
        changed = Recipe(routes=(first, other)).scaled(beta3=0.5)
        assert [changed.rule_of(route).values()["beta3"] for route in changed.routes] == [None, 0.4]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda: TWO.replace(clipnorm=1.0),
                "unknown field 'clipnorm' of a Recipe (did you mean 'clip_norm'?); "
                "recipe.set(…) changes hyper-parameters",
            ),
            (
                lambda: TWO.set(momentun=0.5),
                "unknown hyper-parameter 'momentun' for Muon and AdamW (did you mean 'momentum'?)",
            ),
            (
                lambda: PRESETS["lion"].scaled(lrr=2),
                "no rule of the recipe has a number 'lrr'; there are lr, weight_decay (did you mean 'lr'?)",
            ),
            (
                lambda: PRESETS["lion"].scaled(betas=2),
                "no rule of the recipe has a number 'betas'; there are lr, weight_decay",
            ),
            (
                lambda: PRESETS["lion"].scaled(maximize=2),
                "no rule of the recipe has a number 'maximize'; there are lr, weight_decay",
            ),
            (
                lambda: PRESETS["lion"].set(clip_norm=1.0),
                "unknown hyper-parameter 'clip_norm' for Lion; recipe.replace(clip_norm=…) sets it, of a recipe such "
                "as stepwell.Recipe.preset('adamw')",
            ),
            (
                lambda: PRESETS["lion"].set(layer_dcay=0.5),
                "unknown hyper-parameter 'layer_dcay' for Lion (did you mean 'layer_decay'?)",
            ),
            (
                lambda: PRESETS["lion"].set(lion_lrr=0.5),
                "unknown hyper-parameter 'lion_lrr' for Lion; it takes lr, betas, weight_decay, decay, maximize",
            ),
            (
                lambda: PRESETS["lion"].set(no_decay="role('norm')"),
                "unknown hyper-parameter 'no_decay' for Lion; write 'undecayed', as it is called here",
            ),
        ],
    )
    def test_unknown_names(self, change, message):
        with pytest.raises(TypeError) as error:
            change()
        assert str(error.value) == message

    def test_a_value_out_of_range(self):
        with pytest.raises(
            RecipeError, match=r"^this recipe: defaults, for Muon and AdamW: lr must be at least 0, got -1"
        ):
            TWO.set(lr=-1)


def refused(**fields):
    """The mistakes of a recipe with these fields."""
    with pytest.raises(RecipeError) as error:
        Recipe(**{"routes": (Route(rule="AdamW"),), **fields})
    assert all("\n" not in mistake for mistake in error.value.mistakes)
    return error.value.mistakes


NAN = float("nan")


class TestMistakes:
    @pytest.mark.parametrize(
        ("fields", "mistake"),
        [
            ({"routes": ()}, "a recipe needs at least one route, such as Route(rule='AdamW')"),
            ({"routes": ("AdamW",)}, "routes must be stepwell.Route objects, got 'AdamW'"),
            ({"routes": 5}, "routes must be stepwell.Route objects, got 5"),
            (
                {"routes": (Route(rule="AdamW"), Route(rule="AdamW", select="ndim(1)"))},
                "routes: 2 routes are called 'adamw'; give each a name of its own",
            ),
            ({"defaults": {"lrr": 0.1}}, "defaults: AdamW has no hyper-parameter 'lrr' (did you mean 'lr'?)"),
            ({"defaults": {"lr": -0.1}}, "defaults, for AdamW: lr must be at least 0, got -0.1"),
            ({"defaults": {"lr": NAN}}, "defaults, for AdamW: lr must be at least 0, got nan"),
            ({"defaults": {"betas": (0.9, NAN)}}, "defaults, for AdamW: betas[1] must be in [0, 1), got nan"),
            ({"defaults": {"betas": 0.9}}, "defaults, for AdamW: betas must be 2 numbers, got 0.9"),
            ({"defaults": [0.1]}, "defaults must map names to values, got [0.1]"),
            ({"schedules": {"lrr": "cosine"}}, "schedules: AdamW has no hyper-parameter 'lrr' (did you mean 'lr'?)"),
            ({"schedules": {"lr": "cosin"}}, None),
            (
                {"schedules": {"lr": 0.1}},
                "schedules.lr: must be a schedule such as Cosine(warmup=0.1), or its text, got 0.1",
            ),
            (
                {"schedules": {"betas": "cosine"}},
                "schedules: betas of AdamW is no number, but (0.9, 0.999); schedule betas[0] or betas[1]",
            ),
            (
                {"schedules": {"betas[2]": "cosine"}},
                "schedules: betas[2] of AdamW is no number, but (0.9, 0.999); schedule betas[0] or betas[1]",
            ),
            ({"schedules": {"amsgrad": "cosine"}}, "schedules: amsgrad of AdamW is no number, but False"),
            ({"undecayed": "role('nrom')"}, None),
            (
                {"undecayed": 3},
                "undecayed: must be a selector such as stepwell.select.role('norm'), or its text, got 3",
            ),
            ({"layer_decay": NAN}, "layer_decay must be in (0, 1), got nan"),
            ({"layer_decay": 1.5}, "layer_decay must be in (0, 1), got 1.5"),
            ({"clip_norm": -1.0}, "clip_norm must be above 0, got -1.0"),
            ({"clip_norm": NAN}, "clip_norm must be above 0, got nan"),
            (
                {"on_nonfinite": "skp"},
                "on_nonfinite must be one of 'ignore', 'raise', 'skip', got 'skp' (did you mean 'skip'?)",
            ),
            ({"cautious": "yes"}, "cautious must be True or False, got 'yes'"),
            (
                {"routes": (Route(rule="cautious(Lion)"),), "cautious": True},
                "cautious fits no rule of this recipe: cautious(Lion)",
            ),
            (
                {"engine": "fusd"},
                "engine must be one of 'auto', 'reference', 'foreach', 'fused', got 'fusd' (did you mean 'fused'?)",
            ),
            ({"roles": {"a": "nrom"}}, None),
            ({"depths": {"a": -1}}, "depths: the depth of 'a' must be a whole number of at least 0, got -1"),
            ({"depths": {"a": NAN}}, "depths: the depth of 'a' must be a whole number of at least 0, got nan"),
            ({"name": 5}, "name must be a text, got 5"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_one(self, fields, mistake):
        (found,) = refused(**fields)
        assert mistake in (found, None)

    def test_all_at_once(self):
        found = refused(
            routes=(Route(rule="Muon"), Route(rule="AdamW")),
            defaults={"lr": -1.0, "momentum": 2.0, "bets": (0.9, 0.95)},
            schedules={"lrr": "cosine", "weight_decay": "cosin"},
            clip_norm=0.0,
            layer_decay=2.0,
            engine="turbo",
        )
        assert [mistake.partition(" must")[0].partition(";")[0].partition(" (did")[0] for mistake in found] == [
            "schedules.weight_decay: unknown schedule 'cosin'",
            "layer_decay",
            "clip_norm",
            "engine",
            "defaults: Muon nor AdamW has no hyper-parameter 'bets'",
            "schedules: Muon nor AdamW has no hyper-parameter 'lrr'",
            "defaults, for Muon and AdamW: lr",
            "defaults, for Muon: momentum",
        ]

    def test_the_message_lists_them(self):
        with pytest.raises(RecipeError) as error:
            Recipe(routes=(Route(rule="AdamW"),), name="mine", clip_norm=-1, defaults={"lr": -1})
        assert str(error.value) == (
            "recipe 'mine' has 2 mistakes:\n"
            "- clip_norm must be above 0, got -1\n"
            "- defaults, for AdamW: lr must be at least 0, got -1"
        )
        again = pickle.loads(pickle.dumps(error.value))
        assert (str(again), again.mistakes) == (str(error.value), error.value.mistakes)

    def test_of_a_route(self):
        with pytest.raises(RecipeError) as error:
            Route(
                rule="AdamW",
                name="rest",
                select="ndim(1) and ndim(2)",
                hyper_parameters={"lr": -1, "bets": 1, "betas": (0.9, NAN)},
                schedules={"lrr": "cosine"},
            )
        assert [mistake.partition(";")[0].partition(" (did")[0] for mistake in error.value.mistakes] == [
            "select: 'ndim(1) and ndim(2)' is no selector such as \"role('norm') | name('*.bias')\"",
            "lr must be at least 0, got -1",
            "unknown hyper-parameter 'bets' for AdamW",
            "betas[1] must be in [0, 1), got nan",
            "schedules: unknown hyper-parameter 'lrr' for AdamW",
        ]
        assert str(error.value).startswith("route 'rest' has 5 mistakes:\n- ")

    def test_what_must_hold_between_values(self):
        (found,) = refused(routes=(Route(rule="SGD", hyper_parameters={"nesterov": True}),), defaults={"momentum": 0.0})
        assert found.startswith("route 'sgd': ")
        assert "momentum" in found
