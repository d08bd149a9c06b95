"""Recipes: which rule, at which settings, for which role."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from stepwell.optimizer.describing import describe
from stepwell.recipes import PRESETS
from stepwell.routing import create_optimizer


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        nn.init.normal_(self.norm.bias)  # without it every input of `up` has mean 0, and its gradient a rank less
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Network(nn.Module):
    """Every role but custom matrix: convolution, embedding, hidden matrices, norms, biases, scalar, other, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.positions = nn.Parameter(torch.zeros(1, 5, 8))
        self.mix = nn.Conv1d(8, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.scale = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(8, 11, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.positions
        x = x + self.mix(x.mT).mT
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.scale


HIDDEN = [f"blocks.{block}.{name}.weight" for block in (0, 1) for name in ("up", "down")]
OTHER_DECAYED = ["embed.weight", "mix.weight", "head.weight"]
UNDECAYED = [
    "positions",
    "scale",
    "mix.bias",
    *(f"blocks.{block}.{name}" for block in (0, 1) for name in ("norm.weight", "norm.bias", "up.bias", "down.bias")),
]


def groups_of(optimizer: torch.optim.Optimizer) -> dict[str, dict]:
    return {group["name"]: group for group in optimizer.param_groups}


def names_of(group: dict) -> set[str]:
    return set(group["param_names"])


@pytest.fixture
def model() -> Network:
    torch.manual_seed(0)
    return Network()


class TestRecipes:
    @pytest.mark.parametrize("recipe", PRESETS)
    def test_every_parameter_has_exactly_one_group(self, recipe, model):
        held = [parameter for group in create_optimizer(model, recipe).param_groups for parameter in group["params"]]
        assert len(held) == len({id(parameter) for parameter in held})
        assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.parameters()}

    @pytest.mark.parametrize(
        ("recipe", "rule"),
        [
            ("adamw", "AdamW"),
            ("adam", "Adam"),
            ("sgd", "SGD"),
            ("lion", "Lion"),
            ("lamb", "LAMB"),
            ("schedule-free", "ScheduleFreeAdamW"),
            ("schedule-free-sgd", "ScheduleFreeSGD"),
        ],
    )
    def test_one_rule_in_two_groups(self, recipe, rule, model):
        groups = groups_of(create_optimizer(model, recipe, lr=0.5, weight_decay=0.25))
        decayed, undecayed = groups
        assert (decayed, undecayed) == (rule.lower(), f"{rule.lower()} undecayed")
        assert names_of(groups[decayed]) == {*HIDDEN, *OTHER_DECAYED}
        assert names_of(groups[undecayed]) == set(UNDECAYED)
        assert [group["rule"] for group in groups.values()] == [rule, rule]
        assert [group["lr"] for group in groups.values()] == [0.5, 0.5]
        assert [group["weight_decay"] for group in groups.values()] == [0.25, 0.0]

    def test_groups_say_what_they_hold_and_why(self, model):
        groups = groups_of(create_optimizer(model, "muon"))
        assert {name: group["role"] for name, group in groups.items()} == {
            "hidden": "hidden matrix",
            "adamw": "convolution, embedding, head",
            "adamw undecayed": "norm, bias, scalar, other",
        }
        assert {name: group["why"] for name, group in groups.items()} == {
            "hidden": "role('hidden matrix'); maps activations, so its update is orthogonalised",
            "adamw": "all the rest",
            "adamw undecayed": "all the rest; decay would only pull these to 0",
        }

    def test_groups_without_members_are_left_out(self):
        assert list(groups_of(create_optimizer(nn.Linear(2, 2, bias=False), "muon"))) == ["adamw"]

    @pytest.mark.parametrize("name", ["Schedule-Free", "schedule_free", "SCHEDULE-FREE"])
    def test_case_and_dashes_do_not_matter(self, name, model):
        assert create_optimizer(model, name).param_groups[0]["rule"] == "ScheduleFreeAdamW"

    @pytest.mark.parametrize("recipe", [name for name, each in PRESETS.items() if each.layer_decay is None])
    def test_values_are_those_of_the_preset(self, recipe, model):
        rules = {route.name: PRESETS[recipe].rule_of(route) for route in PRESETS[recipe].routes}
        for name, group in groups_of(create_optimizer(model, recipe)).items():
            rule = rules[name.split()[0]]
            assert group["lr"] == rule.lr
            assert group["weight_decay"] == (0 if "undecayed" in name else rule.weight_decay)


class TestMuon:
    def test_hidden_matrices_take_muon_and_the_rest_adamw(self, model):
        groups = groups_of(create_optimizer(model, "muon"))
        assert {name: group["rule"] for name, group in groups.items()} == {
            "hidden": "Muon",
            "adamw": "AdamW",
            "adamw undecayed": "AdamW",
        }
        assert names_of(groups["hidden"]) == set(HIDDEN)
        assert names_of(groups["adamw"]) == set(OTHER_DECAYED)
        assert names_of(groups["adamw undecayed"]) == set(UNDECAYED)

    def test_one_rate_and_one_decay_serve_both_rules(self, model):
        groups = groups_of(create_optimizer(model, "muon", lr=3e-4, weight_decay=0.05))
        assert {group["lr"] for group in groups.values()} == {3e-4}
        assert [group["weight_decay"] for group in groups.values()] == [0.05, 0.05, 0.0]
        assert groups["hidden"]["adjust_lr_fn"] == "match_rms_adamw"

    def test_each_rule_can_be_set_alone(self, model):
        groups = groups_of(
            create_optimizer(
                model,
                "muon",
                lr=0.02,
                adamw_lr=3e-4,
                adamw_weight_decay=0.01,
                muon_eps=1e-6,
                adjust_lr_fn="original",
                betas=(0.8, 0.95),
            )
        )
        assert [group["lr"] for group in groups.values()] == [0.02, 3e-4, 3e-4]
        assert [group["weight_decay"] for group in groups.values()] == [0.1, 0.01, 0.0]
        assert [group["eps"] for group in groups.values()] == [1e-6, 1e-8, 1e-8]
        assert groups["hidden"]["adjust_lr_fn"] == "original"
        assert groups["adamw"]["betas"] == groups["adamw undecayed"]["betas"] == (0.8, 0.95)

    def test_a_shared_name_goes_to_every_rule_that_has_it_and_a_prefixed_one_wins(self, model):
        groups = groups_of(create_optimizer(model, "muon", adamw_eps=1e-5, eps=1e-6))
        assert [group["eps"] for group in groups.values()] == [1e-6, 1e-5, 1e-5]

    def test_roles_can_be_corrected(self, model):
        groups = groups_of(create_optimizer(model, "muon", roles={"head": "hidden matrix", "blocks.0.up": "head"}))
        assert "head.weight" in names_of(groups["hidden"])
        assert "blocks.0.up.weight" in names_of(groups["adamw"])
        assert "blocks.0.up.bias" in names_of(groups["adamw undecayed"])

    def test_first_step_moves_each_group_as_its_rule_says(self, model):
        """AdamW's first step is lr·sign(g). Muon's has all singular values near 0.2·√max(rows, cols)·lr.

        (1 − 0.1·lr) of each decayed weight is what the step starts from; undecayed ones start from themselves.
        """
        lr = 1e-2
        optimizer = create_optimizer(model, "muon", lr=lr, weight_decay=0.1)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        tokens = torch.randint(0, 11, (4, 5))
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            start = before[name] * (1 if name in UNDECAYED else 1 - 0.1 * lr)
            moved = start - parameter.detach()
            if name in HIDDEN:
                singular = torch.linalg.svdvals(moved) / (lr * 0.2 * 16**0.5)
                assert ((singular > 0.5) & (singular < 1.5)).all(), (name, singular)
            else:
                large = parameter.grad.abs() > 1e-5
                assert large.any()
                torch.testing.assert_close(moved[large], lr * parameter.grad.sign()[large], rtol=1e-2, atol=1e-5)


class TestFrozenAndTied:
    def test_frozen_parameters_are_left_out_and_unchanged(self, model):
        model.embed.requires_grad_(False)
        before = model.embed.weight.clone()
        optimizer = create_optimizer(model, "adamw", lr=0.1)
        assert "embed.weight" not in names_of(groups_of(optimizer)["adamw"])
        model(torch.zeros(1, 5, dtype=torch.long)).sum().backward()
        optimizer.step()
        assert torch.equal(model.embed.weight, before)
        assert not model.embed.weight.requires_grad
        description = describe(optimizer, model)
        assert (description.frozen.tensors, description.frozen.parameters) == (1, 88)
        assert description.total.tensors == len(list(model.parameters())) - 1

    def test_tied_parameters_are_held_once_and_never_by_muon(self, model):
        model.head.weight = model.embed.weight
        groups = groups_of(create_optimizer(model, "muon"))
        assert names_of(groups["adamw"]) == {"embed.weight", "mix.weight"}


def test_a_checkpoint_holds_plain_values_and_comes_back(model):
    optimizer = create_optimizer(model, "muon", lr=0.25)
    model(torch.zeros(1, 5, dtype=torch.long)).sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = create_optimizer(model, "muon", lr=0.5)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert str(describe(again)) == str(describe(optimizer))
    assert [group["lr"] for group in again.param_groups] == [0.25, 0.25, 0.25]


class TestOptions:
    def test_options_reach_the_optimizer(self, model):
        """SGD moves by lr·g, and clipping to norm 1 makes the whole move as long as lr."""
        optimizer = create_optimizer(model, "sgd", lr=1.0, clip_norm=1.0, engine="reference", on_nonfinite="raise")
        before = nn.utils.parameters_to_vector(model.parameters()).clone()
        (1e3 * model(torch.zeros(1, 5, dtype=torch.long))).sum().backward()
        optimizer.step()
        moved = nn.utils.parameters_to_vector(model.parameters()) - before
        assert float(moved.detach().norm()) == pytest.approx(1, rel=1e-4)

    def test_hyper_parameters_reach_the_rule(self, model):
        optimizer = create_optimizer(model, "sgd", lr=0.1, momentum=0.9, nesterov=True, decay="decoupled")
        assert all(
            (group["momentum"], group["nesterov"], group["decay"]) == (0.9, True, "decoupled")
            for group in optimizer.param_groups
        )

    def test_fields_of_the_recipe(self, model):
        groups = groups_of(create_optimizer(model, "adamw", lr=0.1, undecayed="role('norm')", layer_decay=0.5))
        assert [groups[f"adamw depth {depth}"]["lr"] for depth in range(4)] == [0.0125, 0.025, 0.05, 0.1]
        decayed = [name for group in groups.values() if group["weight_decay"] for name in group["param_names"]]
        assert {"scale", "mix.bias"} <= set(decayed)
        assert not any("norm" in name for name in decayed)


class TestNames:
    def test_a_rule_stands_alone(self, model):
        groups = create_optimizer(model, "prodigy", d_coef=0.5).param_groups
        assert {(group["rule"], group["d_coef"]) for group in groups} == {("Prodigy", 0.5)}

    def test_a_file_is_read(self, model, tmp_path):
        path = tmp_path / "recipe.toml"
        PRESETS["muon"].set(lr=0.007).save(path)
        groups = create_optimizer(model, str(path)).param_groups
        assert {(group["rule"], group["lr"]) for group in groups} == {("Muon", 0.007), ("AdamW", 0.007)}


class TestMistakes:
    @pytest.mark.parametrize(
        ("recipe", "settings", "kind", "message"),
        [
            (
                "munon",
                {},
                ValueError,
                f"unknown recipe 'munon' (did you mean 'muon'?); recipes are {', '.join(PRESETS)}, every rule of "
                "stepwell.list_optimizers(), and files that end in .toml or .json",
            ),
            (
                5,
                {},
                TypeError,
                "recipe must be a stepwell.Recipe, or the name of a preset, a rule or a file, got 5",
            ),
            ("lion", {"beta": 0.9}, TypeError, "unknown hyper-parameter 'beta' for Lion (did you mean 'betas'?)"),
            (
                "muon",
                {"momentun": 0.9},
                TypeError,
                "unknown hyper-parameter 'momentun' for Muon and AdamW (did you mean 'momentum'?)",
            ),
            (
                "muon",
                {"adamw_beta": 0.9},
                TypeError,
                "unknown hyper-parameter 'adamw_beta' for Muon and AdamW (did you mean 'adamw_betas'?)",
            ),
            ("adamw", {"lr": -1.0}, ValueError, "recipe 'adamw': defaults, for AdamW: lr must be at least 0, got -1.0"),
            (
                "adamw",
                {"depths": {"head": 3}},
                TypeError,
                "unknown hyper-parameter 'depths' for AdamW; recipe.replace(depths=…) sets it, of a recipe such as "
                "stepwell.Recipe.preset('adamw')",
            ),
            (
                "adamw",
                {"schedules": {"lr": "Cosine()"}},
                TypeError,
                "create_optimizer takes no schedules; stepwell.create_scheduler makes one for its optimizer",
            ),
            ("adamw", {"roles": {"embed": "emedding"}}, ValueError, None),
            ("adamw", {"engine": "turbo"}, ValueError, None),
        ],
        ids=[
            "recipe",
            "no recipe",
            "one rule",
            "two rules",
            "prefixed",
            "range",
            "field",
            "schedules",
            "role",
            "engine",
        ],
    )
    def test_mistakes_are_named(self, recipe, settings, kind, message, model):
        with pytest.raises(kind) as error:
            create_optimizer(model, recipe, **settings)
        assert message is None or str(error.value) == message
        assert "\n" not in str(error.value)

    def test_models_with_nothing_to_train(self, model):
        with pytest.raises(ValueError) as error:
            create_optimizer(model.requires_grad_(False))
        assert str(error.value) == "Network has no parameters to train: all 18 are frozen (requires_grad=False)"
        with pytest.raises(ValueError) as error:
            create_optimizer(nn.ReLU())
        assert str(error.value) == "ReLU has no parameters to train: it has none at all"

    def test_what_is_no_module(self, model):
        with pytest.raises(TypeError) as error:
            create_optimizer(list(model.parameters()))  # type: ignore[arg-type]
        assert str(error.value) == (
            "create_optimizer takes a torch.nn.Module, got list; stepwell.Optimizer and its siblings take parameters"
        )
