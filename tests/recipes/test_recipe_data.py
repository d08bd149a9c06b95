"""Recipes as dicts, TOML, JSON and files, and the hash of what decides a training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

import stepwell
from recipes.drawn import FUNCTIONS, recipes
from stepwell import Recipe, RecipeError, Route, select
from stepwell.recipes import PRESETS, named
from stepwell.schedules import Cosine

MINE = """\
version = 1
name = "mine"
layer_decay = 0.75
undecayed = "ndim(at_most=1)"

[defaults]
lr = 0.001
betas = [0.9, 0.95]

[schedules]
lr = "Cosine(warmup=0.1)"

[stages]
clip_norm = 1.0

[depths]
"head" = 3

[[routes]]
name = "hidden"
select = "role('hidden matrix') & ~name('*.router.*')"
rule = "Muon"
set = { momentum = 0.9, adjust_lr_fn = "none" }
why = "maps activations"

[[routes]]
rule = "AdamW"
"""


def mine() -> Recipe:
    return Recipe(
        name="mine",
        layer_decay=0.75,
        undecayed=select.ndim(at_most=1),
        defaults={"lr": 1e-3, "betas": (0.9, 0.95)},
        schedules={"lr": Cosine(warmup=0.1)},
        clip_norm=1.0,
        depths={"head": 3},
        routes=(
            Route(
                rule="Muon",
                name="hidden",
                select=select.role("hidden matrix") & ~select.name("*.router.*"),
                hyper_parameters={"momentum": 0.9, "adjust_lr_fn": None},
                why="maps activations",
            ),
            Route(rule="AdamW"),
        ),
    )


class TestRoundTrip:
    @given(recipes())
    def test_there_and_back_is_the_same(self, recipe):
        assert Recipe.from_toml(recipe.to_toml(), functions=FUNCTIONS) == recipe
        assert Recipe.from_json(recipe.to_json(), functions=FUNCTIONS) == recipe
        assert Recipe.from_dict(recipe.to_dict(), functions=FUNCTIONS) == recipe
        assert Recipe.from_toml(recipe.to_toml(), functions=FUNCTIONS).hash == recipe.hash

    @pytest.mark.parametrize("name", PRESETS)
    def test_presets(self, name):
        assert Recipe.from_toml(PRESETS[name].to_toml()) == PRESETS[name]

    def test_what_it_looks_like(self):
        assert Recipe.from_toml(MINE) == mine()
        assert mine().to_toml() == MINE.replace('"head"', "head")

    def test_a_route_may_need_what_stands_among_the_defaults(self):
        recipe = Recipe(routes=(Route(rule="SGD", hyper_parameters={"nesterov": True}),), defaults={"momentum": 0.9})
        assert Recipe.from_toml(recipe.to_toml()) == recipe

    def test_a_schedule_may_be_a_table(self):
        text = 'routes = [{rule = "AdamW"}]\n[schedules]\nlr = {kind = "Cosine", warmup = 0.1}\n'
        assert Recipe.from_toml(text).schedules == {"lr": Cosine(warmup=0.1)}


class TestFiles:
    @pytest.mark.parametrize("name", ["mine.toml", "mine.json"])
    def test_saved_and_loaded(self, tmp_path, name):
        mine().save(tmp_path / name)
        assert Recipe.load(tmp_path / name) == mine()
        assert Recipe.load(str(tmp_path / name)) == mine()

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("nowhere.toml", None, "cannot be read: No such file or directory"),
            ("mine.yaml", b"", "a recipe's file ends in .toml or .json"),
            ("mine.toml", b"\xff", "is not text: invalid start byte at byte 0"),
            ("mine.toml", b"[routes", "no TOML: Expected ']' at the end of a table declaration (at line 1, column 8)"),
            ("mine.json", b'{"routes": [}', "no JSON: Expecting value (at line 1, column 13)"),
            ("mine.json", b"[" * 100_000, "no recipe is nested that deep"),
        ],
    )
    def test_files_that_cannot_be_read(self, tmp_path, name, content, message):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(RecipeError) as error:
            Recipe.load(path)
        assert str(error.value).startswith(f"{path}: {message}")
        assert "\n" not in str(error.value)

    def test_a_file_of_another_kind_is_not_written(self, tmp_path):
        with pytest.raises(ValueError, match=r"^a recipe's file ends in \.toml or \.json, got '.*mine\.yaml'$"):
            mine().save(tmp_path / "mine.yaml")


class TestNamed:
    """What every function and command takes for a recipe."""

    def test_a_preset_a_rule_a_file_and_a_recipe(self, tmp_path):
        path = tmp_path / "recipe.toml"
        mine().save(path)
        assert named("Schedule_Free") == PRESETS["schedule-free"]
        assert named("prodigy") == Recipe(name="Prodigy", routes=(Route(rule="Prodigy"),))
        assert named("cautious(adan)").routes == (Route(rule="cautious(Adan)"),)
        assert named(str(path)) == named(mine()) == mine()

    def test_a_preset_wins_over_a_rule_of_the_same_name(self):
        assert named("AdamW") == PRESETS["adamw"]

    @pytest.mark.parametrize(
        ("given", "kind", "message"),
        [
            ("prodgy", ValueError, "unknown recipe 'prodgy' (did you mean 'Prodigy'?); recipes are adamw, "),
            ("lama", ValueError, "unknown recipe 'lama' (did you mean 'llama'?); recipes are adamw, "),
            ("cautios(AdamW)", ValueError, "unknown wrapper 'cautios' (did you mean 'cautious'?)"),
            ("cautious(Prodgy)", ValueError, "unknown rule 'Prodgy' (did you mean 'Prodigy'?)"),
            ("absent.toml", RecipeError, "absent.toml: cannot be read: No such file or directory"),
            (None, TypeError, "recipe must be a stepwell.Recipe, or the name of a preset, a rule or a file, got None"),
        ],
    )
    def test_what_is_none(self, given, kind, message):
        with pytest.raises(kind) as error:
            named(given)
        assert str(error.value).startswith(message)


def mistakes_in(text: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as error:
        Recipe.from_toml(text)
    assert all("\n" not in mistake for mistake in error.value.mistakes)
    return error.value.mistakes


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "mistake"),
        [
            ("a = 1\nb = = 2\n", "no TOML: Invalid value (at line 2, column 5)"),
            (
                "version = 2\nwhat_is_new = true\n",
                "it is written in format 2, this stepwell reads up to 1; a newer stepwell reads it",
            ),
            ("version = 0\nroutes = [{rule = 'AdamW'}]", "version must be a whole number from 1 to 1, got 0"),
            ("version = '1'\nroutes = [{rule = 'AdamW'}]", "version must be a whole number from 1 to 1, got '1'"),
            ("", "a recipe needs at least one route, such as Route(rule='AdamW')"),
            ("routes = 1", None),
            ("routes = [1]", "routes[0]: a route must be a table with a rule, got 1"),
            ("routes = [{name = 'a'}]", "routes[0]: it has no rule, such as rule = 'AdamW'"),
            ("nmae = 'x'\nroutes = [{rule = 'AdamW'}]", "unknown key 'nmae' (did you mean 'name'?)"),
            (
                "clip_nrom = 1.0\nroutes = [{rule = 'AdamW'}]",
                "unknown key 'clip_nrom' (did you mean 'clip_norm' under [stages]?)",
            ),
            ("routes = [{rule = 'AdamW', slect = ''}]", "routes[0]: unknown key 'slect' (did you mean 'select'?)"),
            (
                "stages = {clip = 1.0}\nroutes = [{rule = 'AdamW'}]",
                "stages: unknown key 'clip' (did you mean 'clip_norm'?)",
            ),
            (
                "stages = {x = 1.0}\nroutes = [{rule = 'AdamW'}]",
                "stages: unknown key 'x'; keys are clip_norm, on_nonfinite, cautious",
            ),
            (
                "stages = 1\nroutes = [{rule = 'AdamW'}]",
                "stages must be a table of clip_norm, on_nonfinite, cautious, got 1",
            ),
            (
                "state_dtype = '8bits'\nroutes = [{rule = 'AdamW'}]",
                "state_dtype must be one of 'float32', 'bfloat16', '8bit', '4bit', got '8bits' (did you mean '8bit'?)",
            ),
            (
                "routes = [{rule = 'AdamW', master = 'khan'}]",
                "routes[0]: master must be one of 'stochastic', 'kahan', 'compensated', 'compensated8', 'float32', got "
                "'khan' (did you mean 'kahan'?)",
            ),
            ("state_type = 1\nroutes = [{rule = 'AdamW'}]", "unknown key 'state_type' (did you mean 'state_dtype'?)"),
            ("schedules = 1\nroutes = [{rule = 'AdamW'}]", "schedules must map names to values, got 1"),
            (
                "routes = [{rule = 'AdamW', set = {clip_exp = 'none'}}]",
                "routes[0]: unknown hyper-parameter 'clip_exp' for AdamW; it takes lr, betas, eps, weight_decay, "
                "amsgrad, decay, correct_bias, maximize",
            ),
            ("routes = [{rule = 'AdamW', set = {lr = 'none'}}]", None),
        ],
        ids=lambda text: str(text)[:40],
    )  # fmt: skip
    def test_one(self, text, mistake):
        found = mistakes_in(text)
        assert mistake is None or found == (mistake,)

    def test_all_at_once(self):
        found = mistakes_in("""
            clip_norm = 1.0
            layer_decay = nan

            [defaults]
            lr = -1.0
            momentum = 0.9

            [schedules]
            lr = "Cosine(warmpu=0.1)"

            [[routes]]
            rule = "Moun"
            select = "role('hidden matrix')"

            [[routes]]
            rule = "AdamW"
            select = "role(norm)"
            set = { betas = [0.9, nan], eps = 0.1 }

            [[routes]]
            rule = "Lion"
        """)
        assert [mistake.partition(";")[0].partition(" (did")[0] for mistake in found] == [
            "unknown key 'clip_norm'",
            "schedules.lr: unknown argument 'warmpu' for Cosine",
            "routes[0]: rule: unknown rule 'Moun'",
            "routes[1]: select: role(norm): norm is neither a text nor a number",
            "routes[1]: betas[1] must be in [0, 1), got nan",
            "layer_decay must be in (0, 1), got nan",
            # `momentum` may be what the first route's rule has, once that is spelt right.
            "defaults, for AdamW and Lion: lr must be at least 0, got -1.0",
        ]

    def test_what_is_no_matter_of_rules_is_checked_where_none_can_be_read(self):
        found = mistakes_in("layer_decay = 2.0\ndefaults = {momentum = 0.9}\nroutes = [{rule = 'Moun'}]\n")
        assert [mistake.partition(";")[0].partition(" (did")[0] for mistake in found] == [
            "routes[0]: rule: unknown rule 'Moun'",
            "layer_decay must be in (0, 1), got 2.0",
        ]

    def test_the_recipe_is_called_by_its_name(self):
        with pytest.raises(RecipeError, match=r"^recipe 'mine': layer_decay must be in \(0, 1\), got 2\.0$"):
            Recipe.from_dict({"name": "mine", "layer_decay": 2.0, "routes": [{"rule": "AdamW"}]})

    def test_what_is_no_table(self):
        with pytest.raises(RecipeError, match=r"^this recipe: a recipe must be a table with routes, got \[1\]$"):
            Recipe.from_json("[1]")


class TestHash:
    def test_it_is_short(self):
        assert len(mine().hash) == 12
        int(mine().hash, 16)

    @pytest.mark.parametrize(
        "same",
        [
            mine().replace(name="another", source="somewhere", engine="reference"),
            mine().replace(
                routes=(Route(**{**mine().routes[0].arguments(), "why": "", "name": "h"}), mine().routes[1])
            ),
            mine()
            .set(weight_decay=0.1)
            .replace(routes=(mine().routes[0], Route(rule="AdamW", hyper_parameters={"weight_decay": 0.01}))),
            mine().replace(defaults={"betas": (0.9, 0.95)}),  # 1e-3 is what both rules have
        ],
        ids=["names", "reasons", "written out", "defaults"],
    )
    def test_recipes_that_train_alike(self, same):
        assert same != mine()
        assert same.hash == mine().hash

    @pytest.mark.parametrize(
        "other",
        [
            mine().set(lr=2e-3),
            mine().replace(clip_norm=2.0),
            mine().replace(on_nonfinite="skip"),
            mine().replace(cautious=True),
            mine().replace(state_dtype="8bit"),
            mine().replace(master="stochastic"),
            mine().replace(layer_decay=None),
            mine().replace(undecayed="ndim(0)"),
            mine().replace(depths={"head": 4}),
            mine().replace(roles={"head": "head"}),
            mine().replace(schedules={}),
            mine().replace(routes=mine().routes[::-1]),
        ],
    )
    def test_recipes_that_do_not(self, other):
        assert other.hash != mine().hash

    def test_the_order_of_a_table_does_not_count(self):
        other = mine().replace(defaults={"betas": (0.9, 0.95), "lr": 1e-3})
        assert other == mine()
        assert other.hash == mine().hash

    def test_the_order_of_overrides_counts(self):
        one = mine().replace(roles={"a": "head", "*": "embedding"})
        other = mine().replace(roles={"*": "embedding", "a": "head"})
        assert one != other
        assert one.hash != other.hash

    @pytest.mark.parametrize("seed", ["0", "4711"])
    def test_it_is_the_same_in_every_process(self, seed):
        code = "import stepwell, sys; print(stepwell.Recipe.from_json(sys.stdin.read()).hash)"
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(stepwell.__file__).parent.parent)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(mine().to_dict()),
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == mine().hash


@pytest.mark.parametrize("field", ["lr", "weight_decay", "eps"])
@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_a_number_beyond_floats_is_refused_in_a_line(field, number):
    with pytest.raises(RecipeError, match=rf"{field} must be .*, got -?10000"):
        Recipe.from_toml(f"version = 1\n[[routes]]\nrule = 'AdamW'\nset = {{ {field} = {number} }}\n")


def test_a_byte_order_mark_is_no_mistake():
    text = PRESETS["adamw"].to_toml()
    assert Recipe.from_toml(f"\ufeff{text}") == Recipe.from_toml(text)
