"""Which route, which group and which values each parameter of a model gets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from small_models import Language, Vision
from stepwell import Recipe, RecipeError, Route
from stepwell.planning import laying
from stepwell.planning.laying import lay

ADAMW = Recipe(routes=Route(rule="AdamW"))
UNDECAYED = [
    *(f"blocks.{block}.{name}" for block in (0, 1) for name in ("norm.weight", "norm.bias", "up.bias", "down.bias"))
]


def members(laid: laying.Laid) -> dict[str, list[str]]:
    return {group.name: [member.name for member in group.members] for group in laid.groups}


class TestGroups:
    def test_the_first_route_that_matches_has_a_parameter(self):
        recipe = Recipe(
            routes=(
                Route(rule="Lion", select="name('blocks.0')"),
                Route(rule="Muon", select="role('hidden matrix')"),
                Route(rule="AdamW"),
            ),
            undecayed="~everything()",
        )
        assert members(lay(Language(), recipe)) == {
            "lion": [
                *("blocks.0.norm.weight", "blocks.0.norm.bias", "blocks.0.up.weight", "blocks.0.up.bias"),
                *("blocks.0.down.weight", "blocks.0.down.bias"),
            ],
            "muon": ["blocks.1.up.weight", "blocks.1.down.weight"],
            "adamw": [
                *("embed.weight", "blocks.1.norm.weight", "blocks.1.norm.bias", "blocks.1.up.bias"),
                *("blocks.1.down.bias", "head.weight"),
            ],
        }

    def test_what_is_undecayed_stands_apart(self):
        decayed, undecayed = lay(Language(), ADAMW.set(weight_decay=0.1)).groups
        assert (decayed.name, undecayed.name) == ("adamw", "adamw undecayed")
        assert (decayed.rule.weight_decay, undecayed.rule.weight_decay) == (0.1, 0.0)
        assert sorted(member.name for member in undecayed.members) == sorted(UNDECAYED)
        assert (decayed.decayed, undecayed.decayed) == (True, False)

    def test_the_user_says_what_is_undecayed(self):
        _, undecayed = lay(Language(), ADAMW.replace(undecayed="name('embed') | ndim(1)")).groups
        assert [member.name for member in undecayed.members] == ["embed.weight", *UNDECAYED]

    def test_why(self):
        recipe = Recipe(routes=(Route(rule="Lion", select="ndim(2)", why="so it be"), Route(rule="AdamW")))
        assert [group.why for group in lay(Language(), recipe).groups] == [
            "ndim(2); so it be",
            "all the rest; decay would only pull these to 0",
        ]

    def test_a_tied_parameter_is_taken_once(self):
        laid = lay(Language(tied=True), ADAMW)
        held = [member.parameter for group in laid.groups for member in group.members]
        assert len(held) == len({id(parameter) for parameter in held})
        assert members(laid)["adamw"][0] == "embed.weight"
        assert "head.weight" not in members(laid)["adamw"]

    def test_frozen_parameters_are_set_aside_and_not_changed(self):
        model = Language()
        model.embed.requires_grad_(False)
        laid = lay(model, ADAMW)
        assert [entry.name for entry in laid.frozen] == ["embed.weight"]
        assert "embed.weight" not in members(laid)["adamw"]
        assert not model.embed.weight.requires_grad

    def test_names_with_wildcards_in_them_are_names(self):
        recipe = Recipe(routes=(Route(rule="Lion", name="a[1]*", select="ndim(2)"), Route(rule="AdamW")))
        assert [group.name for group in lay(Language(), recipe).groups] == ["a[1]*", "adamw undecayed"]


class TestLayerDecay:
    """lr·decay^(deepest − depth): of 4 depths, 0 to 3, the head stands at 3."""

    def depth_of(self, name: str) -> int:
        depths = {"embed": 0, "blocks.0": 1, "blocks.1": 2, "head": 3}
        return next(depth for prefix, depth in depths.items() if name.startswith(prefix))

    def test_a_rate_for_each_depth(self, set_depths):
        set_depths(self.depth_of)
        laid = lay(Language(), ADAMW.set(lr=1.0).replace(layer_decay=0.5))
        assert {group.name: group.rule.lr for group in laid.groups} == {
            "adamw depth 0": 0.125,
            "adamw depth 1": 0.25,
            "adamw depth 2": 0.5,
            "adamw depth 3": 1.0,
            "adamw undecayed depth 1": 0.25,
            "adamw undecayed depth 2": 0.5,
        }
        assert all(group.rate_scale == group.rule.lr for group in laid.groups)
        assert laid.deepest == 3

    def test_each_route_keeps_its_own_rate(self, set_depths):
        set_depths(self.depth_of)
        recipe = Recipe(
            routes=(
                Route(rule="Muon", select="role('hidden matrix')", hyper_parameters={"lr": 1.0}),
                Route(rule="AdamW", hyper_parameters={"lr": 0.1}),
            ),
            layer_decay=0.5,
        )
        rates = {group.name: group.rule.lr for group in lay(Language(), recipe).groups}
        assert rates["muon depth 2"] == 0.5
        assert rates["adamw undecayed depth 2"] == pytest.approx(0.05)

    def test_a_frozen_head_is_still_what_depths_are_counted_from(self, set_depths):
        set_depths(self.depth_of)
        model = Language()
        model.head.requires_grad_(False)
        laid = lay(model, ADAMW.set(lr=1.0).replace(layer_decay=0.5))
        assert max(group.rule.lr for group in laid.groups) == 0.5

    def test_without_it_depths_do_not_matter(self, set_depths):
        set_depths(self.depth_of)
        assert len(lay(Language(), ADAMW).groups) == 2


class TestSplit:
    """Layers that are stored side by side in one matrix."""

    @pytest.fixture
    def fused(self, monkeypatch):
        read = laying.parameter_roles
        splits = {"blocks.0.up.weight": ((4, 6, 6), -2), "blocks.1.up.weight": ((8, 8), -2)}
        splits["blocks.0.down.weight"] = ((8, 8), -1)

        def with_splits(*arguments):
            return [
                replace(entry, split=splits[entry.name][0], split_dim=splits[entry.name][1])
                if entry.name in splits
                else entry
                for entry in read(*arguments)
            ]

        monkeypatch.setattr(laying, "parameter_roles", with_splits)

    @pytest.mark.usefixtures("fused")
    @pytest.mark.parametrize("rule", ["Muon", "NorMuon", "AdaMuon"])
    def test_a_rule_that_splits_matrices_gets_them(self, rule):
        recipe = Recipe(routes=(Route(rule=rule, name="hidden", select="role('hidden matrix')"), Route(rule="AdamW")))
        values = {group.name: group.rule.values() for group in lay(Language(), recipe).groups}
        assert {name: (each.get("split"), each.get("split_dim")) for name, each in values.items()} == {
            "hidden": (1, -2),
            "hidden split 4+6+6": ((4, 6, 6), -2),
            "hidden split 8+8": (2, -2),
            "hidden split 8+8 columns": (2, -1),
            "adamw": (None, None),
            "adamw undecayed": (None, None),
        }

    @pytest.mark.usefixtures("fused")
    def test_the_recipe_has_the_last_word(self):
        recipe = Recipe(
            routes=(
                Route(rule="Muon", select="role('hidden matrix')", hyper_parameters={"split": 1}),
                Route(rule="AdamW"),
            )
        )
        assert [group.name for group in lay(Language(), recipe).groups] == ["muon", "adamw", "adamw undecayed"]


class TestIdleRoutes:
    @pytest.mark.parametrize(
        ("select", "why"),
        [("name('embed')", "frozen"), ("role('hidden matrix')", "shadowed"), ("role('convolution')", "unmatched")],
    )
    def test_why_a_route_takes_nothing(self, select, why):
        model = Language()
        model.embed.requires_grad_(False)
        recipe = Recipe(
            routes=(Route(rule="Muon", select="ndim(2)"), Route(rule="Lion", select=select), Route(rule="AdamW"))
        )
        assert [(route.name, reason) for route, reason in lay(model, recipe).idle] == [("lion", why)]

    def test_a_part_of_a_selector_may_be_absent(self):
        recipe = Recipe(
            routes=(Route(rule="Lion", select="name('embed') | name('*.hed.*')"), Route(rule="AdamW")),
            undecayed="role('norm') & ~module('LayerNrom')",
        )
        assert lay(Language(), recipe).absent == (
            "route 'lion': name('*.hed.*') matches no parameter",
            "undecayed: module('LayerNrom') matches no parameter (did you mean 'LayerNorm'?)",
        )


def refused(model: nn.Module, recipe: Recipe) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as error:
        lay(model, recipe)
    assert all("\n" not in mistake for mistake in error.value.mistakes)
    return error.value.mistakes


class TestMistakes:
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (nn.ReLU(), "ReLU has no parameters to train: it has none at all"),
            (
                nn.Linear(2, 2).requires_grad_(False),
                "Linear has no parameters to train: all 2 are frozen (requires_grad=False)",
            ),
        ],
    )
    def test_nothing_to_train(self, model, message):
        with pytest.raises(ValueError) as error:
            lay(model, ADAMW)
        assert str(error.value) == message

    def test_what_is_no_module(self):
        with pytest.raises(TypeError, match=r"^a recipe is laid over a torch\.nn\.Module, got list$"):
            lay([torch.ones(2)], ADAMW)

    def test_a_selector_that_matches_nothing(self):
        recipe = Recipe(routes=(Route(rule="Lion", select="name('blocks.0.upp')"), Route(rule="AdamW")))
        assert refused(Language(), recipe) == (
            "route 'lion': name('blocks.0.upp') matches no parameter (did you mean 'blocks.0.up'?)",
        )
        assert refused(Language(), ADAMW.replace(undecayed="module('LayerNrom')")) == (
            "undecayed: module('LayerNrom') matches no parameter (did you mean 'LayerNorm'?)",
        )

    def test_parameters_that_no_route_takes(self):
        recipe = Recipe(routes=(Route(rule="Muon", select="role('hidden matrix')"),))
        (mistake,) = refused(Language(), recipe)
        assert mistake == (
            "no route takes embed.weight, blocks.0.norm.weight, blocks.0.norm.bias and 7 more; "
            "add a last route without `select`, or freeze what is not to be trained"
        )

    def test_two_routes_of_equal_claim_on_a_tied_parameter(self):
        recipe = Recipe(
            routes=(
                Route(rule="Lion", name="tables", select="name('embed')"),
                Route(rule="SGD", name="output", select="name('head')"),
                Route(rule="AdamW"),
            )
        )
        assert lay(Language(), recipe)
        assert refused(Language(tied=True), recipe) == (
            "'embed.weight' and 'head.weight' are one tied parameter, which route 'tables' takes by the one name and "
            "route 'output' by the other; name it in one of them, and take it out of the other by "
            "& ~name('embed.weight')",
        )
        way_out = replace(recipe.routes[1], select="name('head') & ~name('embed.weight')")
        laid = lay(Language(tied=True), recipe.replace(routes=(recipe.routes[0], way_out, recipe.routes[2])))
        assert members(laid)["tables"] == ["embed.weight"]
        assert laid.idle == ((way_out, "unmatched"),)

    def test_what_a_rule_cannot_update(self):
        (mistake,) = refused(Vision(), Recipe(routes=Route(rule="Muon")))
        assert mistake == (
            "route 'muon': Muon acts on real matrices (…, rows, cols), but parameter 'norm.weight' has shape (8,) and "
            "dtype torch.float32; put it into a group with a rule such as 'AdamW', as a recipe does whose "
            "routes are (Route(rule='Muon', select=\"role('hidden matrix')\"), Route(rule='AdamW')) (and 3 more)"
        )
        thirds = Route(rule="Muon", select="ndim(2)", hyper_parameters={"split": 3})
        (mistake,) = refused(Language(), Recipe(routes=(thirds, Route(rule="AdamW"))))
        assert mistake.startswith("route 'muon': split=3 does not divide the 11 rows")

    def test_groups_of_one_name(self):
        recipe = Recipe(
            routes=(Route(rule="Lion", name="adamw undecayed", select="name('blocks.0.up')"), Route(rule="AdamW")),
            undecayed="ndim(1) & ~name('blocks.0.up')",
        )
        assert refused(Language(), recipe) == (
            "2 groups would be called 'adamw undecayed'; give their routes other names",
        )

    def test_all_at_once(self):
        recipe = Recipe(
            routes=(Route(rule="Lion", select="name('blocks.9')"), Route(rule="Muon", select="name('blocks')")),
            undecayed="regex('bais')",
            name="mine",
        )
        with pytest.raises(RecipeError) as error:
            lay(Language(), recipe)
        assert [
            line.partition(";")[0].partition(", but")[0].partition(" (did")[0] for line in str(error.value).splitlines()
        ] == [
            "recipe 'mine' on Language has 4 mistakes:",
            "- no route takes embed.weight, head.weight",
            "- route 'lion': name('blocks.9') matches no parameter",
            "- undecayed: regex('bais') matches no parameter",
            "- route 'muon': Muon acts on real matrices (…, rows, cols)",
        ]

    def test_roles_that_no_parameter_takes(self):
        (mistake,) = refused(Language(), ADAMW.replace(roles={"hed": "head"}))
        assert mistake == "roles['hed'] matches no parameter (did you mean 'head'?)"
