"""What a plan warns of, and that it keeps quiet where all is well."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import stepwell
from small_models import Language, Vision
from stepwell import Recipe, RecipeError, Route
from stepwell.recipes import PRESETS

ADAMW = Recipe(routes=Route(rule="AdamW"))
MUON = Route(rule="Muon", select="role('hidden matrix')", hyper_parameters={"lr": 0.02})
REST = Route(rule="AdamW")


def warnings(model: nn.Module, recipe: Recipe | str, **arguments) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for doubt in stepwell.plan(model, recipe, **arguments).warnings:
        assert "\n" not in doubt.text
        found.setdefault(doubt.kind, []).append(str(doubt))
    return found


# torch's rate for SGD is below what is advised, and a plan says so.
@pytest.mark.parametrize("name", [name for name in PRESETS if PRESETS[name].layer_decay is None and name != "sgd"])
def test_a_preset_on_a_model_made_for_it_raises_no_doubts(name):
    model = Vision() if name == "resnet" else Language()
    assert warnings(model, name, horizon=10_000) == {}


class TestRoutes:
    def test_a_selector_that_matches_nothing(self):
        recipe = Recipe(routes=(Route(rule="Muon", name="hidden", select="role('convolution')"), REST))
        assert warnings(Language(), recipe) == {
            "unmatched": ["route 'hidden' takes nothing: no parameter is role('convolution')"]
        }

    def test_a_part_that_matches_nothing(self):
        recipe = Recipe(routes=(Route(rule="Lion", select="name('embed') | name('tail')"), REST))
        assert warnings(Language(), recipe) == {"unmatched": ["route 'lion': name('tail') matches no parameter"]}

    def test_a_selector_that_is_never_used(self):
        recipe = Recipe(routes=(Route(rule="Lion", select="ndim(2)"), MUON, REST))
        assert warnings(Language(), recipe)["unused"] == [
            "route 'muon' takes nothing: earlier routes take all that role('hidden matrix') matches"
        ]

    def test_a_selector_of_frozen_parameters(self):
        model = Language()
        model.embed.requires_grad_(False)
        recipe = Recipe(routes=(Route(rule="Lion", select="name('embed')"), REST))
        assert warnings(model, recipe) == {
            "unused": ["route 'lion' takes nothing: all that name('embed') matches is frozen"],
            "frozen": ["embed.weight (88 numbers) will not be trained: requires_grad=False"],
        }

    def test_a_last_route_for_the_rest_may_stay_empty(self):
        assert warnings(nn.Linear(2, 2, bias=False), Recipe(routes=(Route(rule="Lion", select="ndim(2)"), REST))) == {}


class TestTied:
    def test_a_route_asks_for_it_by_the_name_that_is_not_taken(self):
        recipe = Recipe(
            routes=(
                Route(rule="Lion", name="tables", select="role('embedding')"),
                Route(rule="SGD", name="output", select="name('head')", hyper_parameters={"lr": 0.5}),
                REST,
            )
        )
        assert warnings(Language(tied=True), recipe)["tied"] == [
            "'head.weight' is one tensor with 'embed.weight': route 'tables' takes it, and route 'output', which asks "
            "for it by name, does not get it"
        ]

    def test_a_route_that_shares_the_name_is_merely_later(self):
        recipe = Recipe(
            routes=(Route(rule="Lion", select="name('head')"), Route(rule="SGD", select="name('*.weight')"), REST)
        )
        assert "tied" not in warnings(Language(tied=True), recipe)
        recipe = Recipe(routes=(Route(rule="Lion", select="ndim(2)"), Route(rule="SGD", select="name('embed')"), REST))
        assert "tied" not in warnings(Language(tied=True), recipe)

    def test_a_route_that_would_not_take_it_anyway(self):
        recipe = Recipe(
            routes=(
                Route(rule="Lion", select="role('embedding')"),
                Route(rule="SGD", select="name('head') & ndim(1) | name('blocks')", hyper_parameters={"lr": 0.5}),
                REST,
            )
        )
        assert "tied" not in warnings(Language(tied=True), recipe)


class TestPlaces:
    def test_an_embedding_and_a_head_under_a_matrix_rule(self):
        recipe = Recipe(routes=(Route(rule="Muon", select="ndim(2)", hyper_parameters={"lr": 0.02}), REST))
        assert warnings(Language(), recipe) == {
            "matrix rule": [
                "embed.weight, head.weight under Muon: the rows of an embedding or head are apart, and its paper "
                "leaves them to a rule of elements; route them to AdamW"
            ]
        }

    def test_decay_on_a_norm_and_a_bias(self):
        recipe = ADAMW.set(weight_decay=0.1).replace(undecayed="role('scalar')")
        (doubt,) = warnings(Language(), recipe)["decay"]
        assert doubt == (
            "weight decay 0.1 on blocks.0.norm.weight, blocks.0.norm.bias, blocks.0.up.bias and 5 more: decay pulls "
            "gains and offsets to 0; leave `undecayed` as it is"
        )
        assert "decay" not in warnings(Language(), recipe.set(weight_decay=0.0))

    def test_frozen_parameters(self):
        model = Language()
        model.blocks.requires_grad_(False)
        (doubt,) = warnings(model, ADAMW)["frozen"]
        # A block: two norms of 8, up 8·16 + 16, down 16·8 + 8.
        assert doubt == (
            f"blocks.0.norm.weight, blocks.0.norm.bias, blocks.0.up.weight and 9 more ({2 * (16 + 144 + 136)} numbers) "
            "will not be trained: requires_grad=False"
        )


class TestRounding:
    """bfloat16 has 8 bits of mantissa: neighbours of w are about w/128 apart, and less than half of that is lost."""

    @pytest.mark.parametrize(
        ("dtype", "size", "lr", "lost"),
        [
            (torch.bfloat16, 1.0, 3e-3, True),  # 1/256 = 0.0039
            (torch.bfloat16, 1.0, 5e-3, False),
            (torch.float16, 1.0, 4e-4, True),  # 1/2048 = 0.00049
            (torch.float16, 1.0, 6e-4, False),
            (torch.float32, 1.0, 1e-4, False),
        ],
    )
    def test_steps_below_half_the_distance_to_the_next_number(self, dtype, size, lr, lost):
        model = nn.Linear(4, 4, bias=False, dtype=dtype)
        nn.init.constant_(model.weight, size)
        found = warnings(model, ADAMW.set(lr=lr))
        assert ("rounding" in found) == lost
        if lost:
            assert found["rounding"] == [
                f"weight are {str(dtype).removeprefix('torch.')}, and steps of {lr:.2g} round to nothing on weights of "
                "size 1; keep the weights in float32, or give master='float32'"
            ]

    @pytest.mark.parametrize(
        ("dtype", "master"),
        [
            (torch.bfloat16, "stochastic"),
            (torch.bfloat16, "kahan"),
            (torch.bfloat16, "compensated"),
            (torch.bfloat16, "float32"),
            (torch.float16, "float32"),
        ],
    )
    def test_a_master_keeps_what_would_be_lost(self, dtype, master):
        model = nn.Linear(4, 4, bias=False, dtype=dtype)
        nn.init.ones_(model.weight)
        small = ADAMW.set(lr=1e-4)
        assert "rounding" in warnings(model, small)
        assert "rounding" not in warnings(model, small.replace(master=master))
        assert "rounding" not in warnings(model, small.replace(routes=Route(rule="AdamW", master=master)))

    @pytest.mark.parametrize("name", ["Yogi", "SOAP", "Muon", "cautious(Lion)", "ScheduleFreeAdamW"])
    def test_every_rule_whose_steps_are_about_the_rate(self, name):
        model = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
        nn.init.ones_(model.weight)
        recipe = Recipe(routes=Route(rule=name))
        assert "rounding" in warnings(model, recipe.set(lr=1e-4))
        assert "rounding" not in warnings(model, recipe.set(lr=1e-2))

    def test_rules_whose_steps_are_as_large_as_gradients_may_be(self):
        model = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
        nn.init.ones_(model.weight)
        assert "rounding" not in warnings(model, Recipe(routes=Route(rule="SGD")).set(lr=1e-4))

    def test_without_data_the_size_is_that_of_most_initialisations(self):
        with torch.device("meta"):
            model = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
        # 0.02/256 = 7.8e-5
        assert "rounding" in warnings(model, ADAMW.set(lr=7e-5))
        assert "rounding" not in warnings(model, ADAMW.set(lr=8e-5))

    def test_it_is_the_highest_rate_that_counts(self):
        model = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
        nn.init.ones_(model.weight)
        halved = ADAMW.set(lr=5e-3).replace(schedules={"lr": "clamp(Constant(), high=0.5)"})
        assert "rounding" in warnings(model, halved)
        assert "rounding" not in warnings(model, ADAMW.set(lr=5e-3).replace(schedules={"lr": "cosine"}), horizon=10)

    def test_without_a_horizon_the_highest_rate_comes_after_the_longest_warm_up(self):
        model = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
        nn.init.ones_(model.weight)
        assert "rounding" not in warnings(model, ADAMW.set(lr=5e-3).replace(schedules={"lr": "Constant(warmup=9000)"}))

    def test_a_rule_whose_steps_are_not_of_the_size_of_the_rate(self):
        model = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
        assert "rounding" not in warnings(model, Recipe(routes=Route(rule="SGD", hyper_parameters={"lr": 0.05})))


class TestRates:
    @pytest.mark.parametrize(
        ("route", "doubt"),
        [
            (
                Route(rule="AdamW", hyper_parameters={"lr": 0.5}),
                "lr 0.5 is far from what is advised for AdamW: 0.0001 to 0.001 (lecture ",
            ),
            (Route(rule="AdamW", hyper_parameters={"lr": 1e-6}), "lr 1e-06 is far from what is advised for AdamW"),
            (Route(rule="AdamW", hyper_parameters={"lr": 1e-2}), None),
            (Route(rule="AdamW", hyper_parameters={"lr": 2e-5}), None),
            (Route(rule="SGD", hyper_parameters={"lr": 0.01}), None),
            (
                Route(rule="SGD", hyper_parameters={"lr": 5.0, "momentum": 0.9}),
                "lr 5 is far from what is advised for SGD: 0.01 to 0.1",
            ),
            (Route(rule="Lion", hyper_parameters={"lr": 0.01}), "lr 0.01 is far from what is advised for Lion"),
            (Route(rule="CAME", hyper_parameters={"lr": 100.0}), None),  # there is no advice
        ],
        ids=repr,
    )  # fmt: skip
    def test_far_from_what_is_advised(self, route, doubt):
        found = warnings(Language(), Recipe(routes=route)).get("rate", [])
        assert bool(found) == (doubt is not None)
        assert all(text.startswith(doubt) and text.endswith(")") for text in found)

    def test_muons_rate_depends_on_its_adjustment(self):
        """0.02 is Jordan's; with updates of AdamW's size the rate is AdamW's."""
        plain = Recipe(routes=(Route(rule="Muon", select="role('hidden matrix')", hyper_parameters={"lr": 1e-3}), REST))
        assert warnings(Language(), plain)["rate"] == [
            "lr 0.001 is far from what is advised for Muon: 0.02 (Jordan et al. 2024, Muon: 0.02 with "
            "adjust_lr_fn='original')"
        ]
        assert warnings(Language(), plain.set(adjust_lr_fn="match_rms_adamw")) == {}

    def test_it_is_the_rate_before_layer_decay(self, set_depths):
        set_depths(lambda name: 0 if name.startswith("embed") else 20)
        assert warnings(Language(), ADAMW.set(lr=1e-3).replace(layer_decay=0.5)) == {}


class TestHorizon:
    def test_a_warm_up_longer_than_the_run(self):
        assert warnings(Language(), "llama", horizon=500) == {
            "schedule": [
                "Cosine(warmup=2000, end=0.1) of lr cannot be laid over 500 steps: warmup must be at most the horizon "
                "of 500 steps, got 2000"
            ]
        }

    def test_a_horizon_that_is_needed_and_not_known(self):
        assert warnings(Language(), "adamw") == {
            "horizon": ["Cosine(warmup=0.1) of lr needs a horizon, the total number of optimizer steps"]
        }
        assert warnings(Language(), "t5-adafactor") == {}

    @pytest.mark.parametrize(
        ("horizon", "ends"),
        [
            (2000, "ends early, on a schedule that is not done"),
            (500, "goes on past the schedule's end"),
        ],
    )
    def test_a_loader_that_gives_another_number_of_steps(self, horizon, ends, monkeypatch):
        pytest.importorskip("stepwell.horizon")
        assert warnings(Language(), "adamw", horizon=horizon, loader=1000, epochs=1)["horizon"] == [
            f"the horizon is {horizon:,} steps, but the loader gives 1,000: training {ends}"
        ]
        assert warnings(Language(), "adamw", horizon=1000, loader=1000, epochs=1) == {}


def test_a_mistake_is_no_doubt():
    with pytest.raises(RecipeError):
        stepwell.plan(Language(), Recipe(routes=(Route(rule="Lion", select="name('tail')"), REST)))
